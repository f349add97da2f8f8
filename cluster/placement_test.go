package cluster

import (
	"fmt"
	"testing"
)

func membersNamed(n int) []Member {
	list := make([]Member, n)
	for i := range list {
		name := fmt.Sprintf("troupe-%d", i+1)
		list[i] = Member{ID: "run-of-" + name, Name: name}
	}
	return list
}

func TestPlacementIsBalanced(t *testing.T) {
	for n := 2; n <= 64; n++ {
		most := 0.0
		for _, share := range newPlacement(membersNamed(n), "").shares() {
			most = max(most, share*float64(n))
		}
		if most > 1.1 {
			t.Errorf("%d members: one has %.3f times its share", n, most)
		}
	}
}

// The newcomer's 1/n is so by chance, and what full members had passed on comes
// back to them when they have room again: together no more than 1.5 % above.
func TestPlacementMovesLittle(t *testing.T) {
	for n := 1; n < 64; n++ {
		before, after := newPlacement(membersNamed(n), ""), newPlacement(membersNamed(n+1), "")
		moved := 0
		for i := range partitions {
			if before.members[before.owners[i]].Name != after.members[after.owners[i]].Name {
				moved++
			}
		}
		if part := float64(moved) / partitions; part > 1/float64(n+1)+0.015 {
			t.Errorf("%d to %d members, and back: %.4f moved", n, n+1, part)
		}
	}
}

func TestPlacementIsTheSameOnEveryNode(t *testing.T) {
	members := membersNamed(5)
	a := newPlacement(members, members[0].ID)
	restarted := []Member{members[4], members[2], members[0], members[3], members[1]}
	restarted[1].ID, restarted[1].Address = "another run", "192.0.2.1:7072"
	b := newPlacement(restarted, members[4].ID)
	if a.owners != b.owners {
		t.Error("it depends on the order of the members, or on more than their names")
	}
	if a.self != 0 || b.self != 4 {
		t.Errorf("self is %d and %d, want 0 and 4", a.self, b.self)
	}
}

// Names and addresses that differ in their last byte must not get neighbouring
// values.
func TestHashSpreads(t *testing.T) {
	k := newKind(nil, Kind{Name: "session"})
	for _, pattern := range []string{"127.0.0.1:%d", "user-%d", "%d"} {
		var counts [16]int
		const many = 16_000
		for i := range many {
			counts[partitionOf(k.hash(fmt.Sprintf(pattern, i)))/(partitions/16)]++
		}
		for part, c := range counts {
			if c < many/16*8/10 || c > many/16*12/10 {
				t.Errorf("%s: part %d has %d of %d", pattern, part, c, many)
			}
		}
	}
}

func TestKindsArePlacedApart(t *testing.T) {
	a, b := newKind(nil, Kind{Name: "session"}), newKind(nil, Kind{Name: "inbox"})
	same := 0
	for i := range 1000 {
		id := fmt.Sprintf("user-%d", i)
		if partitionOf(a.hash(id)) == partitionOf(b.hash(id)) {
			same++
		}
	}
	if same > 10 {
		t.Errorf("%d of 1000 users have both in one partition", same)
	}
}

func TestNobodyOwnsWithoutMembers(t *testing.T) {
	p := newPlacement(nil, "x")
	if _, ok := p.owner(1); ok || p.owns(1) {
		t.Error("an empty cluster owns")
	}
}

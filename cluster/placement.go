package cluster

import (
	"cmp"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// partitions is how many parts the hash space has. It is the same on every
// node and in every version: changing it moves nearly every identity.
const partitions = 1 << partitionBits

const partitionBits = 12

// placement says which member owns which partition, for one set of members.
// Every node computes the same one from the same names. Immutable.
type placement struct {
	members []Member // by name
	owners  [partitions]uint16
	self    int // index of this node, or -1
}

// newPlacement places the partitions on members by rendezvous over their
// names: each goes to the member that scores highest on it. A member that is
// full, at 1.1 times its share, is passed over: with 64 members chance alone
// would give some of them 1.3 times theirs.
func newPlacement(members []Member, self string) *placement {
	p := &placement{members: slices.Clone(members)}
	slices.SortFunc(p.members, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	p.self = slices.IndexFunc(p.members, func(m Member) bool { return m.ID == self })
	if len(members) > 0 {
		p.assign()
	}
	return p
}

func (p *placement) assign() {
	seeds := make([]uint64, len(p.members))
	for i, m := range p.members {
		seeds[i] = finalise(xxhash.Sum64String(m.Name))
	}
	loads := make([]int, len(p.members))
	full := fullLoad(len(p.members))
	for part := range p.owners {
		owner := highest(seeds, loads, full, uint64(part))
		p.owners[part] = uint16(owner)
		loads[owner]++
	}
}

// fullLoad is the most partitions that one of n members takes.
func fullLoad(n int) int {
	return max(partitions*11/(10*n), (partitions+n-1)/n)
}

func highest(seeds []uint64, loads []int, full int, part uint64) int {
	best, top := -1, uint64(0)
	for i, seed := range seeds {
		if loads[i] >= full {
			continue
		}
		if score := finalise(seed ^ finalise(part+1)); best < 0 || score > top {
			best, top = i, score
		}
	}
	return best
}

// owns reports whether this node owns the identity with the hash h.
func (p *placement) owns(h uint64) bool {
	return p.self >= 0 && int(p.owners[partitionOf(h)]) == p.self
}

// owner returns the member that owns the identity with the hash h, or false
// where there is no member.
func (p *placement) owner(h uint64) (Member, bool) {
	if len(p.members) == 0 {
		return Member{}, false
	}
	return p.members[p.owners[partitionOf(h)]], true
}

// named returns the member called name.
func (p *placement) named(name string) (Member, bool) {
	i := slices.IndexFunc(p.members, func(m Member) bool { return m.Name == name })
	if i < 0 {
		return Member{}, false
	}
	return p.members[i], true
}

// shares returns each member's part of the hash space, as a fraction of 1.
func (p *placement) shares() []float64 {
	shares := make([]float64, len(p.members))
	if len(shares) == 0 {
		return shares
	}
	for _, owner := range p.owners {
		shares[owner] += 1.0 / partitions
	}
	return shares
}

func partitionOf(h uint64) int { return int(h >> (64 - partitionBits)) }

// finalise spreads every bit of h over all of them. Without it, names that
// differ in their last byte get neighbouring values.
func finalise(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

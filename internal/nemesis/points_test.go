//go:build linux

package nemesis

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/troupe-chat/troupe/actors"
	"github.com/troupe-chat/troupe/messages"
)

// points are all places where a process can end between two steps, and how
// often traffic comes there at most before it does.
var points = []struct {
	name string
	most int
}{
	{string(actors.BeforeAppend), 60},
	{string(actors.AfterAppend), 60},
	{string(actors.MidFanOut), 120},
	{string(actors.BeforeAnswer), 60},
	{string(actors.BeforeCursor), 60},
	{string(actors.MidDrain), 40},
	{string(actors.HandOver), 3},
	{beforeChange, 8},
	{afterChange, 8},
}

// Promises 1 to 5 at every point where a process can end: the traffic is first
// messages of new conversations, changes of members, and retries.
func TestEndedAtEachPoint(t *testing.T) {
	for _, p := range points {
		t.Run(p.name, func(t *testing.T) {
			r := newRun(t, t.TempDir(), false)
			r.strangers(16)
			r.begin()
			for range pointRounds {
				check(t, r.server.Kill())
				r.config.Point, r.config.Nth = p.name, 1+r.rng.IntN(p.most)
				r.launch()
				r.crashed()
				r.config.Point = ""
				r.start()
				r.acknowledged(50)
			}
			r.sound(pointRounds)
		})
	}
}

// crashed waits until the process has ended at its point.
func (r *run) crashed() {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, time.Minute)
	defer cancel()
	if code := must(r.server.Wait(ctx))(r); code != crashed {
		r.Fatalf("the process ended with %d, not at %s%s", code, r.config.Point, r.server.LastWords())
	}
}

// strangers fills the crowd with users who write to whomever they have not
// written to yet, and now and then to one of some groups, whose owners add and
// remove members all the time.
func (r *run) strangers(n int) {
	const groups = 2
	var talks []messages.ConversationID
	var orders []func()
	for i := range groups {
		owner, id := user(i), messages.ClientID(fmt.Sprint("g", i))
		group := r.crowd.Group(owner, id)
		talks = append(talks, group)
		d := r.crowd.Add(owner, messages.DeviceID(owner+"-1"), false, changes(group, user(n-1-i)))
		orders = append(orders, func() { d.Order(createGroup(id, names(n))) })
	}
	for i := groups; i < n; i++ {
		u := user(i)
		r.crowd.Add(u, messages.DeviceID(u+"-1"), i%5 == 0, firsts(i, n, talks))
	}
	r.first = func() {
		for _, order := range orders {
			order()
		}
	}
}

func names(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = string(user(i))
	}
	return all
}

// firsts writes to every other user in turn, from the next on, and to groups.
func firsts(i, n int, groups []messages.ConversationID) Plan {
	next := i
	return func(rng *rand.Rand) *messages.ClientFrame {
		if rng.IntN(3) == 0 {
			return Text(groups[rng.IntN(len(groups))], body(rng))
		}
		if next++; next%n == i {
			next++
		}
		return Text(messages.Direct(user(i), user(next%n)), body(rng))
	}
}

// changes writes to a group and removes and adds one of its members.
func changes(group messages.ConversationID, member messages.UserID) Plan {
	removed := false
	return func(rng *rand.Rand) *messages.ClientFrame {
		if rng.IntN(2) == 0 {
			return Text(group, body(rng))
		}
		change := &messages.ChangeGroup{Conversation: string(group)}
		if removed {
			change.Add = []string{string(member)}
		} else {
			change.Remove = []string{string(member)}
		}
		removed = !removed
		return &messages.ClientFrame{Command: &messages.ClientFrame_ChangeGroup{ChangeGroup: change}}
	}
}

package node_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/troupe-chat/troupe/cmd/troupe/node"
	"github.com/troupe-chat/troupe/internal/world"
	"github.com/troupe-chat/troupe/messages"
)

func isCaughtUp(f *messages.ServerFrame) bool { return f.GetCaughtUp() != nil }

func at(conversation string, seq uint64) *messages.Position {
	return &messages.Position{Conversation: conversation, Seq: seq}
}

// One device comes and goes a hundred times while entries arrive. On every
// connection they come ascending and without a gap, what had been stored as
// acknowledged before is never repeated, and in the end all is there.
func TestReconnectsRacingTraffic(t *testing.T) {
	const sends, reconnects = 3000, 100
	w := world.Start(t)
	w.Users("ana", "bo")
	var resume messages.Seq // what hello presents; 0: nothing
	bo := w.Connect(world.Device{User: "bo", Name: "phone", Hello: func(h *messages.Hello) {
		if resume > 0 {
			h.Positions = []*messages.Position{at(anaBo, uint64(resume))}
		}
	}})
	ana := w.As("ana")
	var traffic sync.WaitGroup
	traffic.Go(func() { ana.SaysMany("bo", "m", sends) })
	for i := range reconnects {
		bo.Count(i * sends / reconnects)
		stored := w.Stored("bo", "phone", anaBo)
		if entries := bo.Entries(); i%3 == 0 && len(entries) > 0 {
			resume = messages.Seq(entries[len(entries)-1].Seq)
		}
		stored = max(stored, resume)
		bo.Reconnect()
		resume = 0
		bo.Count(bo.Counted() + 1)
		if first := messages.Seq(bo.Entries()[0].Seq); first <= stored {
			t.Fatalf("reconnect %d: %d came again, and %d was stored", i, first, stored)
		}
	}
	traffic.Wait()
	bo.Sees(fmt.Sprintf("m %d", sends-1))
	w.Judge()
}

// A device that was away gets everything: in frames of at most 50, in order in
// each conversation, all of it marked as backlog, and then caught_up.
func TestABacklogDrains(t *testing.T) {
	const conversations, each = 20, 500
	w := world.Start(t)
	w.Users("bo")
	authors := w.Names("ana", conversations)
	var writing sync.WaitGroup
	for _, a := range authors {
		c := w.Connect(world.Device{User: a, Name: "phone", Quiet: true})
		writing.Go(func() { c.SaysMany("bo", "m", each) })
	}
	writing.Wait()
	bo := w.Connect(world.Device{User: "bo", Name: "phone"})
	bo.Await("caught_up", isCaughtUp)
	got := map[string]uint64{}
	frames, full := bo.Frames(), 0
	for i, f := range frames {
		d := f.GetDeliver()
		if d == nil {
			continue
		}
		if !d.Backlog {
			t.Fatalf("frame %d of %d is no backlog", i, len(frames))
		}
		if len(d.Entries) == messages.MaxDeliver {
			full++
		}
		for _, e := range d.Entries {
			if e.Seq != got[e.Conversation]+1 {
				t.Fatalf("%s: %d after %d", e.Conversation, e.Seq, got[e.Conversation])
			}
			got[e.Conversation] = e.Seq
		}
	}
	if n := frames[0].GetWelcome().GetBacklog(); n != conversations {
		t.Errorf("welcome says that %d conversations wait", n)
	}
	if len(got) != conversations || bo.Counted() != conversations*each {
		t.Errorf("%d entries of %d conversations before caught_up", bo.Counted(), len(got))
	}
	if full == 0 {
		t.Error("nothing came in batches")
	}
	if n := conversations * each; len(bo.Entries()) != n {
		t.Errorf("%d of %d entries", len(bo.Entries()), n)
	}
	bo.Reconnect()
	bo.Await("caught_up", isCaughtUp)
}

// A removed member whose window is closed, with a backlog waiting, gets up to
// its removal and nothing more; added again it gets what follows.
func TestARemovedMemberGetsNothingMore(t *testing.T) {
	w := world.Start(t, func(c *node.Config) { c.Limits.Window = 8 })
	ana, cy := w.As("ana"), w.As("cy")
	bo := w.Connect(world.Device{User: "bo", Name: "phone", NoAck: true})
	group := ana.Makes("crew", "joined", "bo", "cy")
	ana.SaysMany(group, "before", 40)
	bo.Count(8)
	removed := ana.Changes(group, &messages.ChangeGroup{Remove: []string{"bo"}}).Head
	ana.SaysMany(group, "secret", 20)
	cy.Sees("secret 19")
	mustFail(t, bo.Ask(world.Do(&messages.History{Conversation: group})), messages.CodeNotFound)

	ackAll(bo, group, removed)
	last := bo.Entries()[len(bo.Entries())-1]
	if event := last.GetEvent(); last.Seq != removed || event.GetKind() != "removed" {
		t.Errorf("the last entry is %v", last)
	}
	bo.Ack(at(group, removed+30))
	cy.Says(group, "more secret")
	ana.Sees("more secret")
	bo.Settle()
	if n := bo.Counted(); n != int(removed) {
		t.Errorf("%d entries, and the removal is the %d.", n, removed)
	}
	bo.Reconnect()
	bo.Await("caught_up", isCaughtUp)
	bo.Settle()
	for _, e := range bo.Entries() {
		if e.Seq > removed {
			t.Errorf("after a reconnect it gets %v", e)
		}
	}
	bo.Ack(at(group, removed))

	ana.Changes(group, &messages.ChangeGroup{Add: []string{"bo"}})
	ana.Says(group, "welcome back")
	bo.Sees("welcome back")
	cy.Sees("welcome back")
	w.Judge()
}

// ackAll acknowledges what comes until the entry seq is there.
func ackAll(c *world.Client, group string, seq uint64) {
	for {
		entries := c.Entries()
		last := entries[len(entries)-1].Seq
		c.Ack(at(group, last))
		if last >= seq {
			return
		}
		c.Count(len(entries) + 1)
	}
}

// A new member gets nothing from before it came, by delivery or history,
// unless the group shows all.
func TestANewMemberAndWhatWasBefore(t *testing.T) {
	for _, history := range []string{"joined", "all"} {
		t.Run(history, func(t *testing.T) {
			w := world.Start(t)
			ana, dee := w.As("ana"), w.As("dee")
			group := ana.Makes("crew", history, "bo")
			ana.SaysMany(group, "before", 10)
			added := ana.Changes(group, &messages.ChangeGroup{Add: []string{"dee"}}).Head
			ana.Says(group, "after")
			dee.Sees("after")
			first := added
			if history == "all" {
				first = 1
			}
			if e := dee.Entries()[0]; e.Seq != first {
				t.Errorf("delivery begins at %d", e.Seq)
			}
			dee.Await("the start", func(f *messages.ServerFrame) bool {
				starts := f.GetDeliver().GetStarts()
				return len(starts) == 1 && starts[0].Seq == first && starts[0].Conversation == group
			})
			late := w.Connect(world.Device{User: "dee", Name: "late"})
			late.Sees("after")
			if e := late.Entries()[0]; e.Seq != first {
				t.Errorf("delivery to another device begins at %d", e.Seq)
			}
			if e := dee.History(&messages.History{Conversation: group}).Entries[0]; e.Seq != first {
				t.Errorf("history begins at %d", e.Seq)
			}
			if e := dee.History(&messages.History{Conversation: group, Before: added}).Entries; len(e) != int(added-first) {
				t.Errorf("history before shows %d entries", len(e))
			}
			w.Judge()
		})
	}
}

// Every member of a large group sees the same entries in the same order, while
// several write at once.
func TestLargeGroupsSeeOneOrder(t *testing.T) {
	for _, test := range []struct{ members, writers, each int }{{256, 4, 10}, {1024, 4, 3}} {
		t.Run(fmt.Sprint(test.members), func(t *testing.T) {
			w := world.Start(t)
			names := w.Names("m", test.members)
			devices := connectAll(w, names)
			group := devices[0].Makes("all", "joined", names...)
			var writing sync.WaitGroup
			for i, d := range devices[:test.writers] {
				writing.Go(func() { d.SaysMany(group, fmt.Sprint("w", i), test.each) })
			}
			writing.Wait()
			total := test.writers * test.each
			for i, d := range devices {
				own := 0
				if i < test.writers {
					own = test.each
				}
				d.Count(1 + total - own)
			}
			w.Judge() // order, completeness and content against the one log
		})
	}
}

func connectAll(w *world.World, names []string) []*world.Client {
	devices := make([]*world.Client, len(names))
	var connecting sync.WaitGroup
	for part := range 8 {
		connecting.Go(func() {
			for i := part; i < len(names); i += 8 {
				devices[i] = w.Connect(world.Device{User: names[i], Name: "phone"})
			}
		})
	}
	connecting.Wait()
	return devices
}

// A message to a large group costs one durable write once its members are
// marked for the day, however many they are.
func TestDurableWritesOfAGroupMessage(t *testing.T) {
	const sends = 100
	w := world.Start(t)
	names := w.Names("m", 64) // the most that are marked
	big := w.Names("n", 256)
	for _, members := range [][]string{names, big} {
		author := w.As(members[0])
		group := author.Makes("all", "joined", members...)
		author.Says(group, "marks the day")
		read := func() uint64 { return author.List()[0].Read }
		w.Until("its cursors are stored", func() bool { return read() == 2 })
		before, cursors := w.Metric("troupe_store_writes_total"), w.CursorWrites()
		bytes := w.Metric("troupe_store_bytes_total")
		for i := range sends {
			author.Says(group, fmt.Sprint(i))
		}
		w.Until("its cursors are stored", func() bool { return read() == sends+2 })
		writes := w.Metric("troupe_store_writes_total") - before - float64(w.CursorWrites()-cursors)
		if each := writes / sends; each < 1 || each > 1.05 {
			t.Errorf("%d members: %.2f durable writes a message", len(members), each)
		}
		if each := (w.Metric("troupe_store_bytes_total") - bytes) / sends; each > 1000 {
			t.Errorf("%d members: %.0f bytes a message", len(members), each)
		}
	}
}

// The marks of a day are written once, and again on the next.
func TestMarksAreWrittenOnceADay(t *testing.T) {
	w := world.Start(t)
	w.Users("bo")
	ana := w.As("ana")
	ana.Says("bo", "one")
	ana.Says("bo", "two")
	marked := func(since int64) int {
		list, err := w.Store.Marked(context.Background(), "bo", since)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	today := w.Clock.Now().Unix() / 86400
	if marked(today-1) != 1 || marked(today+2) != 0 {
		t.Error("the mark is not of today")
	}
	w.Clock.Advance(3 * 24 * 3600e9)
	ana.Says("bo", "three")
	if marked(today+2) != 1 {
		t.Error("three days later nothing is marked")
	}
}

// That a sent frame was written does not mean that it arrived: only an
// acknowledgement moves a cursor, so a device that comes back gets its own
// entries too, with those that it has not acknowledged.
func TestASentFrameIsNoAcknowledgement(t *testing.T) {
	w := world.Start(t)
	ana, bo := w.Connect(world.Device{User: "ana", Name: "phone", NoAck: true}), w.As("bo")
	ana.Says("bo", "first")
	bo.Says("ana", "second")
	ana.Sees("second")
	ana.Says("bo", "third")
	ana.Reconnect()
	for _, body := range []string{"first", "second", "third"} {
		ana.Sees(body)
	}
	if at := w.Stored("ana", "phone", "d:ana~bo"); at != 0 {
		t.Errorf("the cursor is at %d, and nothing was acknowledged", at)
	}
	w.Judge()
}

package node_test

import (
	"context"
	"slices"
	"testing"

	"github.com/troupe-chat/troupe/cmd/troupe/node"
	"github.com/troupe-chat/troupe/internal/world"
	"github.com/troupe-chat/troupe/messages"
)

const anaBo = "d:ana~bo"

// What is not durable is nowhere to be seen, though Pebble shows it to readers
// before its sync: not by delivery, not in the list, not by history, and its
// author is not told that it was sent.
func TestNothingIsServedBeforeItIsDurable(t *testing.T) {
	disk := world.NewDisk()
	w := world.Start(t, func(c *node.Config) {
		c.Pebble.FS = disk
		c.Limits.Window = 4
	})
	beside := w.Beside()
	ana, bo := w.As("ana"), w.As("bo")
	slow := w.Connect(world.Device{User: "bo", Name: "slow", NoAck: true})
	far := beside.Connect(world.Device{User: "bo", Name: "far"})
	ana.SaysMany("bo", "early", 8)
	bo.Count(8)
	slow.Count(4)
	cursorsAt(w, 8)

	release := disk.Hold()
	defer release()
	before := w.Metric("troupe_store_commits_total")
	secret := ana.Post(world.Text("bo", "secret", "not durable"))
	w.Until("Pebble has the entry", func() bool { return w.Metric("troupe_store_commits_total") > before })

	if head := bo.List()[0].Head; head != 8 {
		t.Errorf("the list says %d are there", head)
	}
	page := far.History(&messages.History{Conversation: anaBo})
	if n := len(page.Entries); n != 8 {
		t.Errorf("history shows %d entries", n)
	}
	if head := far.List()[0].Head; head != 8 {
		t.Errorf("beside, the list says %d are there", head)
	}
	slow.Ack(&messages.Position{Conversation: anaBo, Seq: 4}) // makes the delivery loop read the log
	slow.Sees("early 7")
	for _, c := range []*world.Client{ana, bo, slow, far} {
		c.Settle()
	}
	for _, c := range []*world.Client{bo, slow} {
		if slices.Contains(c.Bodies(), "not durable") {
			t.Errorf("%s/%s was delivered it", c.User, c.Name)
		}
	}
	for _, f := range ana.Frames() {
		if f.Re == secret {
			t.Errorf("its author is answered %v", f)
		}
	}

	release()
	if f := ana.Answer(secret); f.GetSent().GetSeq() != 9 {
		t.Errorf("released, its author is answered %v", f)
	}
	bo.Sees("not durable")
	slow.Ack(&messages.Position{Conversation: anaBo, Seq: 8})
	slow.Sees("not durable")
	far.Reconnect() // nobody there is told of what is appended here
	far.Sees("not durable")
	w.Judge(beside)
}

// cursorsAt waits until the cursors of ana and bo are stored, and none is on
// its way to the store.
func cursorsAt(w *world.World, seq messages.Seq) {
	w.Until("cursors are stored", func() bool {
		at, err := w.Store.MemberCursors(context.Background(), anaBo, []messages.UserID{"ana", "bo"})
		return err == nil && at[0].Read == seq && at[1].Delivered == seq
	})
}

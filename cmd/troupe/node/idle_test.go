package node_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/troupe-chat/troupe/actors"
	"github.com/troupe-chat/troupe/cmd/troupe/node"
	"github.com/troupe-chat/troupe/internal/world"
	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// touched is how many conversations TestIdleActorsLeave touches. The figure of
// the requirements is 1,000,000: go test ./cmd/troupe/node -run IdleActors
// -conversations 1000000 -timeout 1h.
var touched = flag.Int("conversations", 2000, "conversations that are touched once")

// After many conversations were touched once no actor is left, and the heap is
// what it was; what comes back has its state from the store.
func TestIdleActorsLeave(t *testing.T) {
	w := world.Start(t, steadyStore, func(c *node.Config) { c.IdleAfter = 400 * time.Millisecond })
	names := w.Names("n", *touched)
	half := len(names) / 2
	touch(w, names[half:], "warm") // tables and caches get their size
	noActors(w)
	before := heap()
	touch(w, names[:half], "touch")
	noActors(w)
	after := heap()
	t.Logf("live heap: %d KiB before, %d KiB after %d conversations", before>>10, after>>10, half)
	if float64(after) > 1.2*float64(before) {
		t.Errorf("the heap has grown from %d to %d KiB", before>>10, after>>10)
	}

	ana := w.As("ana")
	f := ana.Ask(world.Text(names[0], "touch-0", "touch")).GetSent()
	if !f.GetDuplicate() || f.Seq != 1 {
		t.Errorf("sent again after its actor came back: %v", f)
	}
	if seq := ana.Says(names[0], "on").Seq; seq != 2 {
		t.Errorf("the next entry is %d", seq)
	}
}

// touch sends one message to each user, and leaves.
func touch(w *world.World, users []string, what string) {
	c := w.Connect(world.Device{User: "ana", Name: "toucher", Quiet: true})
	defer w.Forget(c)
	const underWay = 32
	ids := make([]uint32, 0, len(users))
	for i, u := range users {
		ids = append(ids, c.Post(world.Text(u, fmt.Sprintf("%s-%d", what, i), what)))
		if i >= underWay {
			c.Answer(ids[i-underWay])
		}
	}
	for _, id := range ids[max(0, len(ids)-underWay):] {
		c.Answer(id)
	}
}

func noActors(w *world.World) {
	w.Until("no actor is left", func() bool { return w.Metric("troupe_actors") == 0 })
}

// A group's roles, its cursors and its blocks survive passivation.
func TestStateSurvivesPassivation(t *testing.T) {
	w := world.Start(t, func(c *node.Config) { c.IdleAfter = 200 * time.Millisecond })
	ana := w.As("ana")
	group := ana.Makes("crew", "joined", "bo", "cy")
	ana.Changes(group, &messages.ChangeGroup{Promote: []string{"bo"}, Name: "ship"})
	bo := w.As("bo")
	seq := ana.Says(group, "hi").Seq
	bo.Sees("hi")
	if f := bo.Ask(world.Do(&messages.Read{Conversation: group, Seq: seq})); f.GetOk() == nil {
		t.Fatal(f)
	}
	if f := bo.Ask(world.Do(&messages.Block{User: "ana"})); f.GetOk() == nil {
		t.Fatal(f)
	}
	ana.Close()
	bo.Close()
	noActors(w)
	ana.Reconnect()
	g := ana.Ask(world.Do(&messages.GroupQuery{Conversation: group})).GetGroup()
	if g.GetName() != "ship" || len(g.Members) != 3 || g.Head != seq {
		t.Errorf("the group came back as %v", g)
	}
	for _, m := range g.GetMembers() {
		if want := map[string]string{"ana": "owner", "bo": "admin", "cy": "member"}[m.User]; m.Role != want {
			t.Errorf("%s came back as %s", m.User, m.Role)
		}
	}
	for _, m := range receiptsOf(t, ana, group, seq) {
		if want := map[string]string{"bo": "read", "cy": "sent"}[m.User]; m.Status != want {
			t.Errorf("%s came back with status %s", m.User, m.Status)
		}
	}
	ana.Refused(t, "blocked", text("bo", "c", "x"), messages.CodeForbidden)
	w.Judge()
}

func receiptsOf(t *testing.T, c *world.Client, conversation string, seq uint64) []*messages.MemberStatus {
	t.Helper()
	f := c.Ask(world.Do(&messages.Receipts{Conversation: conversation, Seq: seq}))
	if f.GetReceiptList() == nil {
		t.Fatal(f)
	}
	return f.GetReceiptList().Members
}

// A panic in one conversation ends that activation and no other: what it had
// under way is answered as unavailable, and with the next message it is back.
func TestAPanicInAConversation(t *testing.T) {
	var armed atomic.Bool
	w := world.Start(t, func(c *node.Config) {
		c.Reached = func(p actors.Point) {
			if p == actors.BeforeAppend && armed.CompareAndSwap(true, false) {
				panic("a fault for the test")
			}
		}
	})
	w.Users("bo", "cy")
	ana, bo, cy := w.As("ana"), w.As("bo"), w.As("cy")
	ana.Says("bo", "one")
	ana.Says("cy", "one")
	armed.Store(true)
	lost := ana.Post(world.Text("bo", "c1", "two"))
	w.Until("it has failed", func() bool { return !armed.Load() })
	if seq := ana.Says("cy", "two").Seq; seq != 2 {
		t.Errorf("the other conversation goes on with %d", seq)
	}
	cy.Sees("two")
	if seq := ana.Says("bo", "three").Seq; seq != 2 {
		t.Errorf("the conversation comes back with %d", seq)
	}
	bo.Sees("three")
	w.Clock.Advance(10 * time.Second)
	mustFail(t, ana.Answer(lost), messages.CodeUnavailable)
	if seq := ana.Ask(world.Text("bo", "c1", "two")).GetSent().GetSeq(); seq != 3 {
		t.Errorf("tried again, it is %d", seq)
	}
	bo.Sees("two")
	w.Judge()
}

// failingDevices is a store that can't say which number a connection gets.
type failingDevices struct {
	persistence.Store
	fail *atomic.Bool
}

func (s failingDevices) UpdateDevices(ctx context.Context, u messages.UserID, f func([]persistence.Device) ([]persistence.Device, error)) error {
	if s.fail.Load() {
		return errors.New("no number for this connection")
	}
	return s.Store.UpdateDevices(ctx, u, f)
}

// panicker is a logger that fails on what it is told of attaching devices, on
// the session's own goroutine.
type panicker struct {
	slog.Handler
	panicked atomic.Int32
}

func (p *panicker) Enabled(context.Context, slog.Level) bool { return true }

func (p *panicker) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "attaching a device" {
		p.panicked.Add(1)
		panic("a fault for the test")
	}
	return p.Handler.Handle(ctx, r)
}

// When a session panics, the connections it had go on receiving: the next
// activation knows them.
func TestAPanicInASession(t *testing.T) {
	var fail atomic.Bool
	logger := &panicker{Handler: slog.DiscardHandler}
	w := world.Start(t, func(c *node.Config) {
		c.Logger = slog.New(logger)
		c.Wrap = func(s persistence.Store) persistence.Store { return failingDevices{s, &fail} }
	})
	ana, bo := w.As("ana"), w.As("bo")
	ana.Says("bo", "before")
	bo.Sees("before")
	fail.Store(true)
	late := w.Raw(world.JSON)
	late.Post(world.Do(&messages.Hello{Token: w.Token("bo"), Device: "laptop"}))
	w.Until("the session has failed", func() bool { return logger.panicked.Load() > 0 })
	fail.Store(false)
	ana.Says("bo", "after")
	bo.Sees("after")
	w.Until("the session knows its connection again", func() bool { return w.Connected("bo") == 1 })
	ana.Says("bo", "later")
	bo.Sees("later")
	presence(t, ana, "bo", true)
	bo.Close()
	ana.Await("offline", func(f *messages.ServerFrame) bool {
		return f.GetPresence().GetUser() == "bo" && !f.GetPresence().GetOnline()
	})
	w.Judge()
}

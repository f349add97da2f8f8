package actors_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/actors"
	"github.com/troupe-chat/troupe/cluster"
	"github.com/troupe-chat/troupe/internal/crew"
	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence/memory"
	"github.com/troupe-chat/troupe/persistence/pebble"
)

// newsDesk is the gateway of a node with inboxes and nothing else.
type newsDesk struct {
	node  *cluster.Node
	news  chan *messages.News
	ended chan cluster.EndCause
}

func newNewsDesk(t *testing.T) *newsDesk {
	log := slog.New(slog.DiscardHandler)
	store, err := pebble.Open(t.TempDir(), pebble.Options{Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	d := &newsDesk{news: make(chan *messages.News, 1<<12), ended: make(chan cluster.EndCause, 1<<12)}
	env := &actors.Env{
		Node: "one", Store: store, Presence: memory.NewPresence(), Gateways: d, Routes: actors.NewRoutes(),
		Limits: messages.DefaultLimits(), Pool: crew.New(8, 8), Now: time.Now, Log: log, Metrics: &actors.Metrics{},
	}
	d.node, err = cluster.Start(t.Context(), cluster.Config{
		Name: "one", Logger: log,
		Kinds:   []cluster.Kind{{Name: messages.ActorInbox, New: func(id string) cluster.Behaviour { return actors.NewInbox(env, id) }}},
		OnEnded: func(_, _ string, cause cluster.EndCause) { d.ended <- cause },
	})
	if err != nil {
		t.Fatal(err)
	}
	env.Cluster = d.node
	t.Cleanup(func() {
		if err := d.node.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		env.Pool.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// Tell takes what inboxes find.
func (d *newsDesk) Tell(_ string, m proto.Message) {
	if n, ok := m.(*messages.News); ok {
		d.news <- n
	}
}

// Connection finds none.
func (d *newsDesk) Connection(string, uint64) (actors.Connection, bool) { return nil, false }

func (d *newsDesk) tell(t *testing.T, m any) {
	t.Helper()
	if err := d.node.Tell(messages.ActorInbox, "ana", m); err != nil {
		t.Error(err)
	}
}

func (d *newsDesk) catchUp(t *testing.T, connection uint64) {
	t.Helper()
	d.tell(t, &messages.CatchUp{Incarnation: 1, Origin: &messages.Origin{Node: "one", Connection: connection, User: "ana"}})
}

// An inbox that was only asked what waits has nothing to remember: it is gone
// once it has told, and whoever asks meanwhile is told too.
func TestInboxLeavesOnceItHasTold(t *testing.T) {
	d := newNewsDesk(t)
	d.catchUp(t, 1)
	<-d.news
	if cause := <-d.ended; cause != cluster.Stopped {
		t.Errorf("it has ended as %v", cause)
	}
	const askers, each = 8, 50
	var asking sync.WaitGroup
	for i := range askers {
		asking.Go(func() {
			for j := range each {
				d.catchUp(t, uint64(i*each+j+2))
			}
		})
	}
	asking.Wait()
	told := map[uint64]bool{}
	for range askers * each {
		n := <-d.news
		if n.Error != nil || told[n.Connection] {
			t.Errorf("connection %d is told %v, before: %v", n.Connection, n.Error, told[n.Connection])
		}
		told[n.Connection] = true
	}
}

// One that takes acknowledgements stays for the next ones.
func TestInboxOfABusyDeviceStays(t *testing.T) {
	d := newNewsDesk(t)
	d.tell(t, &messages.Acked{User: "ana", Device: "d", Incarnation: 1})
	d.catchUp(t, 1)
	<-d.news
	for state := ""; state != "{0}"; { // nothing is pending
		s, err := d.node.Inspect(t.Context(), messages.ActorInbox, "ana")
		if err != nil {
			t.Fatal("it has left: ", err)
		}
		state = fmt.Sprint(s)
	}
	if at, err := d.node.Locate(messages.ActorInbox, "ana"); err != nil || !at.Active {
		t.Error("it has left: ", err)
	}
}

package cluster

import (
	"errors"
	"fmt"
	"testing"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/troupe-chat/troupe/messages"
)

func TestLookingNeverActivates(t *testing.T) {
	n := start(t, Config{Kinds: []Kind{kindOf("echo", leaves)}})
	at, err := n.Locate("echo", "ana")
	if err != nil || at.Active || at.PID != nil || at.Owner != "troupe-1" {
		t.Errorf("Locate: %+v, %v", at, err)
	}
	if _, err := n.Inspect(t.Context(), "echo", "ana"); !errors.Is(err, ErrNotActive) {
		t.Errorf("Inspect: %v", err)
	}
	if list := n.Activations(Filter{}); len(list) != 0 || n.Counts()["echo"] != 0 {
		t.Errorf("activated: %v", list)
	}
	if _, err := n.Locate("nothing", "ana"); !errors.Is(err, ErrUnknownKind) {
		t.Errorf("Locate of an unknown kind: %v", err)
	}
	if _, err := n.Inspect(t.Context(), "nothing", "ana"); !errors.Is(err, ErrUnknownKind) {
		t.Errorf("Inspect of an unknown kind: %v", err)
	}
}

func TestInspect(t *testing.T) {
	hold := make(chan struct{})
	n := start(t, Config{Kinds: []Kind{kindOf("echo", func(ctx actor.Context) {
		leaves(ctx)
		if c, ok := ctx.Message().(chan struct{}); ok {
			<-c
		}
	})}})
	tell(t, n, "ana", 1)
	if state, err := n.Inspect(t.Context(), "echo", "ana"); err != nil || state != "state" {
		t.Errorf("got %v, %v", state, err)
	}
	// One that ends before it comes to it must neither answer nor come back.
	tell(t, n, "ana", hold)
	tell(t, n, "ana", stopOrder)
	answered := make(chan error, 1)
	go func() {
		_, err := n.Inspect(t.Context(), "echo", "ana")
		answered <- err
	}()
	k := n.kinds["echo"]
	for a := k.find(k.hash("ana"), "ana"); a.depth.Load() < 2; {
	}
	close(hold)
	if err := <-answered; !errors.Is(err, ErrNotActive) {
		t.Errorf("of one that ended: %v", err)
	}
	for n.live() > 0 {
		<-n.quiet.changed
	}
}

func TestActivations(t *testing.T) {
	clock, hold, held := newClock(), make(chan struct{}), make(chan struct{})
	n := start(t, Config{Now: clock.now, Kinds: []Kind{
		kindOf("echo", func(ctx actor.Context) {
			leaves(ctx)
			if c, ok := ctx.Message().(chan struct{}); ok {
				close(held)
				<-c
			}
		}),
		kindOf("other", leaves),
	}})
	defer close(hold)
	for i := range 300 {
		tell(t, n, fmt.Sprint(i), 1)
		caughtUp(t, n, fmt.Sprint(i))
	}
	clock.move(1000_000_000)
	n.Tick()
	tell(t, n, "deep", hold)
	<-held
	for i := range 3 {
		tell(t, n, "deep", i)
	}
	if err := n.Tell("other", "x", &messages.Text{}); err != nil {
		t.Fatal(err)
	}
	first := n.Activations(Filter{})[0]
	if first.Identity != "deep" || first.Mailbox != 3 || first.Handled != 1 || first.LastMessage != "chan struct {}" || first.Member != "troupe-1" {
		t.Errorf("the deepest: %+v", first)
	}
	if l := len(n.Activations(Filter{})); l != DefaultLimit {
		t.Errorf("%d by default", l)
	}
	if list := n.Activations(Filter{Kind: "echo", Sort: ByAge, Limit: 1000}); len(list) != 301 || list[300].Identity != "deep" || list[0].Identity != "0" {
		t.Errorf("by age: %d, %+v first", len(list), list[0])
	}
	if fast := n.Activations(Filter{Sort: ByRate, Limit: 1})[0]; fast.Rate == 0 {
		t.Errorf("by rate: %+v first", fast)
	}
	if counts := n.Counts(); counts["echo"] != 301 || counts["other"] != 1 {
		t.Errorf("counts: %v", counts)
	}
}

func TestMembersOfOne(t *testing.T) {
	n := start(t, Config{Kinds: []Kind{kindOf("echo", leaves)}})
	tell(t, n, "ana", 1)
	list := n.Members()
	if len(list) != 1 || !list[0].Self || list[0].Share != 1 || list[0].Name != "troupe-1" || list[0].Actors["echo"] != 1 {
		t.Errorf("got %+v", list)
	}
}

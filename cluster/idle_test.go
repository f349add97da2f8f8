package cluster

import (
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/troupe-chat/troupe/messages"
)

// leaves makes activations that leave when they are idle.
func leaves(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *messages.Idle:
		m.Leave()
	case *messages.Inspect:
		m.Reply("state")
	}
}

// caughtUp waits until what an activation was told so far is handled.
func caughtUp(t testing.TB, n *Node, identity string) {
	t.Helper()
	if _, err := n.Inspect(t.Context(), "echo", identity); err != nil {
		t.Fatal(err)
	}
}

// ended counts the ends of activations and tells of each.
type ended struct {
	causes chan EndCause
	count  atomic.Int64
}

func newEnded() *ended { return &ended{causes: make(chan EndCause, 1<<20)} }

func (e *ended) on(_, _ string, cause EndCause) {
	e.count.Add(1)
	e.causes <- cause
}

func (e *ended) wait(n int) {
	for range n {
		<-e.causes
	}
}

func TestAnIdleActivationLeaves(t *testing.T) {
	clock, ends := newClock(), newEnded()
	n := start(t, Config{Now: clock.now, Kinds: []Kind{kindOf("echo", leaves)}, OnEnded: ends.on})
	tell(t, n, "ana", 1)
	caughtUp(t, n, "ana")
	clock.move(DefaultIdleAfter - time.Second)
	n.Tick()
	tell(t, n, "ana", 2)
	caughtUp(t, n, "ana")
	clock.move(DefaultIdleAfter - time.Second)
	n.Tick()
	if at, _ := n.Locate("echo", "ana"); !at.Active {
		t.Fatal("it left before it was idle for long enough")
	}
	clock.move(2 * time.Second)
	n.Tick()
	if cause := <-ends.causes; cause != Passivated {
		t.Errorf("it ended as %q", cause)
	}
}

func TestTheWheelTurnsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := newEnded()
		n := start(t, Config{Kinds: []Kind{kindOf("echo", leaves)}, OnEnded: ends.on})
		begin := time.Now()
		for i := range 100 {
			tell(t, n, strconv.Itoa(i), 1)
		}
		ends.wait(100)
		if took := time.Since(begin); took < DefaultIdleAfter || took > DefaultIdleAfter*5/4 {
			t.Errorf("told that they are idle after %v, want %v and a quarter more at most", took, DefaultIdleAfter)
		}
		stop(t, n)
	})
}

func TestOneThatStaysIsAskedOnceEachTime(t *testing.T) {
	clock, asked, ends := newClock(), newCollector[*messages.Idle](), newEnded()
	n := start(t, Config{Now: clock.now, OnEnded: ends.on, Kinds: []Kind{kindOf("echo", func(ctx actor.Context) {
		switch m := ctx.Message().(type) {
		case *messages.Idle:
			asked.add(m)
		case *messages.Inspect:
			m.Reply(nil)
		}
	})}})
	tell(t, n, "ana", 1)
	caughtUp(t, n, "ana")
	for want := 1; want <= 3; want++ {
		clock.move(DefaultIdleAfter)
		for range 2 {
			n.Tick()
			caughtUp(t, n, "ana")
		}
		asked.wait(want)
	}
	asked.list()[0].Leave() // too late: it is not being received any more
	tell(t, n, "ana", 2)
	stop(t, n)
	if all := asked.list(); len(all) != 3 {
		t.Errorf("asked %d times, want 3", len(all))
	}
	if cause := <-ends.causes; cause != Stopped {
		t.Errorf("it ended as %q", cause)
	}
}

func TestOneThatHasMessagesWaitingIsNotIdle(t *testing.T) {
	clock, hold, held := newClock(), make(chan struct{}), make(chan struct{})
	var asked atomic.Int32
	n := start(t, Config{Now: clock.now, Kinds: []Kind{kindOf("echo", func(ctx actor.Context) {
		switch m := ctx.Message().(type) {
		case chan struct{}:
			close(held)
			<-m
		case *messages.Idle:
			asked.Add(1)
		case *messages.Inspect:
			m.Reply(nil)
		}
	})}})
	tell(t, n, "ana", hold)
	<-held
	tell(t, n, "ana", 1)
	clock.move(DefaultIdleAfter)
	n.Tick()
	close(hold)
	caughtUp(t, n, "ana")
	if asked.Load() != 0 {
		t.Error("it was told that it is idle while a message waited")
	}
}

func TestLookingKeepsNobodyAlive(t *testing.T) {
	clock, ends := newClock(), newEnded()
	n := start(t, Config{Now: clock.now, Kinds: []Kind{kindOf("echo", leaves)}, OnEnded: ends.on})
	tell(t, n, "ana", 1)
	caughtUp(t, n, "ana")
	clock.move(DefaultIdleAfter - time.Second)
	n.Tick()
	caughtUp(t, n, "ana")
	clock.move(time.Second)
	n.Tick()
	ends.wait(1)
}

// heap returns the bytes in use after a collection.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// identities makes names outside of what is measured.
func identities(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = "user-" + strconv.Itoa(i)
	}
	return list
}

// silent is a behaviour without a state of its own.
type silent struct{ handled *atomic.Int64 }

func (s silent) Receive(ctx actor.Context) {
	leaves(ctx)
	if _, ok := ctx.Message().(int); ok {
		s.handled.Add(1)
	}
}

// crowd is a node whose activations come and go all at once.
type crowd struct {
	t       testing.TB
	n       *Node
	clock   *fakeClock
	handled atomic.Int64
	ended   atomic.Int64
	ids     []string
}

func newCrowd(t testing.TB, many int) *crowd {
	c := &crowd{t: t, clock: newClock(), ids: identities(many)}
	c.n = start(t, Config{
		Now:     c.clock.now,
		Kinds:   []Kind{{Name: "echo", New: func(string) Behaviour { return silent{&c.handled} }}},
		OnEnded: func(string, string, EndCause) { c.ended.Add(1) },
	})
	return c
}

func (c *crowd) come() {
	for before, i := c.handled.Load(), 0; c.handled.Load() < before+int64(len(c.ids)); {
		if i < len(c.ids) {
			tell(c.t, c.n, c.ids[i], 1)
			i++
			continue
		}
		runtime.Gosched()
	}
}

func (c *crowd) leave() {
	for before := c.ended.Load(); c.ended.Load() < before+int64(len(c.ids)); {
		c.clock.move(DefaultIdleAfter)
		c.n.Tick()
		runtime.Gosched()
	}
	for c.n.Counts()["echo"] > 0 {
		runtime.Gosched()
	}
}

// crowdSize is smaller under the race detector, which is slow at this.
var crowdSize = 200_000

// registryRoom is what protoactor's registry keeps at most of a crowd this
// size: its 32,768 maps never shrink, and have room for eight once one came.
const registryRoom = 32_768 * 304

func TestActivationsAreSmallAndLeaveNothingBehind(t *testing.T) {
	many := int64(crowdSize)
	c := newCrowd(t, crowdSize)
	c.come()
	c.leave() // protoactor's registry keeps the maps that it makes now
	before := heap()
	c.come()
	live := heap() - before
	c.leave()
	left := heap() - before
	t.Logf("%d bytes an idle activation; %d KB left after %d", live/many, left>>10, many)
	if live/many > 700 {
		t.Errorf("an idle activation takes %d bytes, want at most 700", live/many)
	}
	if left > registryRoom {
		t.Errorf("%d bytes are left of activations that took %d", left, live)
	}
}

func TestTheTableShrinks(t *testing.T) {
	s := &sector{}
	var all []*activation
	for _, id := range identities(10_000) {
		all = append(all, &activation{identity: id})
		s.add(all[len(all)-1])
	}
	for i, a := range all {
		s.remove(a)
		if left := len(all) - i - 1; len(s.m) != left || s.peak >= 64 && left <= s.peak/4 {
			t.Fatalf("%d of %d are there, in a map for %d", len(s.m), left, s.peak)
		}
	}
}

package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/troupe-chat/troupe/messages"
)

// fakeClock is a clock that stands still until it is moved.
type fakeClock struct{ ms atomic.Int64 }

func (c *fakeClock) now() time.Time       { return time.UnixMilli(c.ms.Load()) }
func (c *fakeClock) move(d time.Duration) { c.ms.Add(d.Milliseconds()) }

func newClock() *fakeClock {
	c := &fakeClock{}
	c.ms.Store(1_700_000_000_000)
	return c
}

// start starts a node of one and stops it at the end of the test.
func start(t testing.TB, cfg Config) *Node {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "troupe-1"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	n, err := Start(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, n) })
	return n
}

func stop(t testing.TB, n *Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := n.Stop(ctx); err != nil {
		t.Errorf("Stop: %v", err)
	}
}

// kindOf makes a kind whose behaviours are one function.
func kindOf(name string, receive func(ctx actor.Context)) Kind {
	return Kind{Name: name, New: func(string) Behaviour { return actor.ReceiveFunc(receive) }}
}

func tell(t testing.TB, n *Node, identity string, m any) {
	t.Helper()
	if err := n.Tell("echo", identity, m); err != nil {
		t.Fatal(err)
	}
}

// collector gathers what arrives, from any goroutine.
type collector[T any] struct {
	mu   sync.Mutex
	all  []T
	more *sync.Cond
}

func newCollector[T any]() *collector[T] {
	c := &collector[T]{}
	c.more = sync.NewCond(&c.mu)
	return c
}

func (c *collector[T]) add(v T) {
	c.mu.Lock()
	c.all = append(c.all, v)
	c.mu.Unlock()
	c.more.Broadcast()
}

func (c *collector[T]) list() []T { return c.wait(0) }

// wait returns what has arrived once it is n or more. Nobody may change it.
func (c *collector[T]) wait(n int) []T {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.all) < n {
		c.more.Wait()
	}
	return slices.Clip(c.all)
}

func numbers(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

// ints keeps the integers that behaviours are told.
func ints(c *collector[int]) func(actor.Context) {
	return func(ctx actor.Context) {
		if i, ok := ctx.Message().(int); ok {
			c.add(i)
		}
	}
}

func TestTellActivatesAndKeepsOrder(t *testing.T) {
	got := newCollector[int]()
	n := start(t, Config{Kinds: []Kind{kindOf("echo", ints(got))}})
	for i := range 1000 {
		tell(t, n, "ana", i)
	}
	if all := got.wait(1000); !slices.Equal(all, numbers(1000)) {
		t.Errorf("out of order: %v", all)
	}
	if err := n.Tell("nothing", "ana", 1); err == nil {
		t.Error("an unknown kind was told")
	}
}

func TestStartedComesFirstAndStoppedLast(t *testing.T) {
	got := newCollector[string]()
	n := start(t, Config{Kinds: []Kind{kindOf("echo", func(ctx actor.Context) {
		got.add(fmt.Sprintf("%T", ctx.Message()))
	})}})
	tell(t, n, "ana", 1)
	tell(t, n, "ana", "x")
	stop(t, n)
	want := []string{"*actor.Started", "int", "string", "*actor.Stopping", "*actor.Stopped"}
	if all := got.list(); !slices.Equal(all, want) {
		t.Errorf("got %v, want %v", all, want)
	}
}

// sequence is the i-th message of a sender.
type sequence struct{ sender, i int }

// leaver passivates whenever it may, and checks that it is alone.
type leaver struct {
	t     *testing.T
	alive *atomic.Int32
	got   *collector[sequence]
}

func (l *leaver) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		if n := l.alive.Add(1); n != 1 {
			l.t.Errorf("%d lives of one identity", n)
		}
	case *actor.Stopped:
		l.alive.Add(-1)
	case *messages.Idle:
		m.Leave()
	case sequence:
		l.got.add(m)
	}
}

func TestPassivationLosesNothingAndKeepsOrder(t *testing.T) {
	const senders, each = 4, 3000
	got := newCollector[sequence]()
	var alive, ends, sent atomic.Int32
	n := start(t, Config{
		Kinds:   []Kind{{Name: "echo", New: func(string) Behaviour { return &leaver{t, &alive, got} }}},
		OnEnded: func(string, string, EndCause) { ends.Add(1) },
	})
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for i := range each {
				tell(t, n, "ana", sequence{s, i})
				got.wait(int(sent.Add(1)) - 100)
				if i%20 == s {
					probe(n, "ana")
				}
			}
		})
	}
	wg.Wait()
	checkSequences(t, got.wait(senders*each), senders, each)
	if ends.Load() < 10 {
		t.Errorf("%d passivations: the test proves nothing", ends.Load())
	}
}

// probe tells the current life of an identity that it is idle, whether or not
// it is.
func probe(n *Node, identity string) {
	k := n.kinds["echo"]
	if l := k.current(k.hash(identity), identity); l != nil {
		l.a.push(&node{msg: idleProbe{}, to: l})
	}
}

func checkSequences(t *testing.T, all []sequence, senders, each int) {
	t.Helper()
	if len(all) != senders*each {
		t.Fatalf("%d arrived, %d were sent", len(all), senders*each)
	}
	next := make([]int, senders)
	for _, m := range all {
		if m.i != next[m.sender] {
			t.Fatalf("sender %d: got %d, want %d", m.sender, m.i, next[m.sender])
		}
		next[m.sender]++
	}
}

func TestWhatIsBehindTheEndGoesToTheNextActivation(t *testing.T) {
	ends := map[string]any{"poison": &actor.PoisonPill{}, "panic": "panic", "order": stopOrder, "self": "stop"}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			got := newCollector[int]()
			hold := make(chan struct{})
			var lives atomic.Int32
			n := start(t, Config{Kinds: []Kind{kindOf("echo", func(ctx actor.Context) {
				switch m := ctx.Message().(type) {
				case *actor.Started:
					lives.Add(1)
				case chan struct{}:
					<-m
				case string:
					if m == "panic" {
						panic("on purpose")
					}
					ctx.Stop(ctx.Self())
				case int:
					got.add(m)
				}
			})}})
			tell(t, n, "ana", hold)
			tell(t, n, "ana", end)
			for i := range 1000 {
				tell(t, n, "ana", i)
			}
			close(hold)
			if all := got.wait(1000); !slices.Equal(all, numbers(1000)) {
				t.Errorf("got %v", all)
			}
			if lives.Load() != 2 {
				t.Errorf("%d lives, want 2", lives.Load())
			}
		})
	}
}

func TestAPIDReachesOneLifeOnly(t *testing.T) {
	got, dead := newCollector[int](), newCollector[any]()
	pids := make(chan *actor.PID, 2)
	hold := make(chan struct{})
	n := start(t, Config{Kinds: []Kind{kindOf("echo", func(ctx actor.Context) {
		switch m := ctx.Message().(type) {
		case *actor.Started:
			pids <- ctx.Self()
		case chan struct{}:
			<-m
		case int:
			got.add(m)
		}
	})}})
	n.System().EventStream.Subscribe(func(e any) {
		if letter, ok := e.(*actor.DeadLetterEvent); ok {
			dead.add(letter.Message)
		}
	})
	tell(t, n, "ana", hold)
	first := <-pids
	k := n.kinds["echo"]
	old := k.current(k.hash("ana"), "ana")
	n.Root().Send(first, 0)
	n.Root().Send(first, &actor.PoisonPill{})
	n.Root().Send(first, "behind the end")
	tell(t, n, "ana", 1)
	close(hold)
	second := <-pids
	got.wait(2)
	n.Root().Send(first, "long after")
	old.PostUserMessage("by one that had looked it up before")
	n.Root().Send(second, 2)
	if all := got.wait(3); !slices.Equal(all, numbers(3)) {
		t.Errorf("got %v", all)
	}
	if all := dead.list(); !slices.Equal(all, []any{"behind the end", "long after", "by one that had looked it up before"}) {
		t.Errorf("dead letters: %v", all)
	}
}

func TestWhoWatchesALifeIsToldOfItsEnd(t *testing.T) {
	n := start(t, Config{Kinds: []Kind{kindOf("echo", func(actor.Context) {})}})
	tell(t, n, "ana", 1)
	at, err := n.Locate("echo", "ana")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan string, 1)
	n.Root().Spawn(actor.PropsFromFunc(func(ctx actor.Context) {
		switch m := ctx.Message().(type) {
		case *actor.Started:
			ctx.Watch(at.PID)
			n.Root().Poison(at.PID)
		case *actor.Terminated:
			over <- m.Who.Id
		}
	}))
	if id := <-over; id != at.PID.Id {
		t.Errorf("told of the end of %s, want %s", id, at.PID.Id)
	}
}

// A watch that comes as the life ends, or that its sender had on the way, is
// answered too.
func TestALateWatchIsAnswered(t *testing.T) {
	over := make(chan string, 1)
	ended := newEnded()
	var n *Node
	watcher := make(chan *actor.PID, 1)
	var mid atomic.Pointer[actor.Watch]
	n = start(t, Config{OnEnded: ended.on, Kinds: []Kind{kindOf("echo", func(ctx actor.Context) {
		if _, stopped := ctx.Message().(*actor.Stopped); stopped {
			ctx.Actor().(*life).PostSystemMessage(mid.Load())
		}
	})}})
	n.Root().Spawn(actor.PropsFromFunc(func(ctx actor.Context) {
		switch m := ctx.Message().(type) {
		case *actor.Started:
			watcher <- ctx.Self()
		case *actor.Terminated:
			over <- m.Who.Id
		}
	}))
	mid.Store(&actor.Watch{Watcher: <-watcher})
	tell(t, n, "ana", 1)
	k := n.kinds["echo"]
	old := k.current(k.hash("ana"), "ana")
	tell(t, n, "ana", &actor.PoisonPill{})
	ended.wait(1)
	if id := <-over; id != old.pid().Id {
		t.Errorf("told of the end of %s", id)
	}
	old.PostSystemMessage(mid.Load())
	if id := <-over; id != old.pid().Id {
		t.Errorf("told of the end of %s", id)
	}
}

func TestStopIsIdempotentAndBeginsNothing(t *testing.T) {
	n := start(t, Config{Kinds: []Kind{kindOf("echo", func(actor.Context) {})}})
	tell(t, n, "ana", 1)
	stop(t, n)
	stop(t, n)
	if err := n.Tell("echo", "ana", 1); err != ErrStopped {
		t.Errorf("Tell after Stop: %v, want ErrStopped", err)
	}
	if c := n.Counts()["echo"]; c != 0 {
		t.Errorf("%d activations after Stop", c)
	}
}

func TestStopHandlesWhatWaits(t *testing.T) {
	got, hold := newCollector[int](), make(chan struct{})
	n := start(t, Config{Kinds: []Kind{kindOf("echo", func(ctx actor.Context) {
		switch m := ctx.Message().(type) {
		case chan struct{}:
			<-m
		case int:
			got.add(m)
		}
	})}})
	tell(t, n, "ana", hold)
	for i := range 100 {
		tell(t, n, "ana", i)
	}
	ended := make(chan struct{})
	go func() { stop(t, n); close(ended) }()
	close(hold)
	<-ended
	if all := got.list(); !slices.Equal(all, numbers(100)) {
		t.Errorf("got %v", all)
	}
}

func TestStopGivesUpOnAnActorThatHangs(t *testing.T) {
	hang := make(chan struct{})
	n, err := Start(context.Background(), Config{
		Name: "troupe-1", Logger: slog.New(slog.DiscardHandler),
		Kinds: []Kind{kindOf("echo", func(ctx actor.Context) {
			if c, ok := ctx.Message().(chan struct{}); ok {
				<-c
			}
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	tell(t, n, "ana", hang)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := n.Stop(ctx); err == nil {
		t.Error("Stop says that an activation that hangs has ended")
	}
	close(hang)
}

func TestConfigIsChecked(t *testing.T) {
	kind := kindOf("echo", func(actor.Context) {})
	for name, cfg := range map[string]Config{
		"no name":       {},
		"twice a kind":  {Name: "n", Kinds: []Kind{kind, kind}},
		"no New":        {Name: "n", Kinds: []Kind{{Name: "echo"}}},
		"negative idle": {Name: "n", IdleAfter: -1},
		"no port":       {Name: "n", Listen: "127.0.0.1"},
		"port by name":  {Name: "n", Listen: "127.0.0.1:http"},
	} {
		if n, err := Start(context.Background(), cfg); err == nil {
			t.Errorf("%s: started", name)
			stop(t, n)
		}
	}
}

func TestBeyondLoopbackNeedsTLS(t *testing.T) {
	for _, host := range []string{"", "0.0.0.0", "[::]", "192.0.2.1", "troupe.example"} {
		n, err := Start(context.Background(), Config{Name: "n", Listen: host + ":0"})
		if err == nil {
			stop(t, n)
		}
		if err == nil || !strings.Contains(err.Error(), "set TLS") {
			t.Errorf("%q: %v", host, err)
		}
	}
	for _, host := range []string{"127.0.0.1", "localhost"} {
		start(t, Config{Listen: host + ":0"})
	}
}

// The next message comes just as the life has nothing left to do, again and
// again.
func TestNoMessageIsSleptOver(t *testing.T) {
	handled := make(chan struct{}, 1)
	n := start(t, Config{Kinds: []Kind{kindOf("echo", func(ctx actor.Context) {
		if _, ok := ctx.Message().(int); ok {
			handled <- struct{}{}
		}
	})}})
	for i := range 50_000 {
		tell(t, n, "ana", i)
		<-handled
	}
}

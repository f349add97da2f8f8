package cluster

import (
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/troupe-chat/troupe/messages"
)

func BenchmarkTell(b *testing.B) {
	var handled atomic.Int64
	n := start(b, Config{Kinds: []Kind{{Name: "echo", New: func(string) Behaviour { return silent{&handled} }}}})
	var m any = 1
	b.ReportAllocs()
	for b.Loop() {
		if err := n.Tell("echo", "ana", m); err != nil {
			b.Fatal(err)
		}
	}
	for handled.Load() < int64(b.N) {
		runtime.Gosched()
	}
}

func BenchmarkTellMany(b *testing.B) {
	var handled atomic.Int64
	n := start(b, Config{Kinds: []Kind{{Name: "echo", New: func(string) Behaviour { return silent{&handled} }}}})
	ids := identities(1000)
	var m any = 1
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if err := n.Tell("echo", ids[i%len(ids)], m); err != nil {
				b.Fatal(err)
			}
		}
	})
	for handled.Load() < int64(b.N) {
		runtime.Gosched()
	}
}

// BenchmarkComeAndGo is one activation, its message and its passivation.
func BenchmarkComeAndGo(b *testing.B) {
	c := newCrowd(b, 1)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c.ids[0] = strconv.Itoa(i)
		tell(b, c.n, c.ids[0], 1)
		for c.n.Counts()["echo"] > 0 {
			probe(c.n, c.ids[0])
			runtime.Gosched()
		}
	}
}

func BenchmarkRequest(b *testing.B) {
	n := start(b, Config{Kinds: []Kind{kindOf("echo", func(ctx actor.Context) {
		if _, ok := ctx.Message().(*messages.Delivered); ok {
			ctx.Respond(&messages.Attached{})
		}
	})}})
	m := &messages.Delivered{}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := n.Request(b.Context(), "echo", "ana", m); err != nil {
			b.Fatal(err)
		}
	}
}

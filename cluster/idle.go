package cluster

import (
	"sync"
	"time"
)

// wheelTick is how often the wheel turns by a notch; the node's clock moves
// with it.
const wheelTick = 100 * time.Millisecond

// wheel finds the activations that nobody has told anything for a while. It is
// the table itself, walked sector by sector, so that being watched costs an
// activation nothing: no timer, no link.
type wheel struct {
	node   *Node
	after  time.Duration
	notch  int // sectors at a tick
	next   int // Owned by run.
	stop   chan struct{}
	ended  chan struct{}
	ending sync.Once
}

// newWheel makes one that comes round four times in after, so that an idle
// activation is told within 1.25 times after.
func newWheel(n *Node, after time.Duration) *wheel {
	notch := int(4 * sectors * wheelTick / max(after, wheelTick))
	return &wheel{
		node: n, after: after, notch: min(max(notch, 1), sectors),
		stop: make(chan struct{}), ended: make(chan struct{}),
	}
}

func (w *wheel) run() {
	defer close(w.ended)
	ticks := time.NewTicker(wheelTick)
	defer ticks.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-ticks.C:
			w.turn()
		}
	}
}

func (w *wheel) turn() {
	now := w.node.readClock()
	for range w.notch {
		w.visit(w.next, now)
		w.next = (w.next + 1) % sectors
	}
}

func (w *wheel) visit(i int, now int64) {
	for _, k := range w.node.kinds {
		k.sectors[i].each(func(a *activation) { a.askIdle(now, w.after.Milliseconds()) })
	}
}

// end stops run and waits for it.
func (w *wheel) end() {
	w.ending.Do(func() { close(w.stop) })
	<-w.ended
}

// Tick reads the clock and turns the idle wheel once around. The node does so
// by itself, bit by bit; it is for tests that move the clock.
func (n *Node) Tick() {
	now := n.readClock()
	for i := range sectors {
		n.wheel.visit(i, now)
	}
}

func (n *Node) readClock() int64 {
	now := n.now().UnixMilli()
	n.clock.Store(now)
	return now
}

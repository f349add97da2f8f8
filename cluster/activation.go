package cluster

import (
	"reflect"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"
)

// activation is an identity's place in the table. Its queue outlives the
// lives that serve it, one at a time: what a life leaves behind, the next one
// gets. It is out of the table once its queue is sealed.
type activation struct {
	kind     *kind
	identity string
	queue    queue
	life     atomic.Pointer[life] // nil until the first has begun

	depth    atomic.Int32
	failures atomic.Uint32
	handled  atomic.Uint64
	lastAt   atomic.Int64 // ms; of the last message, or of the beginning
	askedAt  atomic.Int64 // ms; when it was last told that it is idle
	lastType atomic.Pointer[messageType]
	rate     rate
}

// messageType is the type of a message with its name.
type messageType struct {
	of   reflect.Type
	name string
}

// An order makes whichever life reads it end. It is no message: it is not
// counted, and does not begin a life.
type order struct{ cause EndCause }

var (
	stopOrder = &order{Stopped}
	lostOrder = &order{Lost}
)

// idleProbe tells a life that it is idle. It becomes a messages.Idle when it
// is read.
type idleProbe struct{}

// push queues n and wakes the current life. It returns false where the
// activation has been released.
func (a *activation) push(n *node) bool {
	a.depth.Add(1)
	if !a.queue.push(n) {
		a.depth.Add(-1)
		return false
	}
	if l := a.life.Load(); l != nil {
		l.wake()
	}
	return true
}

// accepts pushes n, where it is not nil, and reports whether a still takes
// messages.
func (a *activation) accepts(n *node) bool {
	if n == nil {
		return a.queue.head.Load() != sealed
	}
	return a.push(n)
}

// pop takes the oldest message that is for l. Consumer only.
func (a *activation) pop(l *life) *node {
	for {
		n := a.queue.pop()
		if n == nil {
			return nil
		}
		a.depth.Add(-1)
		if n.to == nil || n.to == l {
			return n
		}
		a.kind.node.deadLetter(n)
	}
}

// note records that a message is being handled.
func (a *activation) note(m any) {
	now := a.kind.node.clock.Load()
	a.handled.Add(1)
	a.lastAt.Store(now)
	a.rate.count(now)
	of := reflect.TypeOf(actor.UnwrapEnvelopeMessage(m))
	if last := a.lastType.Load(); last == nil || last.of != of {
		a.lastType.Store(a.kind.node.types.of(of))
	}
}

// askIdle tells a life that has had no message for the given time, once in
// each such time.
func (a *activation) askIdle(now, after int64) {
	asked, l := a.askedAt.Load(), a.life.Load()
	if l == nil || now-max(asked, a.lastAt.Load(), l.since) < after || a.depth.Load() > 0 {
		return
	}
	if a.askedAt.CompareAndSwap(asked, now) {
		a.push(&node{msg: idleProbe{}, to: l})
	}
}

// settle follows the end of a life, on its goroutine: what is left goes to
// the next one, or to the member that owns the identity now; with nothing left
// the activation is released.
func (a *activation) settle() {
	for {
		a.dropLetters()
		switch {
		case a.queue.seal():
			a.kind.release(a)
			return
		case a.queue.out == nil: // something has just come: look again
		case a.kind.node.mayLive(a):
			a.live()
			return
		default:
			a.turnAway()
		}
	}
}

// dropLetters removes what was sent to a PID, and so to a life that is over,
// and the orders: they were about it too.
func (a *activation) dropLetters() {
	a.queue.keep(func(n *node) bool {
		_, ordered := n.msg.(*order)
		if n.to == nil && !ordered {
			return true
		}
		a.depth.Add(-1)
		if !ordered {
			a.kind.node.deadLetter(n)
		}
		return false
	})
}

// turnAway sends what is queued to where it belongs now, unless that is here.
func (a *activation) turnAway() {
	n, p := a.kind.node, a.kind.node.placement.Load()
	if !n.stopping.Load() && p.owns(a.kind.hash(a.identity)) {
		return
	}
	for letter := a.pop(nil); letter != nil; letter = a.pop(nil) {
		if _, ordered := letter.msg.(*order); !ordered {
			n.reroute(p, a, letter)
		}
	}
}

// dropFirst takes away the oldest message: the one that a life was begun for
// and could not begin with.
func (a *activation) dropFirst() {
	for n := a.pop(nil); n != nil; n = a.pop(nil) {
		if _, ordered := n.msg.(*order); !ordered {
			a.kind.node.answerFailed(n.msg)
			return
		}
	}
}

// rateWindow is the time that a rate is taken over.
const rateWindow = 10 * time.Second

// rate counts messages by windows of time. One goroutine counts; any may read.
type rate struct {
	window   atomic.Uint64 // its number in the high half, its count in the low
	previous atomic.Uint32 // count of the window before
}

func (r *rate) count(now int64) {
	number := uint64(now / rateWindow.Milliseconds())
	w := r.window.Load()
	if w>>32 == number {
		r.window.Store(w + 1)
		return
	}
	r.previous.Store(0)
	if w>>32 == number-1 {
		r.previous.Store(uint32(w))
	}
	r.window.Store(number<<32 | 1)
}

// perSecond is the rate over the last window, as it slides.
func (r *rate) perSecond(now int64) float64 {
	size := rateWindow.Milliseconds()
	number, w := uint64(now/size), r.window.Load()
	passed := float64(now%size) / float64(size)
	count := 0.0
	switch w >> 32 {
	case number:
		count = float64(uint32(w)) + (1-passed)*float64(r.previous.Load())
	case number - 1:
		count = (1 - passed) * float64(uint32(w))
	}
	return count / rateWindow.Seconds()
}

package cluster

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/troupe-chat/troupe/messages"
)

// throughput is how many messages a life handles before it lets others run.
const throughput = 300

// life is one running behaviour of an activation: protoactor's mailbox and its
// actor in one. One goroutine at a time works for it, and none while nothing
// is there to do; what has no atomic type belongs to that goroutine.
type life struct {
	a         *activation
	behaviour Behaviour // nil until Started
	invoker   actor.MessageInvoker
	system    queue // protoactor's own messages; they go first
	since     int64 // ms. Immutable.
	running   atomic.Bool

	began     bool // it was given a message
	stillborn bool // it failed before that
	leaving   bool // it called Leave
	failed    bool // it panicked, and is told nothing more
	ending    bool // it takes no more messages
	over      bool // it was told Stopped
	cause     EndCause
}

var (
	stopMessage               = &actor.Stop{}
	_           actor.Mailbox = (*life)(nil)
	_           actor.Actor   = (*life)(nil)
)

// live begins a life of a.
func (a *activation) live() {
	n := a.kind.node
	l := &life{a: a, since: n.clock.Load(), cause: Stopped}
	l.running.Store(true) // held until Start
	n.spawn(l)
}

// Start is called by protoactor once the actor is registered and Started
// waits.
func (l *life) Start() {
	l.a.life.Store(l)
	l.a.kind.node.crew.Go(l)
}

// RegisterHandlers is called by protoactor before Start.
func (l *life) RegisterHandlers(invoker actor.MessageInvoker, _ actor.Dispatcher) {
	l.invoker = invoker
}

// PostUserMessage is how messages come that were sent to the PID. A PID names
// one life: they are for no other.
func (l *life) PostUserMessage(m any) {
	n := &node{msg: m, to: l}
	if !l.a.push(n) {
		l.a.kind.node.deadLetter(n)
	}
}

// PostSystemMessage is how protoactor's own messages come.
func (l *life) PostSystemMessage(m any) {
	if !l.system.push(&node{msg: m}) {
		l.a.kind.node.system.DeadLetter.SendSystemMessage(l.pid(), m)
		return
	}
	l.wake()
}

// UserMessageCount is the depth of the queue.
func (l *life) UserMessageCount() int { return int(l.a.depth.Load()) }

func (l *life) pid() *actor.PID { return l.invoker.(actor.Context).Self() }

func (l *life) wake() {
	if !l.running.Load() && l.running.CompareAndSwap(false, true) {
		l.a.kind.node.crew.Go(l)
	}
}

// Run handles messages until nothing is there to do. After the end it leaves
// running set: nobody works for this life again.
func (l *life) Run() {
	for {
		l.drain()
		if l.over {
			l.end()
			return
		}
		ending := l.ending
		l.running.Store(false)
		more := l.system.arrived() || !ending && l.a.queue.arrived()
		if !more || !l.running.CompareAndSwap(false, true) {
			return
		}
	}
}

func (l *life) drain() {
	for i := 1; !l.over && l.step(); i++ {
		if i%throughput == 0 {
			runtime.Gosched()
		}
	}
}

// step handles one message, or returns false where there is none to handle.
func (l *life) step() bool {
	if n := l.system.pop(); n != nil {
		l.handleSystem(n.msg)
		return true
	}
	if l.ending {
		return false
	}
	n := l.a.pop(l)
	if n == nil {
		return false
	}
	l.handle(n.msg)
	return true
}

func (l *life) handle(m any) {
	switch m := m.(type) {
	case *order:
		l.stop(m.cause)
		return
	case idleProbe:
		l.handleIdle()
	case inspectProbe:
		l.invoker.InvokeUserMessage(m.message())
	default:
		l.began = true
		l.a.note(m)
		l.invoker.InvokeUserMessage(m)
	}
	l.endIfDone()
}

func (l *life) handleIdle() {
	var open atomic.Bool
	open.Store(true)
	l.invoker.InvokeUserMessage(&messages.Idle{Leave: func() {
		if open.Load() {
			l.leaving = true
		}
	}})
	open.Store(false)
}

func (l *life) handleSystem(m any) {
	switch m.(type) {
	case *actor.SuspendMailbox, *actor.ResumeMailbox:
		return // they frame a restart, and a life never restarts
	case *actor.Stop, *actor.Restart:
		l.stop(Stopped)
		return
	}
	l.invoke(m)
	l.endIfDone()
}

// invoke runs one system message. A continuation of ReenterAfter runs outside
// Receive, so that its panic is met here.
func (l *life) invoke(m any) {
	defer func() {
		if r := recover(); r != nil {
			l.fail(r, m)
		}
	}()
	l.invoker.InvokeSystemMessage(m)
}

func (l *life) endIfDone() {
	switch {
	case l.failed:
		l.stillborn = !l.began
		l.stop(Failed)
	case l.leaving:
		l.stop(Passivated)
	}
}

// stop makes the life end: protoactor stops what it spawned, then tells it
// Stopped.
func (l *life) stop(cause EndCause) {
	if l.ending {
		return
	}
	l.ending, l.cause = true, cause
	l.invoke(stopMessage)
}

// Receive is how protoactor hands over a message. Its panics end this life and
// nobody else's.
func (l *life) Receive(ctx actor.Context) {
	defer func() {
		if r := recover(); r != nil {
			l.fail(r, ctx.Message())
			l.a.kind.node.answerFailed(&actor.MessageEnvelope{Sender: ctx.Sender()})
		}
	}()
	if _, stopped := ctx.Message().(*actor.Stopped); stopped && l.ending {
		l.over = true
	}
	if l.failed {
		return
	}
	if l.behaviour == nil {
		l.behaviour = l.a.kind.make(l.a.identity)
	}
	l.behaviour.Receive(ctx)
}

// fail notes a panic. Its value is logged only where it can't hold content.
func (l *life) fail(reason, m any) {
	l.failed, l.cause = true, Failed
	l.a.failures.Add(1)
	l.a.kind.node.log.Error("an activation failed",
		"kind", l.a.kind.name, "identity", l.a.identity,
		"message", fmt.Sprintf("%T", m), "reason", harmless(reason),
		"stack", string(debug.Stack()))
}

func harmless(reason any) string {
	if err, ok := reason.(runtime.Error); ok {
		return err.Error()
	}
	return fmt.Sprintf("%T", reason)
}

// end comes after Stopped. Whoever watches a life that is over is told so.
func (l *life) end() {
	for !l.system.seal() {
		for n := l.system.pop(); n != nil; n = l.system.pop() {
			if _, watch := n.msg.(*actor.Watch); watch {
				l.invoke(n.msg)
			}
		}
	}
	if l.stillborn {
		l.a.dropFirst()
	}
	l.a.kind.node.ended(l.a, l.cause)
	l.a.settle()
}

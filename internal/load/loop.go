//go:build linux

package load

import (
	"container/heap"
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// readBuffer is shared by all connections of a loop, so the bytes of one read
// are still in the cache when they are parsed.
const readBuffer = 256 << 10

// loop runs some of the clients: one goroutine in run owns all of them. Only
// do may be called from elsewhere.
type loop struct {
	poll  *poller
	epoch time.Time
	now   time.Duration // since epoch, as of the last tick
	idle  time.Duration // spent waiting for sockets
	buf   []byte
	conns []*conn
	dirty []*conn
	timer timers
	gone  bool

	mu     sync.Mutex
	tasks  []func() // guarded by mu
	closed bool     // guarded by mu
}

func newLoop(epoch time.Time) (*loop, error) {
	p, err := newPoller()
	if err != nil {
		return nil, err
	}
	return &loop{poll: p, epoch: epoch, buf: make([]byte, readBuffer)}, nil
}

// do has f called by the loop, soon. A loop that has ended calls nothing.
func (l *loop) do(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tasks = append(l.tasks, f)
	if !l.closed {
		l.poll.wake()
	}
}

// run serves the connections until stop is called or ctx ends, then closes
// them all.
func (l *loop) run(ctx context.Context) error {
	defer l.close()
	defer context.AfterFunc(ctx, func() { l.do(func() {}) })()
	for !l.gone && ctx.Err() == nil {
		ready, err := l.wait()
		if err != nil {
			return fmt.Errorf("wait for sockets: %w", err)
		}
		for i := range ready {
			l.handle(&ready[i])
		}
		l.timer.run(l.now)
		l.flush()
	}
	return ctx.Err()
}

func (l *loop) wait() ([]unix.EpollEvent, error) {
	l.tick()
	since := l.now
	ready, err := l.poll.wait(l.timer.until(l.now))
	l.tick()
	l.idle += l.now - since
	return ready, err
}

// stop ends run. Called by the loop.
func (l *loop) stop() { l.gone = true }

func (l *loop) handle(e *unix.EpollEvent) {
	if e.Fd == wakeIndex {
		l.poll.drainWake()
		l.runTasks()
		return
	}
	c := l.conns[e.Fd]
	if !c.gone && e.Events&unix.EPOLLOUT != 0 {
		c.writable()
	}
	if !c.gone && e.Events&^uint32(unix.EPOLLOUT) != 0 {
		c.readable()
		c.flush()
	}
}

func (l *loop) runTasks() {
	l.mu.Lock()
	tasks := l.tasks
	l.tasks = nil
	l.mu.Unlock()
	for _, f := range tasks {
		f()
	}
}

func (l *loop) flush() {
	for _, c := range l.dirty {
		c.dirty = false
		c.flush()
	}
	clear(l.dirty)
	l.dirty = l.dirty[:0]
}

func (l *loop) tick() { l.now = time.Since(l.epoch) }

// add makes a connection of a socket, which the loop owns from then on.
func (l *loop) add(fd int, to receiver) (*conn, error) {
	c := &conn{loop: l, index: len(l.conns), fd: fd, to: to}
	if err := l.poll.add(fd, c.index); err != nil {
		unix.Close(fd)
		return nil, err
	}
	l.conns = append(l.conns, c)
	return c, nil
}

// roomFor makes the read buffer large enough to go on after n bytes that are
// not yet a whole frame.
func (l *loop) roomFor(n int) error {
	if n > maxFrame {
		return errFrame
	}
	if n > len(l.buf)/2 {
		l.buf = make([]byte, 2*len(l.buf))
	}
	return nil
}

func (l *loop) close() {
	for _, c := range l.conns {
		c.close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.poll.close()
}

// after has f called by the loop d from now. Called by the loop.
func (l *loop) after(d time.Duration, f func()) { heap.Push(&l.timer, timer{l.now + d, f}) }

type timer struct {
	due time.Duration
	f   func()
}

// timers is a heap of timers by when they are due.
type timers []timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].due < t[j].due }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *timers) Push(x any)        { *t = append(*t, x.(timer)) }

func (t *timers) Pop() any {
	old := *t
	last := old[len(old)-1]
	old[len(old)-1] = timer{}
	*t = old[:len(old)-1]
	return last
}

// until returns how long after now the first timer is due, or -1.
func (t timers) until(now time.Duration) time.Duration {
	if len(t) == 0 {
		return -1
	}
	return max(t[0].due-now, 0)
}

// run calls what is due.
func (t *timers) run(now time.Duration) {
	for len(*t) > 0 && (*t)[0].due <= now {
		heap.Pop(t).(timer).f()
	}
}

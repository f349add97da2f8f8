// Package crew runs tasks on goroutines that stay for the next one, with the
// stacks that they have grown: a goroutine made for each short task grows its
// stack anew each time, which can cost more than the task.
package crew

import "sync"

// Task is something to do. A pointer type makes handing it over free.
type Task interface{ Run() }

// Func makes a task of a function.
type Func func()

// Run calls f.
func (f Func) Run() { f() }

// Crew is a group of goroutines. Safe for concurrent use.
type Crew struct {
	most, keep int // Immutable.

	mu     sync.Mutex // guards what follows
	idle   []chan Task
	queue  []Task // while most goroutines are busy
	made   int
	closed bool
	ended  sync.WaitGroup
}

// New returns a crew of at most most goroutines (0: as many as there are tasks
// at once), of which up to keep wait for the next task.
func New(most, keep int) *Crew { return &Crew{most: most, keep: keep} }

// Go hands over a task. It never blocks; callers bound how many they hand
// over. Beyond most tasks at once they are begun in order. After Close a task
// is dropped.
func (c *Crew) Go(t Task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch n := len(c.idle); {
	case c.closed:
	case n > 0:
		c.idle[n-1] <- t // the last to be done: its stack is warm
		c.idle = c.idle[:n-1]
	case c.most == 0 || c.made < c.most:
		c.made++
		c.ended.Go(func() { c.run(t) })
	default:
		c.queue = append(c.queue, t)
	}
}

// Do is Go for a function.
func (c *Crew) Do(f func()) { c.Go(Func(f)) }

func (c *Crew) run(t Task) {
	next := make(chan Task, 1)
	for t != nil {
		t.Run()
		if t = c.queued(next); t == nil {
			t = <-next
		}
	}
}

// queued takes a task off the queue, or has the caller wait at next.
func (c *Crew) queued(next chan Task) Task {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) > 0 {
		t := c.queue[0]
		c.queue[0] = nil
		if c.queue = c.queue[1:]; len(c.queue) == 0 {
			c.queue = nil
		}
		return t
	}
	if c.closed || len(c.idle) >= c.keep {
		c.made--
		close(next)
		return nil
	}
	c.idle = append(c.idle, next)
	return nil
}

// Close lets what was handed over finish, and ends the goroutines.
func (c *Crew) Close() {
	c.mu.Lock()
	c.closed = true
	for _, next := range c.idle {
		close(next)
	}
	c.idle = nil
	c.mu.Unlock()
	c.ended.Wait()
}

package crew

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestEverythingRunsOnFewGoroutines(t *testing.T) {
	const most, tasks = 3, 1000
	c := New(most, most)
	var running, peak, done atomic.Int64
	for range tasks {
		c.Go(Func(func() {
			n := running.Add(1)
			for old := peak.Load(); n > old && !peak.CompareAndSwap(old, n); old = peak.Load() {
			}
			done.Add(1)
			running.Add(-1)
		}))
	}
	c.Close()
	if done.Load() != tasks || peak.Load() > most {
		t.Fatalf("%d of %d tasks ran, %d at once", done.Load(), tasks, peak.Load())
	}
}

func TestOneGoroutineKeepsOrder(t *testing.T) {
	c := New(1, 1)
	var got []int
	for i := range 100 {
		c.Go(Func(func() { got = append(got, i) }))
	}
	c.Close()
	for i, n := range got {
		if i != n {
			t.Fatalf("task %d ran at place %d", n, i)
		}
	}
}

func TestABlockedTaskKeepsNobodyWaiting(t *testing.T) {
	c := New(0, 1)
	hold := make(chan struct{})
	var wait sync.WaitGroup
	for range 10 {
		c.Go(Func(func() { <-hold }))
	}
	for range 10 {
		wait.Add(1)
		c.Go(Func(wait.Done))
	}
	wait.Wait()
	close(hold)
	c.Close()
}

func TestNothingRunsAfterClose(t *testing.T) {
	c := New(2, 2)
	c.Go(Func(func() {}))
	c.Close()
	c.Go(Func(func() { t.Error("a task ran after Close") }))
	c.Close()
}

func BenchmarkGo(b *testing.B) {
	c := New(0, 64)
	defer c.Close()
	var wait sync.WaitGroup
	task := Func(wait.Done)
	for range b.N {
		wait.Add(1)
		c.Go(task)
		wait.Wait()
	}
}

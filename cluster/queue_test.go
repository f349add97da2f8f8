package cluster

import (
	"sync"
	"testing"
	"testing/synctest"
)

func TestQueueKeepsEachSendersOrder(t *testing.T) {
	const senders, each = 4, 5000
	var q queue
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for i := range each {
				q.push(&node{msg: sequence{s, i}})
			}
		})
	}
	var all []sequence
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for finished := false; ; {
		for n := q.pop(); n != nil; n = q.pop() {
			all = append(all, n.msg.(sequence))
		}
		if finished {
			break
		}
		select {
		case <-done:
			finished = true
		default:
		}
	}
	checkSequences(t, all, senders, each)
}

func TestASealedQueueTakesNothing(t *testing.T) {
	var q queue
	q.push(&node{msg: 1})
	if q.seal() {
		t.Fatal("a queue that holds something was sealed")
	}
	q.pop()
	if !q.seal() {
		t.Fatal("an empty queue was not sealed")
	}
	if q.push(&node{msg: 2}) || q.pop() != nil {
		t.Error("a sealed queue took something")
	}
}

func TestKeepLeavesTheRestInOrder(t *testing.T) {
	var q queue
	for i := range 6 {
		q.push(&node{msg: i})
		if i == 2 {
			q.pop() // so that some have been taken over already
		}
	}
	q.keep(func(n *node) bool { return n.msg.(int)%2 == 1 })
	for _, want := range []int{1, 3, 5} {
		if n := q.pop(); n == nil || n.msg != want {
			t.Fatalf("got %v, want %d", n, want)
		}
	}
	if q.pop() != nil {
		t.Error("more is left")
	}
}

func TestABurstLeavesNothing(t *testing.T) {
	var q queue
	before := heap()
	for range 1_000_000 {
		q.push(&node{})
	}
	for q.pop() != nil {
	}
	if left := heap() - before; left > 1<<20 {
		t.Errorf("%d bytes are left of a burst", left)
	}
}

func TestRateSlides(t *testing.T) {
	synctest.Test(t, func(*testing.T) {
		var r rate
		now := int64(1_700_000_000_000)
		for range 100 {
			r.count(now)
			now += 100
		}
		for passed, want := range map[int64]float64{0: 10, 5000: 5, 10_000: 0, 60_000: 0} {
			if got := r.perSecond(now + passed); got != want {
				t.Errorf("after %d ms: %v a second, want %v", passed, got, want)
			}
		}
	})
}

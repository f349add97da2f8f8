package cluster

import "sync/atomic"

// queue takes messages from any number of goroutines, without locks, and
// gives them to one consumer in the order of arrival. What was taken is
// garbage at once: a burst leaves nothing behind. The zero value is empty.
type queue struct {
	head atomic.Pointer[node] // what arrived last, first
	out  *node                // what arrived first, first. Owned by the consumer.
}

// node is one message in a queue.
type node struct {
	next *node
	msg  any
	to   *life // the only activation that may have it; nil: whichever is current
}

// sealed is the head of a queue that takes nothing any more.
var sealed = &node{}

// push adds n, or returns false where the queue is sealed.
func (q *queue) push(n *node) bool {
	for {
		head := q.head.Load()
		if head == sealed {
			return false
		}
		n.next = head
		if q.head.CompareAndSwap(head, n) {
			return true
		}
	}
}

// pop returns the oldest message, or nil. Consumer only.
func (q *queue) pop() *node {
	if q.out == nil {
		q.out = q.take()
	}
	n := q.out
	if n != nil {
		q.out, n.next = n.next, nil
	}
	return n
}

// take empties head and returns what was there, oldest first.
func (q *queue) take() *node {
	if h := q.head.Load(); h == nil || h == sealed {
		return nil
	}
	var oldest *node
	for n := q.head.Swap(nil); n != nil; {
		n.next, oldest, n = oldest, n, n.next
	}
	return oldest
}

// arrived reports whether something came since the last pop that returned
// nil. Anyone may call it.
func (q *queue) arrived() bool { return q.head.Load() != nil }

// seal closes an empty queue for good, or returns false where it holds
// something. Consumer only.
func (q *queue) seal() bool {
	return q.out == nil && q.head.CompareAndSwap(nil, sealed)
}

// keep removes what keep refuses and leaves the rest in order. Consumer only.
func (q *queue) keep(keep func(*node) bool) {
	var first *node
	last := &first
	for n := q.pop(); n != nil; n = q.pop() {
		if keep(n) {
			*last, last = n, &n.next
		}
	}
	q.out = first
}

package relay

import "sync"

// queue hands over what has gathered, all at once. Safe for concurrent use.
type queue[T any] struct {
	mu     sync.Mutex
	filled sync.Cond
	items  []T  // guarded by mu
	closed bool // guarded by mu
}

func newQueue[T any]() *queue[T] {
	q := &queue[T]{}
	q.filled.L = &q.mu
	return q
}

func (q *queue[T]) put(items ...T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = append(q.items, items...)
	q.filled.Broadcast()
}

// close lets takers end when what is left has been taken.
func (q *queue[T]) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.filled.Broadcast()
}

// takeAll waits for items and returns all there are; spare is used for those
// that come next. It returns none when the queue is closed and empty.
func (q *queue[T]) takeAll(spare []T) []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.items) == 0 && !q.closed {
		q.filled.Wait()
	}
	items := q.items
	q.items = spare[:0]
	return items
}

// take waits for one item; false when the queue is closed and empty.
func (q *queue[T]) take() (T, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.items) == 0 && !q.closed {
		q.filled.Wait()
	}
	if len(q.items) == 0 {
		var none T
		return none, false
	}
	item := q.items[0]
	q.items = append(q.items[:0], q.items[1:]...)
	if len(q.items) > 0 {
		q.filled.Signal()
	}
	return item, true
}

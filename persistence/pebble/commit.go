package pebble

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// Bounds of one group: the rest waits for the next.
const (
	groupBytes  = 1 << 20
	groupWrites = 4096
)

// stage adds one write to a group. It runs on the committing goroutine. What
// it returns is the write's outcome if the group becomes durable; an append
// that returns an error has added nothing.
type stage func(g *group) error

type write struct {
	stage stage
	done  persistence.Done
}

// group is what one fsync makes durable: many writes in one Pebble batch.
// Owned by the committing goroutine, then by the answering one.
type group struct {
	s        *Store
	batch    *pebble.Batch
	written  map[string][]byte // values of this group that its later writes read
	appended []*persistence.Batch
	cursors  []messages.ConversationID // whose members' cursors it moves
	outcomes []outcome
	durable  chan struct{} // closed when it is
}

type outcome struct {
	done persistence.Done
	err  error
}

func (s *Store) newGroup() *group {
	return &group{s: s, batch: s.db.NewBatch(), durable: make(chan struct{})}
}

// get returns the value of k as the group will leave it, nil where there is
// none. It sees what the group wrote by put, not by set.
func (g *group) get(k key) ([]byte, error) {
	if value, ok := g.written[string(k)]; ok {
		return value, nil
	}
	return get(g.s.db, k)
}

// put writes a value that later writes of the group may get.
func (g *group) put(k key, value []byte) {
	if g.written == nil {
		g.written = make(map[string][]byte)
	}
	g.written[string(k)] = value
	g.set(k, value)
}

// A batch refuses a write only when it is too large, or closed: neither
// happens here, so that an error would be a fault of this program.
func (g *group) set(k key, value []byte) { must(g.batch.Set(k, value, nil)) }

func (g *group) delete(k key) { must(g.batch.Delete(k, nil)) }

func (g *group) deleteRange(from, end key) { must(g.batch.DeleteRange(from, end, nil)) }

func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("adding to a batch: %v", err))
	}
}

// forget makes the keys with prefix that the group wrote read as gone.
func (g *group) forget(prefix key) {
	for k := range g.written {
		if strings.HasPrefix(k, string(prefix)) {
			g.written[k] = nil
		}
	}
}

func (g *group) full() bool {
	return g.batch.Len() > groupBytes || len(g.outcomes) >= groupWrites
}

// submit hands a write over. done is called once, on a goroutine of the
// store's: nil when it is durable.
func (s *Store) submit(st stage, done persistence.Done) {
	if s.disk.full() || !s.queue.put(write{st, done}) {
		s.refuse(done)
	}
}

// refuse answers a write that is not even queued, off the caller's goroutine:
// on one that ends with done, which must not block.
func (s *Store) refuse(done persistence.Done) {
	go done(persistence.ErrUnavailable)
}

// write submits a write and waits for it. Where ctx ends first, the outcome
// is not known.
func (s *Store) write(ctx context.Context, doing string, st stage) error {
	return s.writeThen(ctx, doing, st, func() {})
}

// writeThen is write that calls after when the write is decided, even where
// ctx has ended before.
func (s *Store) writeThen(ctx context.Context, doing string, st stage, after func()) error {
	answer := make(chan error, 1)
	s.submit(st, func(err error) {
		after()
		answer <- err
	})
	select {
	case err := <-answer:
		if err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w: %w", doing, persistence.ErrUnknown, ctx.Err())
	}
}

// commitAll stages, applies and syncs all writes, until the queue is closed.
// What comes meanwhile waits for the next group: where syncs are slow, it is
// the number of them that a write waits for that counts, not what one of them
// carries.
func (s *Store) commitAll() {
	defer close(s.durable)
	for writes := s.queue.take(); writes != nil; writes = s.queue.take() {
		for len(writes) > 0 {
			g := s.newGroup()
			writes = g.stage(writes)
			s.apply(g)
			if err := s.syncBatch(g.batch); err != nil {
				s.fail(fmt.Errorf("syncing a batch: %w", err))
			}
			s.durable <- g
		}
	}
}

// stage adds writes until the group is full, and returns the rest.
func (g *group) stage(writes []write) []write {
	unavailable := g.s.disk.scarce()
	for i, w := range writes {
		if g.full() {
			return writes[i:]
		}
		err := unavailable
		if err == nil {
			err = w.stage(g)
		}
		g.outcomes = append(g.outcomes, outcome{w.done, err})
	}
	return nil
}

// apply shows the group to readers. What it appends is in flight before.
func (s *Store) apply(g *group) {
	if g.batch.Empty() {
		return
	}
	s.flight.begin(g)
	s.stats.committed(g)
	if err := s.applyBatch(g.batch); err != nil {
		s.fail(fmt.Errorf("applying a batch: %w", err))
	}
}

func (s *Store) applyBatch(b *pebble.Batch) error {
	if s.opts.NoSync {
		return s.db.Apply(b, pebble.NoSync)
	}
	return s.db.ApplyNoSyncWait(b, pebble.Sync)
}

// answerAll answers the writes of each group that is on the disk, while the
// next is committed.
func (s *Store) answerAll() {
	for g := range s.durable {
		if s.broken.Load() {
			g.answer(persistence.ErrUnknown)
			continue
		}
		s.flight.end(g)
		close(g.durable)
		g.answer(nil)
		g.batch.Close()
	}
}

func (s *Store) syncBatch(b *pebble.Batch) error {
	if b.Empty() || s.opts.NoSync {
		return nil
	}
	return b.SyncWait()
}

// answer calls all done functions: with the write's own outcome, or with the
// group's, where that is an error.
func (g *group) answer(err error) {
	for _, o := range g.outcomes {
		if o.err != nil {
			o.done(o.err)
			continue
		}
		o.done(err)
	}
}

// fail ends the process. Where a test's Fatal returns, no write is ever
// acknowledged again and none of the group's is served.
func (s *Store) fail(err error) {
	s.broken.Store(true)
	s.opts.Fatal(err)
}

// queue hands writes from their callers to the committing goroutine, in order.
type queue struct {
	mu     sync.Mutex
	filled sync.Cond
	writes []write // guarded by mu
	closed bool    // guarded by mu
}

// put adds a write, or returns false where the queue is closed.
func (q *queue) put(w write) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.writes = append(q.writes, w)
	q.filled.Signal()
	return true
}

// take waits for writes and takes all of them; nil: closed and empty.
func (q *queue) take() []write {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.writes) == 0 && !q.closed {
		q.filled.Wait()
	}
	writes := q.writes
	q.writes = nil
	return writes
}

// close refuses what comes later, and returns false where it was closed.
func (q *queue) close() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	was := q.closed
	q.closed = true
	q.filled.Signal()
	return !was
}

// Stats counts since the store was opened.
type Stats struct {
	Appends   uint64 // batches appended
	Rows      uint64 // entries in them
	Conflicts uint64 // appends refused with ErrConflict
	Repeated  uint64 // appends found to be written already
	Writes    uint64 // durable writes asked for and done: appends, marks, cursors, …
	Commits   uint64 // groups of them, each with a share of one fsync
	Bytes     uint64 // of keys and values
}

type counters struct {
	appends, rows, conflicts, repeated, writes, commits, bytes atomic.Uint64
}

func (c *counters) committed(g *group) {
	for _, o := range g.outcomes {
		if o.err == nil {
			c.writes.Add(1)
		}
	}
	c.commits.Add(1)
	c.bytes.Add(uint64(g.batch.Len()))
}

// Stats returns the counters, each exact, not all of one moment.
func (s *Store) Stats() Stats {
	c := &s.stats
	return Stats{
		Appends: c.appends.Load(), Rows: c.rows.Load(), Conflicts: c.conflicts.Load(),
		Repeated: c.repeated.Load(), Writes: c.writes.Load(), Commits: c.commits.Load(), Bytes: c.bytes.Load(),
	}
}

// Package faulty makes a store fail as stores do: on command, at the n-th call
// of an operation or at random, before or after it is done. For tests of what
// uses a store.
package faulty

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// Op is an operation that can be made to fail.
type Op string

// The operations. The writes among them are those that answer by a Done.
const (
	Append       Op = "append"
	Mark         Op = "mark"
	SaveDevice   Op = "save device"
	SaveMembers  Op = "save members"
	SaveSettings Op = "save settings"

	Load        Op = "load"
	Heads       Op = "heads"
	Read        Op = "read"
	Know        Op = "know"
	Recent      Op = "recent"
	Memberships Op = "memberships"
)

// Fault is what happens to a call.
type Fault int

// The faults. A read knows only Refused.
const (
	None    Fault = iota
	Refused       // ErrUnavailable; nothing is done
	Lost          // ErrUnknown; nothing is done
	Unheard       // it is done, and then answered with ErrUnknown
)

// Store is a store with faults. Without any it is the store it wraps. All
// methods may be called concurrently.
type Store struct {
	persistence.Store
	answers sync.WaitGroup

	mu     sync.Mutex
	calls  map[Op]int                // guarded by mu; how many were made
	made   chan struct{}             // guarded by mu; closed at the next call
	faults map[Op]map[int]Fault      // guarded by mu; by the number of the call
	random func(Op) Fault            // guarded by mu
	delay  func(context.Context, Op) // guarded by mu
	gates  map[Op]*gate              // guarded by mu
}

// gate holds the calls of one operation.
type gate struct {
	opened chan struct{}
	writes []func() // guarded by Store.mu; in the order of the calls
}

// Wrap returns s with no faults yet.
func Wrap(s persistence.Store) *Store {
	return &Store{
		Store:  s,
		calls:  make(map[Op]int),
		made:   make(chan struct{}),
		faults: make(map[Op]map[int]Fault),
		random: func(Op) Fault { return None },
		delay:  func(context.Context, Op) {},
		gates:  make(map[Op]*gate),
	}
}

// Fail makes the n-th call of op from now fail so; 1 is the next.
func (s *Store) Fail(op Op, n int, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults[op] == nil {
		s.faults[op] = make(map[int]Fault)
	}
	s.faults[op][s.calls[op]+n] = f
}

// Randomly lets choose decide on every call that Fail says nothing of.
func (s *Store) Randomly(choose func(Op) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.random = choose
}

// Chance returns what makes a share p of the calls of op fail by one of
// faults, the same ones for the same seed.
func Chance(seed uint64, op Op, p float64, faults ...Fault) func(Op) Fault {
	r := rand.New(rand.NewPCG(seed, seed))
	return func(o Op) Fault {
		if o != op || r.Float64() >= p {
			return None
		}
		return faults[r.IntN(len(faults))]
	}
}

// Delay calls f before every read, on the goroutine that reads: it may wait.
func (s *Store) Delay(f func(context.Context, Op)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = f
}

// Hold keeps the calls of op from now on from being done, until release is
// called: then they are, in their order. Held writes do not block their
// callers.
func (s *Store) Hold(op Op) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := &gate{opened: make(chan struct{})}
	s.gates[op] = g
	return sync.OnceFunc(func() { s.release(op, g) })
}

func (s *Store) release(op Op, g *gate) {
	for writes := s.heldWrites(op, g); len(writes) > 0; writes = s.heldWrites(op, g) {
		for _, w := range writes {
			w()
		}
	}
	close(g.opened)
}

// heldWrites takes the writes that wait at g. Where there are none, the gate
// is gone: until then later writes queue behind them.
func (s *Store) heldWrites(op Op, g *gate) []func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	writes := g.writes
	g.writes = nil
	if len(writes) == 0 && s.gates[op] == g {
		delete(s.gates, op)
	}
	return writes
}

// Calls returns how many calls of op were made, held ones included.
func (s *Store) Calls(op Op) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[op]
}

// Await waits until n calls of op were made, held ones included.
func (s *Store) Await(ctx context.Context, op Op, n int) error {
	for {
		s.mu.Lock()
		calls, made := s.calls[op], s.made
		s.mu.Unlock()
		if calls >= n {
			return nil
		}
		select {
		case <-made:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d calls of %s: %w", calls, n, op, ctx.Err())
		}
	}
}

// Close closes the store that is wrapped, when every fault was answered.
func (s *Store) Close() error {
	s.answers.Wait()
	return s.Store.Close()
}

// next counts a call of op and returns its fault. The caller holds mu.
func (s *Store) next(op Op) Fault {
	s.calls[op]++
	close(s.made)
	s.made = make(chan struct{})
	if f, ok := s.faults[op][s.calls[op]]; ok {
		return f
	}
	return s.random(op)
}

// write makes a write with its fault, now or when its gate opens.
func (s *Store) write(op Op, do func(persistence.Done), done persistence.Done) {
	s.mu.Lock()
	fault := s.next(op)
	call := func() { s.answer(fault, do, done) }
	if g := s.gates[op]; g != nil {
		g.writes = append(g.writes, call)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	call()
}

func (s *Store) answer(f Fault, do func(persistence.Done), done persistence.Done) {
	switch f {
	case Refused:
		s.answers.Go(func() { done(persistence.ErrUnavailable) })
	case Lost:
		s.answers.Go(func() { done(persistence.ErrUnknown) })
	case Unheard:
		do(func(error) { done(persistence.ErrUnknown) })
	default:
		do(done)
	}
}

// read comes before a read: it waits as long as that is held or delayed, and
// returns the error that it fails with.
func (s *Store) read(ctx context.Context, op Op) error {
	s.mu.Lock()
	fault, delay, g := s.next(op), s.delay, s.gates[op]
	s.mu.Unlock()
	if g != nil {
		select {
		case <-g.opened:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	delay(ctx, op)
	if fault != None {
		return persistence.ErrUnavailable
	}
	return nil
}

// ---------------------------------------------------------------- the operations

// Append implements persistence.Log.
func (s *Store) Append(b *persistence.Batch, done persistence.Done) {
	s.write(Append, func(d persistence.Done) { s.Store.Append(b, d) }, done)
}

// Mark implements persistence.Log.
func (s *Store) Mark(marks []persistence.Mark, done persistence.Done) {
	s.write(Mark, func(d persistence.Done) { s.Store.Mark(marks, d) }, done)
}

// SaveDevice implements persistence.Cursors.
func (s *Store) SaveDevice(k persistence.DeviceKey, ps []persistence.Position, caughtUp int64, done persistence.Done) {
	s.write(SaveDevice, func(d persistence.Done) { s.Store.SaveDevice(k, ps, caughtUp, d) }, done)
}

// SaveMembers implements persistence.Cursors.
func (s *Store) SaveMembers(c messages.ConversationID, ms []persistence.MemberCursor, at int64, done persistence.Done) {
	s.write(SaveMembers, func(d persistence.Done) { s.Store.SaveMembers(c, ms, at, d) }, done)
}

// SaveSettings implements persistence.Memberships.
func (s *Store) SaveSettings(u messages.UserID, c messages.ConversationID, to persistence.Settings, done persistence.Done) {
	s.write(SaveSettings, func(d persistence.Done) { s.Store.SaveSettings(u, c, to, d) }, done)
}

// Load implements persistence.Log.
func (s *Store) Load(ctx context.Context, c messages.ConversationID) (persistence.Head, []byte, error) {
	if err := s.read(ctx, Load); err != nil {
		return persistence.Head{}, nil, err
	}
	return s.Store.Load(ctx, c)
}

// Heads implements persistence.Log.
func (s *Store) Heads(ctx context.Context, cs []messages.ConversationID) ([]persistence.Head, error) {
	if err := s.read(ctx, Heads); err != nil {
		return nil, err
	}
	return s.Store.Heads(ctx, cs)
}

// Read implements persistence.Log.
func (s *Store) Read(ctx context.Context, c messages.ConversationID, r persistence.Range) ([]persistence.Row, error) {
	if err := s.read(ctx, Read); err != nil {
		return nil, err
	}
	return s.Store.Read(ctx, c, r)
}

// Know implements persistence.Log.
func (s *Store) Know(ctx context.Context, c messages.ConversationID, q persistence.Query) (persistence.Answer, error) {
	if err := s.read(ctx, Know); err != nil {
		return persistence.Answer{}, err
	}
	return s.Store.Know(ctx, c, q)
}

// Recent implements persistence.Log.
func (s *Store) Recent(ctx context.Context, c messages.ConversationID, limit int) ([]persistence.Dedup, bool, error) {
	if err := s.read(ctx, Recent); err != nil {
		return nil, false, err
	}
	return s.Store.Recent(ctx, c, limit)
}

// Memberships implements persistence.Memberships.
func (s *Store) Memberships(ctx context.Context, u messages.UserID) ([]persistence.Membership, error) {
	if err := s.read(ctx, Memberships); err != nil {
		return nil, err
	}
	return s.Store.Memberships(ctx, u)
}

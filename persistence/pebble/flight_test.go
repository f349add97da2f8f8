package pebble

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// syncFS is a file system whose syncs can be held, or made to fail.
type syncFS struct {
	vfs.FS
	mu   sync.Mutex
	gate chan struct{} // guarded by mu; nil: open
	err  error         // guarded by mu
}

func (f *syncFS) hold() (release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	gate := make(chan struct{})
	f.gate = gate
	return sync.OnceFunc(func() { close(gate) })
}

func (f *syncFS) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *syncFS) sync(do func() error) error {
	f.mu.Lock()
	gate, err := f.gate, f.err
	f.mu.Unlock()
	if gate != nil {
		<-gate
	}
	if err != nil {
		return err
	}
	return do()
}

type syncFile struct {
	vfs.File
	fs *syncFS
}

func (f *syncFile) Sync() error     { return f.fs.sync(f.File.Sync) }
func (f *syncFile) SyncData() error { return f.fs.sync(f.File.SyncData) }

func (f *syncFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, category)
	return &syncFile{file, f}, err
}

func (f *syncFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.ReuseForWrite(oldname, newname, category)
	return &syncFile{file, f}, err
}

func openWith(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// applied waits until what was handed over before is applied to Pebble.
func applied(s *Store) {
	staged := make(chan struct{})
	s.submit(func(*group) error {
		close(staged)
		return nil
	}, func(error) {})
	<-staged
}

// durableClock stands at the time of the entries of these tests.
func durableClock() time.Time { return time.UnixMilli(at) }

const (
	held  = messages.ConversationID("d:ana~bo")
	other = messages.ConversationID("g:other")
)

// What is not durable is not served by any read, though Pebble has it.
func TestNothingIsServedBeforeItIsDurable(t *testing.T) { synctest.Test(t, nothingServed) }

func nothingServed(t *testing.T) {
	fs := &syncFS{FS: vfs.NewMem()}
	s := openWith(t, small(fs, durableClock))
	first := batchOf(held, 1, "one")
	first.Memberships = []persistence.Membership{{User: "bo", Conversation: held, Joined: 1, From: 1}}
	first.Snapshot = []byte("before")
	if err := appendNow(s, first); err != nil {
		t.Fatal(err)
	}
	release := fs.hold()
	defer release()
	answer := appending(s, underWay())
	synctest.Wait()
	if value, err := get(s.db, logKey(held, 2)); err != nil || value == nil {
		t.Fatalf("Pebble does not show the entry (%v): the test sees nothing", err)
	}
	unseen(t, s)
	waiting := func(ctx context.Context) <-chan error {
		return later(func() error {
			a, err := s.Know(ctx, held, persistence.Query{IDs: []persistence.AuthorID{{Author: "ana", ClientID: "id2"}}})
			if err == nil && a.IDs[0].Seq != 2 {
				err = fmt.Errorf("the id is at %d", a.IDs[0].Seq)
			}
			return err
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	known, gone := waiting(t.Context()), waiting(ctx)
	blocked(t, map[string]<-chan error{"an append": answer, "an id under way": known, "another": gone})
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("an id under way, and the caller gone, answers %v", err)
	}
	release()
	if err := errors.Join(<-answer, <-known); err != nil {
		t.Fatal(err)
	}
	seen(t, s)
}

// later runs f and returns where its outcome will be.
func later(f func() error) <-chan error {
	answer := make(chan error, 1)
	go func() { answer <- f() }()
	return answer
}

// blocked checks that nothing is answered, when all that can has happened.
func blocked(t *testing.T, answers map[string]<-chan error) {
	t.Helper()
	synctest.Wait()
	for what, answer := range answers {
		select {
		case err := <-answer:
			t.Fatalf("%s is answered (%v) before the sync", what, err)
		default:
		}
	}
}

// underWay is an append that touches everything that is capped.
func underWay() *persistence.Batch {
	b := batchOf(held, 2, "two", "three")
	b.Memberships = []persistence.Membership{
		{User: "bo", Conversation: held, Joined: 1, From: 1, Ended: 2},
		{User: "bo", Conversation: held, Joined: 3, From: 3},
	}
	b.Overlays = []persistence.Overlay{{Target: 1, Seq: 2, At: at, Body: "uno"}, {Target: 1, Seq: 3, At: at, Retract: true}}
	b.Snapshot = []byte("after")
	b.Outbox = true
	return b
}

// reading is all that a reader can learn of the conversation without waiting.
type reading struct {
	heads, loaded        messages.Seq
	snapshot             string
	forward, backward    int
	first                string
	intervals            int
	ended                messages.Seq
	recent, hooks, walks int
	retracted, target    bool
}

func readAll(t *testing.T, s *Store) reading {
	t.Helper()
	ctx := t.Context()
	heads, err1 := s.Heads(ctx, []messages.ConversationID{held})
	load, snapshot, err2 := s.Load(ctx, held)
	forward, err3 := s.Read(ctx, held, persistence.Range{})
	backward, err4 := s.Read(ctx, held, persistence.Range{Before: math.MaxUint64, Limit: 10})
	intervals, err5 := s.Memberships(ctx, "bo")
	recent, _, err6 := s.Recent(ctx, held, 100)
	hooks, err7 := s.PendingHooks(ctx, nil, 10)
	known, err8 := s.Know(ctx, held, persistence.Query{Targets: []messages.Seq{1, 2}})
	walks := 0
	err9 := s.Scan(ctx, held, func(persistence.Row, persistence.AppendID) error {
		walks++
		return nil
	})
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7, err8, err9); err != nil {
		t.Fatal(err)
	}
	e, err := messages.Decode(forward[0].Entry)
	if err != nil {
		t.Fatal(err)
	}
	return reading{
		heads: heads[0].Seq, loaded: load.Seq, snapshot: string(snapshot),
		forward: len(forward), backward: len(backward), first: e.Entry.GetText().GetBody(),
		intervals: len(intervals), ended: intervals[0].Ended,
		recent: len(recent), hooks: len(hooks), walks: walks,
		retracted: known.Targets[0].Retracted, target: known.Targets[1].Seq != 0,
	}
}

func unseen(t *testing.T, s *Store) {
	t.Helper()
	want := reading{heads: 1, loaded: 1, snapshot: "before", forward: 1, backward: 1, first: "one", intervals: 1, recent: 1, walks: 1}
	if got := readAll(t, s); got != want {
		t.Errorf("while the sync is held, readers see\n%+v, not\n%+v", got, want)
	}
}

func seen(t *testing.T, s *Store) {
	t.Helper()
	want := reading{
		heads: 3, loaded: 3, snapshot: "after", forward: 3, backward: 3, intervals: 2, ended: 2,
		recent: 3, hooks: 1, walks: 3, retracted: true, target: true,
	}
	if got := readAll(t, s); got != want {
		t.Errorf("when it is durable, readers see\n%+v, not\n%+v", got, want)
	}
	if n := len(s.flight.logs) + len(s.flight.members); n != 0 {
		t.Errorf("%d conversations are in flight when nothing is", n)
	}
}

// Others are not held up, and later appends to the same log are capped at what
// is durable of it.
func TestOthersReadOn(t *testing.T) {
	fs := &syncFS{FS: vfs.NewMem()}
	s := openWith(t, small(fs, durableClock))
	if err := appendNow(s, batchOf(other, 1, "x")); err != nil {
		t.Fatal(err)
	}
	release := fs.hold()
	defer release()
	answers := []<-chan error{appending(s, batchOf(held, 1, "one"))}
	applied(s)
	heads, err := s.Heads(t.Context(), []messages.ConversationID{other, held})
	if err != nil || heads[0].Seq != 1 || heads[1].Seq != 0 {
		t.Errorf("the heads are %+v (%v)", heads, err)
	}
	known, err := s.Know(t.Context(), held, persistence.Query{IDs: []persistence.AuthorID{{Author: "bo", ClientID: "new"}}})
	if err != nil || known.IDs[0].Seq != 0 {
		t.Errorf("a new id is answered %+v (%v)", known, err)
	}
	answers = append(answers, appending(s, batchOf(held, 2, "two")), appending(s, batchOf(held, 2, "rival")))
	release()
	for i, want := range []error{nil, nil, nil} { // the rival has the same id: it is the same append
		if err := <-answers[i]; err != want {
			t.Errorf("append %d answers %v", i, err)
		}
	}
}

// Two groups of one log are under way: when the first is durable, it is served,
// and the second is not.
func TestServedAsFarAsDurable(t *testing.T) { synctest.Test(t, servedAsFarAsDurable) }

func servedAsFarAsDurable(t *testing.T) {
	fs := &syncFS{FS: vfs.NewMem()}
	s := openWith(t, small(fs, durableClock))
	head := func() messages.Seq {
		heads, err := s.Heads(t.Context(), []messages.ConversationID{held})
		if err != nil {
			t.Fatal(err)
		}
		return heads[0].Seq
	}
	releaseFirst := fs.hold()
	defer releaseFirst()
	first := appending(s, batchOf(held, 1, "one"))
	synctest.Wait()
	second := appending(s, batchOf(held, 2, "two"))
	synctest.Wait()
	releaseSecond := fs.hold()
	defer releaseSecond()
	releaseFirst()
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	blocked(t, map[string]<-chan error{"the second append": second})
	if seq := head(); seq != 1 {
		t.Errorf("the head is %d when 1 is durable and 2 is under way", seq)
	}
	releaseSecond()
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	if seq := head(); seq != 2 {
		t.Errorf("the head is %d when 2 is durable", seq)
	}
}

// Members' cursors that were shown never move back, so they are shown when
// they are durable.
func TestMemberCursorsWaitForTheSync(t *testing.T) { synctest.Test(t, memberCursorsWait) }

func memberCursorsWait(t *testing.T) {
	fs := &syncFS{FS: vfs.NewMem()}
	s := openWith(t, small(fs, durableClock))
	release := fs.hold()
	defer release()
	saved := make(chan error, 1)
	s.SaveMembers(held, []persistence.MemberCursor{{User: "bo", Read: 4}}, at, func(err error) { saved <- err })
	synctest.Wait()
	users := []messages.UserID{"bo"}
	cursors := later(func() error {
		ms, err := s.MemberCursors(t.Context(), held, users)
		if err == nil && ms[0].Read != 4 {
			err = fmt.Errorf("the cursors are %+v", ms)
		}
		return err
	})
	since := later(func() error {
		_, err := s.Since(t.Context(), held, 4, users)
		return err
	})
	blocked(t, map[string]<-chan error{"cursors under way": cursors, "since when": since})
	if _, err := s.MemberCursors(t.Context(), other, users); err != nil {
		t.Error(err)
	}
	release()
	if err := errors.Join(<-saved, <-cursors, <-since); err != nil {
		t.Error(err)
	}
}

// After a sync that failed nothing is acknowledged or served: the process is
// to end.
func TestFailedSyncIsFatal(t *testing.T) {
	fs := &syncFS{FS: vfs.NewCrashableMem()}
	fatal := make(chan error, 100)
	o := small(fs, durableClock)
	o.Fatal = func(err error) { fatal <- err }
	s, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	if err := appendNow(s, batchOf(held, 1, "one")); err != nil {
		t.Fatal(err)
	}
	fs.fail(syscall.EIO)
	if err := appendNow(s, batchOf(held, 2, "two")); !errors.Is(err, persistence.ErrUnknown) {
		t.Errorf("an append whose sync failed answers %v", err)
	}
	if err := <-fatal; !errors.Is(err, syscall.EIO) {
		t.Errorf("the process ends by %v", err)
	}
	heads, err := s.Heads(t.Context(), []messages.ConversationID{held})
	if err != nil || heads[0].Seq != 1 {
		t.Errorf("the head is %+v (%v)", heads, err)
	}
	if err := appendNow(s, batchOf(held, 3, "three")); err == nil {
		t.Error("an append after a failed sync is acknowledged")
	}
}

func TestCloseWaitsForWrites(t *testing.T) { synctest.Test(t, closeWaits) }

func closeWaits(t *testing.T) {
	fs := &syncFS{FS: vfs.NewMem()}
	s := openWith(t, small(fs, durableClock))
	release := fs.hold()
	answer := appending(s, batchOf(held, 1, "one"))
	synctest.Wait()
	var queued []<-chan error
	for seq := range messages.Seq(50) {
		queued = append(queued, appending(s, batchOf(other, seq+1, "x")))
		synctest.Wait()
	}
	closed := later(s.Close)
	blocked(t, map[string]<-chan error{"a close": closed, "an append": answer})
	release()
	if err := errors.Join(<-closed, <-answer); err != nil {
		t.Error(err)
	}
	for _, answer := range queued {
		if err := <-answer; err != nil {
			t.Error(err)
		}
	}
	if err := appendNow(s, batchOf(held, 2, "two")); !errors.Is(err, persistence.ErrUnavailable) {
		t.Errorf("an append to a closed store answers %v", err)
	}
	if _, err := s.Read(t.Context(), held, persistence.Range{}); !errors.Is(err, persistence.ErrUnavailable) {
		t.Errorf("a read of a closed store answers %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
}

package pebble

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// Promise 1: whenever the power fails, all that was answered before is there,
// and the store is sound.
func TestAcknowledgedSurvivesPowerLoss(t *testing.T) {
	if lost := cutPower(t, small(nil, nil)); lost != 0 {
		t.Errorf("%d acknowledged entries are lost", lost)
	}
}

// The control: the same run without the sync loses, so the test can see.
func TestWithoutSyncPowerLossLoses(t *testing.T) {
	o := small(nil, nil)
	o.NoSync = true
	if lost := cutPower(t, o); lost == 0 {
		t.Error("nothing is lost without a sync: the test sees nothing")
	}
}

// cutPower appends from many goroutines at once, and meanwhile takes what the
// disk would hold if the power failed. It returns how many acknowledged
// entries were not there.
func cutPower(t *testing.T, o Options) (lost int) {
	c := openCrashable(t, vfs.NewCrashableMem(), o)
	var a acknowledged
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for i := range 16 {
		writers.Go(func() { a.write(ctx, t, c.Store, messages.ConversationID(fmt.Sprint("g:", i))) })
	}
	for cut := range 10 {
		a.atLeast(200 * (cut + 1))
		before := a.heads()
		left := c.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: cut * 10, RNG: rngOf(cut)})
		lost += missing(t, left, o, before)
	}
	stop()
	writers.Wait()
	return lost
}

// missing opens what a crash left and counts what is not there.
func missing(t *testing.T, left *vfs.MemFS, o Options, before map[messages.ConversationID]messages.Seq) (lost int) {
	s := openCrashable(t, left, o)
	defer s.Close()
	for conversation, seq := range before {
		head, _, err := s.Load(t.Context(), conversation)
		if err != nil {
			t.Fatal(err)
		}
		if head.Seq < seq {
			lost += int(seq - head.Seq)
		}
	}
	report, err := s.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Findings {
		t.Error(f)
	}
	return lost
}

// acknowledged is how far each conversation was acknowledged.
type acknowledged struct {
	mu    sync.Mutex
	grown sync.Cond
	last  map[messages.ConversationID]messages.Seq // guarded by mu
	count int                                      // guarded by mu
}

// write appends to c, one entry after the other, until ctx ends.
func (a *acknowledged) write(ctx context.Context, t *testing.T, s *Store, c messages.ConversationID) {
	for seq := messages.Seq(1); ctx.Err() == nil; seq++ {
		if err := appendNow(s, batchOf(c, seq, "x")); err != nil {
			t.Error(err)
			return
		}
		a.add(c, seq)
	}
}

func (a *acknowledged) add(c messages.ConversationID, seq messages.Seq) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last == nil {
		a.last = make(map[messages.ConversationID]messages.Seq)
	}
	a.last[c] = seq
	a.count++
	if a.grown.L != nil {
		a.grown.Signal()
	}
}

// atLeast waits until n entries are acknowledged.
func (a *acknowledged) atLeast(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.grown.L = &a.mu
	for a.count < n {
		a.grown.Wait()
	}
}

func (a *acknowledged) heads() map[messages.ConversationID]messages.Seq {
	a.mu.Lock()
	defer a.mu.Unlock()
	heads := make(map[messages.ConversationID]messages.Seq)
	for c, seq := range a.last {
		heads[c] = seq
	}
	return heads
}

// Everything of one append is there, or nothing.
func TestAppendIsWhole(t *testing.T) {
	c := openCrashable(t, vfs.NewCrashableMem(), small(nil, nil))
	const conversation = "g:whole"
	answers := make(chan error, 100)
	for i := range 100 {
		b := batchOf(conversation, messages.Seq(3*i+1), "a", "b", "c")
		b.Marks = []persistence.Mark{{User: "ana", Day: int64(i), Conversation: conversation}}
		c.Append(b, func(err error) { answers <- err })
		if i%10 == 5 {
			left := openCrashable(t, c.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rngOf(i)}), c.o)
			wholeAppends(t, left, conversation)
			left.Close()
		}
	}
	for range 100 {
		if err := <-answers; err != nil {
			t.Fatal(err)
		}
	}
}

func wholeAppends(t *testing.T, c *crashable, conversation messages.ConversationID) {
	head, _, err := c.Load(t.Context(), conversation)
	if err != nil {
		t.Fatal(err)
	}
	if head.Seq%3 != 0 {
		t.Errorf("an append ended in its middle, at %d", head.Seq)
	}
	marked, err := c.Marked(t.Context(), "ana", int64(head.Seq/3))
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(marked, conversation) {
		t.Errorf("a mark beyond the head %d", head.Seq)
	}
}

func rngOf(seed int) *rand.Rand { return rand.New(rand.NewPCG(uint64(seed), 1)) }

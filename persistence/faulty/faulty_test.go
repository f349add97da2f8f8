package faulty_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
	"github.com/troupe-chat/troupe/persistence/faulty"
	"github.com/troupe-chat/troupe/persistence/pebble"
	"github.com/troupe-chat/troupe/persistence/storetest"
)

func open(t testing.TB, now func() time.Time) *faulty.Store {
	t.Helper()
	s, err := pebble.Open("data", pebble.Options{FS: vfs.NewMem(), Now: now, CacheBytes: 1 << 20, MemTableBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	f := faulty.Wrap(s)
	t.Cleanup(func() { f.Close() })
	return f
}

const c = messages.ConversationID("g:c")

func batch(seq messages.Seq) *persistence.Batch {
	return &persistence.Batch{
		Conversation: c, ExpectHead: seq - 1, ID: persistence.AppendID{byte(seq)},
		Rows: []persistence.Row{{Seq: seq, At: 1}},
	}
}

func appending(s persistence.Store, seq messages.Seq) <-chan error {
	answer := make(chan error, 1)
	s.Append(batch(seq), func(err error) { answer <- err })
	return answer
}

func head(t *testing.T, s persistence.Store) messages.Seq {
	t.Helper()
	h, _, err := s.Load(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return h.Seq
}

// Without faults it is the store that it wraps.
func TestSuite(t *testing.T) {
	storetest.Run(t, storetest.Maker{
		Open:    func(t testing.TB, now func() time.Time) persistence.Store { return open(t, now) },
		Expires: false,
	})
}

func TestFaults(t *testing.T) {
	s := open(t, time.Now)
	s.Fail(faulty.Append, 2, faulty.Refused)
	s.Fail(faulty.Append, 3, faulty.Lost)
	s.Fail(faulty.Append, 4, faulty.Unheard)
	for i, step := range []struct {
		seq  messages.Seq
		want error
		head messages.Seq
	}{
		{1, nil, 1},
		{2, persistence.ErrUnavailable, 1},
		{2, persistence.ErrUnknown, 1},
		{2, persistence.ErrUnknown, 2},
		{2, nil, 2},
		{3, nil, 3},
	} {
		if err := <-appending(s, step.seq); !errors.Is(err, step.want) {
			t.Errorf("append %d answers %v, not %v", i+1, err, step.want)
		}
		if got := head(t, s); got != step.head {
			t.Errorf("after append %d the head is %d, not %d", i+1, got, step.head)
		}
	}
	s.Fail(faulty.Load, 1, faulty.Refused)
	if _, _, err := s.Load(t.Context(), c); !errors.Is(err, persistence.ErrUnavailable) {
		t.Errorf("a load answers %v", err)
	}
}

func TestChance(t *testing.T) {
	run := func() (failed []int) {
		s := open(t, time.Now)
		s.Randomly(faulty.Chance(7, faulty.Append, 0.3, faulty.Refused, faulty.Lost))
		seq := messages.Seq(1)
		for i := range 100 {
			if err := <-appending(s, seq); err != nil {
				failed = append(failed, i)
				continue
			}
			seq++
		}
		if got := head(t, s); got != seq-1 {
			t.Errorf("the head is %d, not %d", got, seq-1)
		}
		return failed
	}
	one, two := run(), run()
	if len(one) < 10 || len(one) > 60 || len(one) != len(two) {
		t.Errorf("%d and %d of 100 calls failed", len(one), len(two))
	}
}

func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, time.Now)
		release, releaseLoads := s.Hold(faulty.Append), s.Hold(faulty.Load)
		answers := []<-chan error{appending(s, 1), appending(s, 2)}
		loaded := make(chan messages.Seq, 1)
		go func() { loaded <- head(t, s) }()
		if err := s.Await(t.Context(), faulty.Append, 2); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(answers[0])+len(answers[1])+len(loaded) != 0 {
			t.Error("a held call is answered")
		}
		release()
		for _, a := range append(answers, appending(s, 3)) {
			if err := <-a; err != nil {
				t.Error(err)
			}
		}
		releaseLoads()
		if seq := <-loaded; seq != 3 {
			t.Errorf("a load that was held answers %d", seq)
		}
	})
}

func TestAwaitEnds(t *testing.T) {
	s := open(t, time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Await(ctx, faulty.Append, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("it answers %v", err)
	}
	delayed := 0
	s.Delay(func(context.Context, faulty.Op) { delayed++ })
	head(t, s)
	if delayed != 1 || s.Calls(faulty.Load) != 1 {
		t.Errorf("%d delays, %d calls", delayed, s.Calls(faulty.Load))
	}
}

package accounts

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/troupe-chat/troupe/messages"
)

func TestHashes(t *testing.T) {
	ctx, h := context.Background(), newHasher()
	encoded, err := h.hash(ctx, password)
	if err != nil || !strings.HasPrefix(encoded, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Fatalf("got %s, %v", encoded, err)
	}
	if again, _ := h.hash(ctx, password); again == encoded {
		t.Fatal("the salt is always the same")
	}
	for given, want := range map[string]bool{password: true, password + "x": false, "": false} {
		if got, err := h.matches(ctx, encoded, given); got != want || err != nil {
			t.Errorf("%q: %v, %v", given, got, err)
		}
	}
}

func TestAHashCarriesItsOwnCost(t *testing.T) {
	old := encodeWith("hunter2hunter2", 1<<12, 3, 2)
	got, err := newHasher().matches(context.Background(), old, "hunter2hunter2")
	if !got || err != nil {
		t.Fatalf("got %v, %v", got, err)
	}
}

func TestNoHashMatchesNothing(t *testing.T) {
	h := newHasher()
	h.nobody = encodeHash(password)
	for _, given := range []string{"", password} {
		if got, err := h.matches(context.Background(), "", given); got || err != nil {
			t.Fatalf("%q: %v, %v", given, got, err)
		}
	}
}

func TestABadHashIsAnError(t *testing.T) {
	h := newHasher()
	good := h.nobody
	for _, bad := range []string{
		"x", "$argon2i$v=19$m=19456,t=2,p=1$AAAA$AAAA", strings.Replace(good, "v=19", "v=16", 1),
		strings.Replace(good, "m=19456", "m=4294967295", 1), strings.Replace(good, "t=2", "t=0", 1),
		strings.Replace(good, "p=1", "p=0", 1), strings.Replace(good, "p=1", "p=256", 1),
		good[:strings.LastIndex(good, "$")+1], good + "!", strings.Replace(good, "m=", "n=", 1),
	} {
		if ok, err := h.matches(context.Background(), bad, password); ok || !errors.Is(err, errBadHash) {
			t.Errorf("%s: %v, %v", bad, ok, err)
		}
	}
}

func TestFewHashAtOnceAndFewWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHasher()
		var working, done atomic.Int32
		release := make(chan struct{})
		for range hashersAtOnce + hashersWaiting {
			go func() {
				err := h.run(t.Context(), func() { working.Add(1); <-release; working.Add(-1); done.Add(1) })
				if err != nil {
					t.Error(err)
				}
			}()
		}
		synctest.Wait()
		if got := working.Load(); got != 2 {
			t.Fatalf("%d work at once", got)
		}
		err := h.run(t.Context(), func() { t.Error("worked beyond the bound") })
		if f := messages.FailureOf(err); f.Code != messages.CodeOverloaded || f.RetryAfter == 0 {
			t.Fatalf("got %v", err)
		}
		close(release)
		synctest.Wait()
		if done.Load() != hashersAtOnce+hashersWaiting {
			t.Fatalf("%d were served", done.Load())
		}
		if err := h.run(t.Context(), func() {}); err != nil {
			t.Fatalf("afterwards: %v", err)
		}
	})
}

func TestWhoeverLeavesWaitsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hasher{admitted: make(chan struct{}, 2), working: make(chan struct{}, 1)}
		h.working <- struct{}{}
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- h.run(ctx, func() {}) }()
		synctest.Wait()
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) || len(h.admitted) != 0 {
			t.Fatalf("%v, %d still admitted", err, len(h.admitted))
		}
	})
}

func FuzzCompare(f *testing.F) {
	f.Add("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$AAAA")
	f.Add("$argon2id$v=19$m=0,t=1,p=1$$AA")
	f.Fuzz(func(t *testing.T, encoded string) {
		if strings.Count(encoded, "$") != 5 || !strings.Contains(encoded, "m=8,t=1,p=1$") {
			return // what a cost in the text may cost here
		}
		_, _ = compare(encoded, password)
	})
}

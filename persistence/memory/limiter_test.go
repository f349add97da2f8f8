package memory

import (
	"context"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func allow(l *Limiter, key string, limit int, window time.Duration, now time.Time) time.Duration {
	wait, err := l.Allow(context.Background(), key, limit, window, now)
	if err != nil {
		panic(err)
	}
	return wait
}

// No window of any position ever holds more than limit attempts, a refused one
// does not count, and the wait is exact: a moment sooner is refused.
func TestLimiterIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 5).Draw(t, "limit")
		window := time.Duration(rapid.IntRange(1, 20).Draw(t, "window"))
		l, now := NewLimiter(), start
		var allowed []time.Time
		for range rapid.IntRange(1, 100).Draw(t, "attempts") {
			now = now.Add(time.Duration(rapid.IntRange(0, 8).Draw(t, "pause")))
			recent := within(allowed, now, window)
			wait := allow(l, "k", limit, window, now)
			if (wait == 0) != (recent < limit) {
				t.Fatalf("with %d of %d in the window the wait is %v", recent, limit, wait)
			}
			if wait == 0 {
				allowed = append(allowed, now)
			} else if within(allowed, now.Add(wait-1), window) < limit || within(allowed, now.Add(wait), window) >= limit {
				t.Fatalf("a wait of %v is not the shortest that helps", wait)
			}
		}
	})
}

func within(times []time.Time, now time.Time, window time.Duration) int {
	n := 0
	for _, at := range times {
		if now.Sub(at) < window {
			n++
		}
	}
	return n
}

func TestLimiterOfZeroAllowsEverything(t *testing.T) {
	l := NewLimiter()
	for range 100 {
		if wait := allow(l, "k", 0, time.Minute, start); wait != 0 {
			t.Fatalf("refused for %v", wait)
		}
	}
	if len(l.keys) != 0 {
		t.Errorf("%d keys kept", len(l.keys))
	}
}

func TestLimiterKeysAreApart(t *testing.T) {
	l := NewLimiter()
	allow(l, "ana", 1, time.Minute, start)
	if wait := allow(l, "bo", 1, time.Minute, start); wait != 0 {
		t.Errorf("bo waits %v for ana", wait)
	}
}

func TestLimiterTakesALaterLimit(t *testing.T) {
	l := NewLimiter()
	for range 3 {
		allow(l, "k", 3, time.Minute, start)
	}
	if wait := allow(l, "k", 1, time.Minute, start.Add(time.Second)); wait != 59*time.Second {
		t.Errorf("the wait under a lower limit is %v", wait)
	}
	if wait := allow(l, "k", 4, time.Minute, start.Add(time.Second)); wait != 0 {
		t.Errorf("the wait under a higher limit is %v", wait)
	}
}

// A caller whose clock is behind must not make room.
func TestLimiterClockBehind(t *testing.T) {
	l := NewLimiter()
	allow(l, "k", 2, time.Minute, start.Add(30*time.Second))
	allow(l, "k", 2, time.Minute, start)
	if wait := allow(l, "k", 2, time.Minute, start.Add(61*time.Second)); wait == 0 {
		t.Error("three attempts in one window")
	}
}

func TestLimiterForgetsKeys(t *testing.T) {
	l := NewLimiter()
	for i := range 100_000 {
		allow(l, fmt.Sprint(i), 5, time.Second, start.Add(time.Duration(i)*time.Millisecond))
		if len(l.keys) > 3*1024+2000 {
			t.Fatalf("%d keys kept after %d, though 1,000 count", len(l.keys), i)
		}
	}
	allow(l, "last", 5, time.Second, start.Add(time.Hour))
	if len(l.keys) != 1 {
		t.Errorf("%d keys kept after an hour", len(l.keys))
	}
}

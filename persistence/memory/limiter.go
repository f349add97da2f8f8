// Package memory keeps what one process may lose, in that process: rate limits
// and presence.
package memory

import (
	"context"
	"sync"
	"time"

	"github.com/troupe-chat/troupe/persistence"
)

// sweepEvery is how often keys that did nothing lately are looked for, at
// most. It is sooner where the keys have doubled.
const sweepEvery = time.Minute

// Limiter is a persistence.Limiter of this process. It keeps the times of the
// attempts that still count, and so at most limit of them for a key.
type Limiter struct {
	mu    sync.Mutex
	keys  map[string]*attempts // guarded by mu
	swept time.Time            // guarded by mu
	kept  int                  // guarded by mu; keys left by the last sweep
}

var _ persistence.Limiter = (*Limiter)(nil)

// attempts of one key, ascending. They count for window.
type attempts struct {
	times  []time.Time
	window time.Duration
}

// NewLimiter returns a Limiter that has counted nothing.
func NewLimiter() *Limiter { return &Limiter{keys: make(map[string]*attempts)} }

// Allow implements persistence.Limiter. It never blocks and never fails.
func (l *Limiter) Allow(_ context.Context, key string, limit int, window time.Duration, now time.Time) (time.Duration, error) {
	if limit <= 0 {
		return 0, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweep(now)
	a := l.keys[key]
	if a == nil {
		a = &attempts{}
		l.keys[key] = a
	}
	a.window = window
	return a.allow(limit, now), nil
}

// allow counts an attempt at now, or returns how long to wait. Attempts are
// counted in the order of the calls: one whose clock is behind counts as made
// at the time of the one before.
func (a *attempts) allow(limit int, now time.Time) time.Duration {
	if n := len(a.times); n > 0 && now.Before(a.times[n-1]) {
		now = a.times[n-1]
	}
	a.forget(now)
	if n := len(a.times); n >= limit {
		return a.times[n-limit].Add(a.window).Sub(now)
	}
	a.times = append(a.times, now)
	return 0
}

// forget drops the attempts that count no more.
func (a *attempts) forget(now time.Time) {
	gone := 0
	for gone < len(a.times) && now.Sub(a.times[gone]) >= a.window {
		gone++
	}
	a.times = append(a.times[:0], a.times[gone:]...)
}

// sweep forgets the keys whose attempts all count no more. Each costs as much
// as the calls that made its keys, so that a call costs little on the whole.
func (l *Limiter) sweep(now time.Time) {
	if now.Sub(l.swept) < sweepEvery && len(l.keys) < 2*l.kept+1024 {
		return
	}
	for key, a := range l.keys {
		if a.forget(now); len(a.times) == 0 {
			delete(l.keys, key)
		}
	}
	l.swept, l.kept = now, len(l.keys)
}

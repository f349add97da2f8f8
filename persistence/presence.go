package persistence

import (
	"context"
	"time"

	"github.com/troupe-chat/troupe/messages"
)

// Limiter counts what a key did within sliding windows, shared by all nodes.
// It holds only what may be lost.
type Limiter interface {
	// Allow counts one attempt of key if fewer than limit were counted within
	// the window before now, and returns 0; else it counts nothing and returns
	// after how long the next may be made. A limit of 0 allows everything.
	Allow(ctx context.Context, key string, limit int, window time.Duration, now time.Time) (time.Duration, error)
}

// Online is whether a user is connected anywhere.
type Online struct {
	Online   bool
	LastSeen int64 // ms; when it was last connected, 0: not known
}

// Presence keeps who is connected. It holds only what may be lost: sessions
// put it again.
type Presence interface {
	// Put stores u's presence.
	Put(ctx context.Context, u messages.UserID, o Online) error
	// Get returns the presence of users, in their order.
	Get(ctx context.Context, users []messages.UserID) ([]Online, error)
}

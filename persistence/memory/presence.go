package memory

import (
	"context"
	"sync"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// lastSeenKept bounds the users that are offline and still known: between once
// and twice as many.
const lastSeenKept = 1 << 16

// Presence is a persistence.Presence of this process. It knows every user that
// is online, and those that were lately.
type Presence struct {
	mu      sync.Mutex
	online  map[messages.UserID]persistence.Online // guarded by mu
	offline map[messages.UserID]persistence.Online // guarded by mu; the later half
	earlier map[messages.UserID]persistence.Online // guarded by mu
}

var _ persistence.Presence = (*Presence)(nil)

// NewPresence returns a Presence that knows nobody.
func NewPresence() *Presence {
	return &Presence{
		online:  make(map[messages.UserID]persistence.Online),
		offline: make(map[messages.UserID]persistence.Online),
	}
}

// Put implements persistence.Presence. It never blocks and never fails.
func (p *Presence) Put(_ context.Context, u messages.UserID, o persistence.Online) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.offline, u)
	delete(p.earlier, u)
	if o.Online {
		p.online[u] = o
		return nil
	}
	delete(p.online, u)
	p.offline[u] = o
	if len(p.offline) >= lastSeenKept {
		p.earlier, p.offline = p.offline, make(map[messages.UserID]persistence.Online)
	}
	return nil
}

// Get implements persistence.Presence. It never blocks and never fails.
func (p *Presence) Get(_ context.Context, users []messages.UserID) ([]persistence.Online, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := make([]persistence.Online, len(users))
	for i, u := range users {
		found[i] = p.get(u)
	}
	return found, nil
}

func (p *Presence) get(u messages.UserID) persistence.Online {
	for _, known := range []map[messages.UserID]persistence.Online{p.online, p.offline, p.earlier} {
		if o, ok := known[u]; ok {
			return o
		}
	}
	return persistence.Online{}
}

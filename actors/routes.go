package actors

import (
	"hash/maphash"
	"sync"

	"github.com/troupe-chat/troupe/messages"
)

const routeShards = 64

// Routes tells this node's live connections of what happened: who is connected
// here is published by the session actors, which own it, and read by whoever
// fans out. So an entry for a thousand members costs a look-up each, not a
// mailbox each. Safe for concurrent use.
type Routes struct {
	seed   maphash.Seed
	shards [routeShards]routeShard
}

type routeShard struct {
	mu    sync.RWMutex                     // guards users
	users map[messages.UserID][]Connection // the slices are immutable
}

// NewRoutes returns an empty table.
func NewRoutes() *Routes {
	r := &Routes{seed: maphash.MakeSeed()}
	for i := range r.shards {
		r.shards[i].users = map[messages.UserID][]Connection{}
	}
	return r
}

func (r *Routes) shard(u messages.UserID) *routeShard {
	return &r.shards[maphash.String(r.seed, string(u))%routeShards]
}

// Publish replaces the connections of u. conns is the table's from then on.
func (r *Routes) Publish(u messages.UserID, conns []Connection) {
	s := r.shard(u)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(conns) == 0 {
		delete(s.users, u)
		return
	}
	s.users[u] = conns
}

// Of returns the connections of u, not to be changed.
func (r *Routes) Of(u messages.UserID) []Connection {
	s := r.shard(u)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.users[u]
}

// Hint tells every connection of h.Users. at is called between users.
func (r *Routes) Hint(h *messages.Hint, at func(Point)) {
	for _, u := range h.Users {
		for _, c := range r.Of(u) {
			c.Hint(h)
		}
		at(MidFanOut)
	}
}

// Absent returns those of users that have no connection.
func (r *Routes) Absent(users []messages.UserID) []messages.UserID {
	var absent []messages.UserID
	for _, u := range users {
		if len(r.Of(u)) == 0 {
			absent = append(absent, u)
		}
	}
	return absent
}

// Notify shows f to every connection of u.
func (r *Routes) Notify(u messages.UserID, f *messages.ServerFrame) {
	for _, c := range r.Of(u) {
		c.Notify(f)
	}
}

// NotifyOthers shows f to every connection of u but one.
func (r *Routes) NotifyOthers(u messages.UserID, except uint64, f *messages.ServerFrame) {
	for _, c := range r.Of(u) {
		if c.ID() != except {
			c.Notify(f)
		}
	}
}

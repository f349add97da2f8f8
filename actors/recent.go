package actors

import (
	"hash/maphash"

	"github.com/troupe-chat/troupe/actors/rules"
	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// Bounds of what an activation remembers of client ids.
const (
	// maxRecent is more than can wait to be decided, so that whatever was
	// appended since a look-up was made is still here.
	maxRecent = 2 * maxWaiting
	// maxSeen is how many ids are told apart from new ones without a look-up,
	// at 16 bytes each. A conversation with more of them looks every id up.
	maxSeen = 16 << 10
	// maxLoaded is how many of them are read when an activation begins.
	maxLoaded = 4 << 10
)

var idSeed = maphash.MakeSeed()

// recentIDs is what an activation knows of the client ids that are used up:
// the last ones, and whether one that it was not told of can be any other.
type recentIDs struct {
	last  map[uint64]usedID // by hash
	order []uint64          // of last, oldest first
	// seen holds the hash of every id in use; nil where not all are known.
	seen map[uint64]struct{}
}

type usedID struct {
	id persistence.AuthorID
	by rules.Duplicate
}

// remember returns what the ids in use tell, if they are all of them.
func remember(all []persistence.Dedup, complete bool) recentIDs {
	var r recentIDs
	if !complete {
		return r
	}
	r.seen = make(map[uint64]struct{}, len(all))
	for _, d := range all {
		r.add(d)
	}
	return r
}

func (r *recentIDs) add(d persistence.Dedup) {
	if r.last == nil {
		r.last = map[uint64]usedID{}
	}
	id := persistence.AuthorID{Author: d.Author, ClientID: d.ClientID}
	hash := hashID(id)
	r.last[hash] = usedID{id, rules.Duplicate{Seq: d.Seq, Hash: d.Hash, At: d.At}}
	if r.order = append(r.order, hash); len(r.order) > maxRecent {
		r.forget(maxRecent / 4)
	}
	if r.seen == nil {
		return
	}
	if r.seen[hash] = struct{}{}; len(r.seen) > maxSeen {
		r.seen = nil
	}
}

func (r *recentIDs) forget(n int) {
	for _, hash := range r.order[:n] {
		delete(r.last, hash)
	}
	r.order = append(r.order[:0], r.order[n:]...)
}

// unused reports whether an id is known not to be in use. False says nothing.
func (r *recentIDs) unused(id persistence.AuthorID) bool {
	if r.seen == nil {
		return false
	}
	_, seen := r.seen[hashID(id)]
	return !seen
}

func hashID(id persistence.AuthorID) uint64 {
	return maphash.String(idSeed, string(id.ClientID)) ^ 31*maphash.String(idSeed, string(id.Author))
}

// find returns the entry that used a command's client id up, if it is one of
// the last.
func (r *recentIDs) find(c rules.Command) *rules.Duplicate {
	id := persistence.AuthorID{Author: c.User}
	switch cmd := c.Frame.Command.(type) {
	case *messages.ClientFrame_Send:
		id.ClientID = messages.ClientID(cmd.Send.ClientId)
	case *messages.ClientFrame_ChangeGroup:
		id.ClientID = messages.ClientID(cmd.ChangeGroup.ClientId)
	}
	if id.ClientID == "" || len(r.last) == 0 {
		return nil
	}
	if used, ok := r.last[hashID(id)]; ok && used.id == id {
		return &used.by
	}
	return nil
}

package rules

import (
	"cmp"
	"slices"

	"github.com/troupe-chat/troupe/messages"
)

// Statuses of an entry for a member, as clients see them.
const (
	StatusSent      = "sent"
	StatusDelivered = "delivered"
	StatusRead      = "read"
)

// Cursor is how far a member has a conversation: Read ≤ Delivered ≤ head.
type Cursor struct {
	Delivered, Read messages.Seq
}

// Move is a cursor that moved forward.
type Move struct {
	User     messages.UserID
	Was, Now Cursor
}

// rememberedRuns bounds how many changes of author Receipts remembers.
const rememberedRuns = 256

// run is a stretch of entries by one author, up to the next run.
type run struct {
	first  messages.Seq
	author messages.UserID
}

// Receipts holds the cursors of one conversation's members, and whose its last
// entries are. The zero value is empty. Not for concurrent use.
type Receipts struct {
	cursors map[messages.UserID]Cursor
	runs    []run        // ascending, without a gap up to end
	end     messages.Seq // the last entry whose author was told
}

// Cursor returns u's cursor; zero where none was set.
func (r *Receipts) Cursor(u messages.UserID) Cursor { return r.cursors[u] }

// Move moves u's cursor to at least delivered and read, both capped at head.
// Whoever has read an entry has had it. False: it was there already.
func (r *Receipts) Move(u messages.UserID, delivered, read, head messages.Seq) (Move, bool) {
	was := r.cursors[u]
	now := was
	now.Read = max(was.Read, min(read, head))
	now.Delivered = max(was.Delivered, min(delivered, head), now.Read)
	if now == was {
		return Move{}, false
	}
	if r.cursors == nil {
		r.cursors = make(map[messages.UserID]Cursor)
	}
	r.cursors[u] = now
	return Move{User: u, Was: was, Now: now}, true
}

// Status returns what the entry seq is for u, who must be in its audience.
func (r *Receipts) Status(u messages.UserID, seq messages.Seq) string {
	c := r.cursors[u]
	switch {
	case seq <= c.Read:
		return StatusRead
	case seq <= c.Delivered:
		return StatusDelivered
	}
	return StatusSent
}

// Wrote notes the author of the entry seq. Entries are told in order; after a
// gap only what follows it is remembered.
func (r *Receipts) Wrote(seq messages.Seq, author messages.UserID) {
	switch {
	case seq <= r.end:
		return
	case seq != r.end+1:
		r.runs = nil
	case len(r.runs) >= rememberedRuns:
		r.runs = slices.Delete(r.runs, 0, rememberedRuns/2)
	}
	r.end = seq
	if n := len(r.runs); n == 0 || r.runs[n-1].author != author {
		r.runs = append(r.runs, run{first: seq, author: author})
	}
}

// Authors returns whose remembered entries a move newly covers, sorted, except
// the mover: those that are to be told of it. Missing tells what is not
// remembered.
func (r *Receipts) Authors(m Move) []messages.UserID {
	found := r.between(nil, m.Was.Delivered, m.Now.Delivered)
	found = r.between(found, m.Was.Read, m.Now.Read)
	slices.Sort(found)
	found = slices.Compact(found)
	return slices.DeleteFunc(found, func(u messages.UserID) bool { return u == m.User })
}

// Missing returns the entries (after, upTo] that a move may newly cover and
// whose authors are not remembered: they are in the log. Equal: there are none.
func (r *Receipts) Missing(m Move) (after, upTo messages.Seq) {
	after, upTo = m.span()
	if len(r.runs) > 0 {
		upTo = min(upTo, r.runs[0].first-1)
	}
	return after, max(after, upTo)
}

// between appends the authors of the remembered entries (after, upTo].
func (r *Receipts) between(found []messages.UserID, after, upTo messages.Seq) []messages.UserID {
	if after >= upTo {
		return found
	}
	for _, run := range r.runs[r.runOf(after+1):] {
		if run.first > upTo {
			break
		}
		found = append(found, run.author)
	}
	return found
}

// runOf returns the index of the run that holds seq, or 0 where it is older
// than all.
func (r *Receipts) runOf(seq messages.Seq) int {
	i, found := slices.BinarySearchFunc(r.runs, seq, func(r run, seq messages.Seq) int {
		return cmp.Compare(r.first, seq)
	})
	if found || i == 0 {
		return i
	}
	return i - 1
}

// span returns the shortest (after, upTo] that holds all that m newly covers.
func (m Move) span() (after, upTo messages.Seq) {
	switch {
	case m.Was.Read == m.Now.Read:
		return m.Was.Delivered, m.Now.Delivered
	case m.Was.Delivered == m.Now.Delivered:
		return m.Was.Read, m.Now.Read
	}
	return m.Was.Read, m.Now.Delivered
}

package pebble

import (
	"bytes"
	"fmt"
	"math"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// Append implements persistence.Log.
func (s *Store) Append(b *persistence.Batch, done persistence.Done) {
	s.submit(func(g *group) error { return g.append(b) }, done)
}

// Mark implements persistence.Log.
func (s *Store) Mark(marks []persistence.Mark, done persistence.Done) {
	s.submit(func(g *group) error {
		g.mark(marks)
		return nil
	}, done)
}

// append adds b if the log ends where b expects it, or if b is in it already.
func (g *group) append(b *persistence.Batch) error {
	if err := checkBatch(b); err != nil {
		return err
	}
	head, err := g.head(b.Conversation)
	if err != nil {
		return err
	}
	if head != b.ExpectHead {
		return g.repeated(b, head)
	}
	stale, err := g.staleSnapshots(b)
	if err != nil {
		return err
	}
	g.writeRows(b)
	g.writeEffects(b)
	for _, k := range stale {
		g.delete(k)
	}
	g.appended = append(g.appended, b)
	g.s.heads.put(b.Conversation, b.Rows[len(b.Rows)-1].Seq)
	g.s.stats.appends.Add(1)
	g.s.stats.rows.Add(uint64(len(b.Rows)))
	return nil
}

// checkBatch refuses what would break the log: a fault of the caller's.
func checkBatch(b *persistence.Batch) error {
	if len(b.Rows) == 0 {
		return fmt.Errorf("appending to %s: no rows", b.Conversation)
	}
	for i, r := range b.Rows {
		if want := b.ExpectHead + messages.Seq(i) + 1; r.Seq != want {
			return fmt.Errorf("appending to %s: row %d is seq %d, not %d", b.Conversation, i, r.Seq, want)
		}
	}
	return nil
}

// repeated decides on a batch that expects another head: it is written
// already, by an earlier attempt, or it has lost. Like every outcome, this one
// is answered when all before it is durable.
func (g *group) repeated(b *persistence.Batch, head messages.Seq) error {
	written, err := g.holds(b, head)
	if err != nil {
		return err
	}
	if !written {
		g.s.stats.conflicts.Add(1)
		return persistence.ErrConflict
	}
	g.s.stats.repeated.Add(1)
	return nil
}

// holds reports whether b is in the log, by the id stored with its first row.
func (g *group) holds(b *persistence.Batch, head messages.Seq) (bool, error) {
	if b.ExpectHead > head {
		return false, nil
	}
	for _, a := range g.appended {
		if a.ID == b.ID {
			return true, nil
		}
	}
	value, err := get(g.s.db, logKey(b.Conversation, b.ExpectHead+1))
	if value == nil {
		return false, err
	}
	rec, err := decodeRecord(b.Conversation, b.ExpectHead+1, value)
	if err != nil {
		return false, err
	}
	return bytes.Equal(rec.AppendId, b.ID[:]), nil
}

func decodeRecord(c messages.ConversationID, seq messages.Seq, value []byte) (*messages.Record, error) {
	rec := &messages.Record{}
	if err := proto.Unmarshal(value, rec); err != nil {
		return nil, fmt.Errorf("entry %d of %s: %w (%v)", seq, c, ErrCorrupt, err)
	}
	return rec, nil
}

// head returns the last seq of c's log, with all that is under way.
func (g *group) head(c messages.ConversationID) (messages.Seq, error) {
	if seq, ok := g.s.heads.get(c); ok {
		return seq, nil
	}
	it, err := g.s.db.NewIter(nil)
	if err != nil {
		return 0, readProblem(err)
	}
	v := view{s: g.s, it: it}
	defer it.Close()
	k, _, err := v.last(logOf(c), logKey(c, math.MaxUint64))
	if err != nil {
		return 0, err
	}
	seq := seqAtEnd(k)
	g.s.heads.put(c, seq)
	return seq, nil
}

// seqAtEnd returns the seq that ends a key; 0 for none.
func seqAtEnd(k []byte) messages.Seq {
	if len(k) < 8 {
		return 0
	}
	f := fields{rest: k[len(k)-8:]}
	return messages.Seq(f.num())
}

func (g *group) writeRows(b *persistence.Batch) {
	for _, r := range b.Rows {
		value, err := proto.Marshal(&messages.Record{
			Entry: r.Entry, AppendId: b.ID[:], Countable: r.Countable, StateSeq: uint64(r.StateSeq),
		})
		must(err)
		g.set(logKey(b.Conversation, r.Seq), value)
	}
	for _, d := range b.Dedup {
		id := persistence.AuthorID{Author: d.Author, ClientID: d.ClientID}
		g.set(dedupKey(periodOf(d.At, dedupPeriod), b.Conversation, id), pack(uint64(d.Seq), d.Hash, uint64(d.At)))
	}
	for _, o := range b.Overlays {
		kind := byte(overlayEdit)
		if o.Retract {
			kind = overlayRetract
		}
		g.set(overlayKey(b.Conversation, o.Target, kind, o.Seq), append(pack(uint64(o.At)), o.Body...))
	}
}

func (g *group) writeEffects(b *persistence.Batch) {
	for _, m := range b.Memberships {
		g.set(membershipKey(m), encodeMembership(m))
	}
	g.mark(b.Marks)
	last := b.Rows[len(b.Rows)-1].Seq
	if b.Snapshot != nil {
		g.set(snapshotKey(b.Conversation, last), b.Snapshot)
	}
	if b.Outbox {
		g.set(outboxKey(b.Conversation, b.ExpectHead+1), pack(uint64(last)))
	}
}

func (g *group) mark(marks []persistence.Mark) {
	for _, m := range marks {
		g.set(markKey(m), nil)
	}
}

// staleSnapshots returns the keys of the snapshots that no reader needs once
// b's is there: all before the newest durable one.
func (g *group) staleSnapshots(b *persistence.Batch) ([]key, error) {
	if b.Snapshot == nil || b.ExpectHead == 0 {
		return nil, nil
	}
	it, err := g.s.db.NewIter(nil)
	if err != nil {
		return nil, readProblem(err)
	}
	v := view{s: g.s, it: it}
	defer it.Close()
	durable := v.cap(b.Conversation)
	prefix := snapshotsOf(b.Conversation)
	var stale []key
	err = v.each(prefix, prefix, func(k, _ []byte) (bool, error) {
		stale = append(stale, append(key(nil), k...))
		return seqAtEnd(k) <= durable, nil
	})
	for len(stale) > 0 && seqAtEnd(stale[len(stale)-1]) > durable {
		stale = stale[:len(stale)-1]
	}
	return stale[:max(len(stale)-1, 0)], err
}

// headsKept bounds the heads that the committing goroutine remembers: between
// once and twice as many.
const headsKept = 1 << 16

// headCache remembers the heads of the conversations appended to lately. When
// the young half is full it becomes the old one, and the old one is forgotten.
type headCache struct {
	young, old map[messages.ConversationID]messages.Seq
}

func (h *headCache) get(c messages.ConversationID) (messages.Seq, bool) {
	if seq, ok := h.young[c]; ok {
		return seq, true
	}
	seq, ok := h.old[c]
	if ok {
		h.put(c, seq)
	}
	return seq, ok
}

func (h *headCache) put(c messages.ConversationID, seq messages.Seq) {
	if h.young == nil || len(h.young) >= headsKept {
		h.old = h.young
		h.young = make(map[messages.ConversationID]messages.Seq)
	}
	h.young[c] = seq
}

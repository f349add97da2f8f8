package pebble

import (
	"context"
	"fmt"
	"math"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// Load implements persistence.Log.
func (s *Store) Load(ctx context.Context, c messages.ConversationID) (persistence.Head, []byte, error) {
	v, err := s.view(ctx)
	if err != nil {
		return persistence.Head{}, nil, err
	}
	defer v.close()
	last := v.cap(c)
	head, err := v.head(c, last)
	if err != nil {
		return persistence.Head{}, nil, err
	}
	k, value, err := v.last(snapshotsOf(c), snapshotsOf(c).beyond(last))
	if err != nil || k == nil {
		return head, nil, err
	}
	return head, slices.Clone(value), nil
}

// Heads implements persistence.Log.
func (s *Store) Heads(ctx context.Context, cs []messages.ConversationID) ([]persistence.Head, error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	defer v.close()
	heads := make([]persistence.Head, len(cs))
	for i, c := range cs {
		if heads[i], err = v.head(c, v.cap(c)); err != nil {
			return nil, err
		}
	}
	return heads, nil
}

// beyond returns the key below which are the keys of prefix k up to seq.
func (k key) beyond(seq messages.Seq) key {
	if seq == math.MaxUint64 {
		return k.end()
	}
	return k.num(uint64(seq) + 1)
}

// head returns the end of c's log as of the entry last.
func (v *view) head(c messages.ConversationID, last messages.Seq) (persistence.Head, error) {
	k, value, err := v.last(logOf(c), logOf(c).beyond(last))
	if err != nil || k == nil {
		return persistence.Head{}, err
	}
	row, _, err := decodeRow(c, k, value)
	if err != nil {
		return persistence.Head{}, err
	}
	return persistence.Head{Seq: row.Seq, At: row.At, Countable: row.Countable, StateSeq: row.StateSeq}, nil
}

// decodeRow also reports which entry the row edits, 0 for none.
func decodeRow(c messages.ConversationID, k, value []byte) (persistence.Row, messages.Seq, error) {
	seq := seqAtEnd(k)
	rec, err := decodeRecord(c, seq, value)
	if err != nil {
		return persistence.Row{}, 0, err
	}
	at, edits, ok := glance(rec.Entry)
	if !ok {
		return persistence.Row{}, 0, fmt.Errorf("entry %d of %s: %w", seq, c, ErrCorrupt)
	}
	return persistence.Row{
		Seq: seq, At: at, Entry: rec.Entry, Countable: rec.Countable, StateSeq: messages.Seq(rec.StateSeq),
	}, edits, nil
}

// Field numbers of Entry and Edit, for glance.
const (
	entryAt   = 5
	entryEdit = 9
	editSeq   = 1
)

// glance reads an encoded entry's time, and which entry it edits, without
// decoding the rest.
func glance(entry []byte) (at int64, edits messages.Seq, ok bool) {
	for len(entry) > 0 {
		num, typ, n := protowire.ConsumeTag(entry)
		if n < 0 {
			return 0, 0, false
		}
		m := protowire.ConsumeFieldValue(num, typ, entry[n:])
		if m < 0 {
			return 0, 0, false
		}
		switch value := entry[n : n+m]; {
		case num == entryAt && typ == protowire.VarintType:
			t, _ := protowire.ConsumeVarint(value)
			at = int64(t)
		case num == entryEdit && typ == protowire.BytesType:
			edit, _ := protowire.ConsumeBytes(value)
			edits = editedBy(edit)
		}
		entry = entry[n+m:]
	}
	return at, edits, true
}

func editedBy(edit []byte) messages.Seq {
	e := &messages.Edit{}
	if proto.Unmarshal(edit, e) != nil {
		return 0
	}
	return messages.Seq(e.Seq)
}

// Read implements persistence.Log.
func (s *Store) Read(ctx context.Context, c messages.ConversationID, r persistence.Range) ([]persistence.Row, error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	defer v.close()
	durable := v.cap(c)
	rows, err := v.rows(c, r, durable)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	if err := v.serve(c, rows, durable); err != nil {
		return nil, err
	}
	return plain(rows), nil
}

// storedRow is a row, and the entry that it edits, if any.
type storedRow struct {
	persistence.Row
	edits messages.Seq
}

func plain(rows []storedRow) []persistence.Row {
	out := make([]persistence.Row, len(rows))
	for i, r := range rows {
		out[i] = r.Row
	}
	return out
}

// rows returns the rows of r up to the entry durable, as they are stored.
func (v *view) rows(c messages.ConversationID, r persistence.Range, durable messages.Seq) ([]storedRow, error) {
	last := durable
	if r.UpTo != 0 {
		last = min(last, r.UpTo)
	}
	if r.Before == 0 {
		return v.collect(c, r, v.it.SeekGE(logOf(c).beyond(r.After)), v.it.Next, last)
	}
	last = min(last, r.Before-1)
	rows, err := v.collect(c, r, v.it.SeekLT(logOf(c).beyond(last)), v.it.Prev, last)
	slices.Reverse(rows)
	return rows, err
}

// collect gathers rows of c up to the entry last, from where the view is, as
// many as r takes.
func (v *view) collect(c messages.ConversationID, r persistence.Range, ok bool, step func() bool, last messages.Seq) ([]storedRow, error) {
	prefix := logOf(c)
	var rows []storedRow
	for size := 0; ok && hasPrefix(v.it.Key(), prefix) && seqAtEnd(v.it.Key()) <= last; ok = step() {
		value, err := v.it.ValueAndErr()
		if err != nil {
			return nil, readProblem(err)
		}
		row, edits, err := decodeRow(c, v.it.Key(), value)
		if err != nil {
			return nil, err
		}
		size += len(row.Entry)
		if len(rows) > 0 && r.Bytes > 0 && size > r.Bytes {
			break
		}
		rows = append(rows, storedRow{row, edits})
		if r.Limit > 0 && len(rows) == r.Limit {
			break
		}
	}
	return rows, v.failed()
}

// serve applies edits and retractions up to the entry durable to rows.
func (v *view) serve(c messages.ConversationID, rows []storedRow, durable messages.Seq) error {
	if any, err := v.hasOverlays(c); err != nil || !any {
		return err
	}
	changed, err := v.changed(c, rows[0].Seq, rows[len(rows)-1].Seq)
	if err != nil {
		return err
	}
	for i := range rows {
		target := rows[i].edits
		if target == 0 {
			target = rows[i].Seq
		}
		if rows[i].edits == 0 && !changed[target] {
			continue
		}
		overlays, err := v.overlays(c, target, durable)
		if err != nil {
			return err
		}
		if len(overlays) == 0 {
			continue
		}
		if err := serveRow(&rows[i].Row, overlays); err != nil {
			return fmt.Errorf("entry %d of %s: %w", rows[i].Seq, c, err)
		}
	}
	return nil
}

func serveRow(r *persistence.Row, overlays []persistence.Overlay) error {
	e := &messages.Entry{}
	if err := proto.Unmarshal(r.Entry, e); err != nil {
		return fmt.Errorf("%w (%v)", ErrCorrupt, err)
	}
	persistence.Served(e, func(messages.Seq) []persistence.Overlay { return overlays })
	var err error
	r.Entry, err = proto.Marshal(e)
	return err
}

func (v *view) hasOverlays(c messages.ConversationID) (bool, error) {
	prefix := overlaysOf(c)
	if v.it.SeekGE(prefix) {
		return hasPrefix(v.it.Key(), prefix), nil
	}
	return false, v.failed()
}

// changed returns which entries from first to last have an overlay. However
// many an entry has, it costs one step.
func (v *view) changed(c messages.ConversationID, first, last messages.Seq) (map[messages.Seq]bool, error) {
	prefix := overlaysOf(c)
	var targets map[messages.Seq]bool
	for ok := v.it.SeekGE(overlaysOf(c).num(uint64(first))); ok && hasPrefix(v.it.Key(), prefix); {
		f := fields{rest: v.it.Key()[len(prefix):]}
		target := messages.Seq(f.num())
		if target > last {
			break
		}
		if targets == nil {
			targets = make(map[messages.Seq]bool)
		}
		targets[target] = true
		ok = v.it.SeekGE(overlaysOf(c).beyond(target))
	}
	return targets, v.failed()
}

// overlays returns what counts of target's overlays up to the entry durable:
// the last edit and the first retraction.
func (v *view) overlays(c messages.ConversationID, target, durable messages.Seq) ([]persistence.Overlay, error) {
	edits := overlaysOf(c).num(uint64(target)).byte(overlayEdit)
	k, value, err := v.last(edits, edits.beyond(durable))
	if err != nil {
		return nil, err
	}
	var found []persistence.Overlay
	if k != nil {
		o, err := decodeOverlay(target, k, value)
		if err != nil {
			return nil, err
		}
		found = append(found, o)
	}
	retractions := overlaysOf(c).num(uint64(target)).byte(overlayRetract)
	err = v.each(retractions, retractions, func(k, value []byte) (bool, error) {
		if seqAtEnd(k) > durable {
			return false, nil
		}
		o, err := decodeOverlay(target, k, value)
		o.Retract = true
		found = append(found, o)
		return false, err
	})
	slices.SortFunc(found, func(a, b persistence.Overlay) int { return int(int64(a.Seq) - int64(b.Seq)) })
	return found, err
}

func decodeOverlay(target messages.Seq, k, value []byte) (persistence.Overlay, error) {
	var at uint64
	body, err := unpack(value, &at)
	return persistence.Overlay{Target: target, Seq: seqAtEnd(k), At: int64(at), Body: string(body)}, err
}

// Know implements persistence.Log.
func (s *Store) Know(ctx context.Context, c messages.ConversationID, q persistence.Query) (persistence.Answer, error) {
	ids, blocked, err := s.lookUp(ctx, c, q)
	if err != nil {
		return persistence.Answer{}, err
	}
	targets, err := s.targets(ctx, c, q.Targets)
	if err != nil {
		return persistence.Answer{}, err
	}
	if durable := s.flight.cap(c); slices.ContainsFunc(ids, func(d persistence.Dedup) bool { return d.Seq > durable }) {
		if err := s.flight.waitLog(ctx, c); err != nil {
			return persistence.Answer{}, err
		}
	}
	return persistence.Answer{IDs: ids, Targets: targets, Blocked: blocked}, nil
}

// lookUp finds ids and blocks by point reads, which filters make cheap where
// there is nothing.
func (s *Store) lookUp(ctx context.Context, c messages.ConversationID, q persistence.Query) ([]persistence.Dedup, bool, error) {
	if err := s.enter(ctx); err != nil {
		return nil, false, err
	}
	defer s.leave()
	ids := make([]persistence.Dedup, len(q.IDs))
	oldest, newest := s.dedupPeriods()
	for i, id := range q.IDs {
		var err error
		if ids[i], err = s.dedup(c, id, oldest, newest); err != nil {
			return nil, false, err
		}
	}
	low, high, direct := c.Pair()
	if !q.Blocks || !direct {
		return ids, false, nil
	}
	blocked, err := s.blocked(low, high)
	return ids, blocked, err
}

// dedupPeriods returns the periods that an id used within messages.DedupFor
// can be in, also one that was used under a clock some hours ahead.
func (s *Store) dedupPeriods() (oldest, newest uint32) {
	now := s.opts.Now().UnixMilli()
	return periodOf(s.forgotten(), dedupPeriod), periodOf(now+day.Milliseconds()-1, dedupPeriod)
}

// forgotten is the time (ms) before which a used id counts no more.
func (s *Store) forgotten() int64 {
	return s.opts.Now().UnixMilli() - messages.DedupFor.Milliseconds()
}

// dedup returns the newest use of id, with Seq 0 where none counts.
func (s *Store) dedup(c messages.ConversationID, id persistence.AuthorID, oldest, newest uint32) (persistence.Dedup, error) {
	none := persistence.Dedup{Author: id.Author, ClientID: id.ClientID}
	for p := newest + 1; p > oldest; p-- {
		value, err := get(s.db, dedupKey(p-1, c, id))
		if err != nil {
			return none, err
		}
		if value == nil {
			continue
		}
		d, err := decodeDedup(id, value)
		if err != nil || d.At < s.forgotten() {
			return none, err
		}
		return d, nil
	}
	return none, nil
}

func decodeDedup(id persistence.AuthorID, value []byte) (persistence.Dedup, error) {
	var seq, hash, at uint64
	_, err := unpack(value, &seq, &hash, &at)
	return persistence.Dedup{
		Author: id.Author, ClientID: id.ClientID, Seq: messages.Seq(seq), Hash: hash, At: int64(at),
	}, err
}

// targets returns what is known of the entries seqs of c.
func (s *Store) targets(ctx context.Context, c messages.ConversationID, seqs []messages.Seq) ([]persistence.Target, error) {
	if len(seqs) == 0 {
		return nil, nil
	}
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	defer v.close()
	durable := v.cap(c)
	targets := make([]persistence.Target, len(seqs))
	for i, seq := range seqs {
		if targets[i], err = v.target(c, seq, durable); err != nil {
			return nil, err
		}
	}
	return targets, nil
}

func (v *view) target(c messages.ConversationID, seq, durable messages.Seq) (persistence.Target, error) {
	value, ok, err := v.get(logKey(c, seq))
	if err != nil || !ok || seq > durable {
		return persistence.Target{}, err
	}
	rec, err := decodeRecord(c, seq, value)
	if err != nil {
		return persistence.Target{}, err
	}
	e := &messages.Entry{}
	if err := proto.Unmarshal(rec.Entry, e); err != nil {
		return persistence.Target{}, fmt.Errorf("entry %d of %s: %w (%v)", seq, c, ErrCorrupt, err)
	}
	overlays, err := v.overlays(c, seq, durable)
	return persistence.Target{
		Seq: seq, Author: messages.UserID(e.From), At: e.At,
		Countable: e.GetText() != nil || e.GetMedia() != nil,
		Retracted: slices.ContainsFunc(overlays, func(o persistence.Overlay) bool { return o.Retract }),
	}, err
}

// Recent implements persistence.Log. It also answers false where finding out
// would take reading far more ids than limit.
func (s *Store) Recent(ctx context.Context, c messages.ConversationID, limit int) ([]persistence.Dedup, bool, error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, false, err
	}
	defer v.close()
	r := recent{durable: v.cap(c), forgotten: s.forgotten(), limit: limit}
	oldest, newest := s.dedupPeriods()
	for p := newest + 1; p > oldest && !r.over(); p-- {
		prefix := dedupOf(p-1, c)
		err := v.each(prefix, prefix, func(k, value []byte) (bool, error) {
			return r.add(k[len(prefix):], value)
		})
		if err != nil {
			return nil, false, err
		}
	}
	if r.over() {
		return nil, false, nil
	}
	return r.ids, true, nil
}

// recent gathers ids that count.
type recent struct {
	durable   messages.Seq
	forgotten int64
	limit     int
	seen      int
	ids       []persistence.Dedup
}

func (r *recent) over() bool { return len(r.ids) > r.limit || r.seen > 4*r.limit+100 }

func (r *recent) add(id, value []byte) (more bool, err error) {
	f := fields{rest: id}
	author := persistence.AuthorID{Author: messages.UserID(f.name()), ClientID: messages.ClientID(f.text())}
	d, err := decodeDedup(author, value)
	if err != nil {
		return false, err
	}
	r.seen++
	if d.Seq <= r.durable && d.At >= r.forgotten {
		r.ids = append(r.ids, d)
	}
	return !r.over(), nil
}

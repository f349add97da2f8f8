package persistence

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

// Walker is a store that can be read from end to end. Each method calls f
// until it returns an error, and returns that.
type Walker interface {
	// Conversations visits every conversation that has a log.
	Conversations(ctx context.Context, f func(messages.ConversationID) error) error
	// Scan visits the rows of c as they are stored, ascending, each with the
	// id of its append.
	Scan(ctx context.Context, c messages.ConversationID, f func(Row, AppendID) error) error
	// ScanDedup visits the used ids of c that are stored, in no order.
	ScanDedup(ctx context.Context, c messages.ConversationID, f func(Dedup) error) error
	// ScanMembers visits the cursors of c's members, in no order.
	ScanMembers(ctx context.Context, c messages.ConversationID, f func(MemberCursor) error) error
	// ScanDevices visits the cursors of all devices.
	ScanDevices(ctx context.Context, f func(DeviceKey, Position) error) error
	// Heads is that of Log.
	Heads(ctx context.Context, cs []messages.ConversationID) ([]Head, error)
}

// maxFindings bounds a Report. What is found beyond it is only counted.
const maxFindings = 1000

// Report is what Verify saw.
type Report struct {
	Conversations int
	Entries       int
	IDs           int // client ids in use
	Cursors       int // of members and devices
	Findings      []Finding
	Omitted       int // findings beyond those listed
}

// Finding is one thing that is not as it must be. It holds no content.
type Finding struct {
	Conversation messages.ConversationID
	Seq          messages.Seq // 0: not about one entry
	Problem      string
}

func (f Finding) String() string {
	if f.Seq == 0 {
		return fmt.Sprintf("%s: %s", f.Conversation, f.Problem)
	}
	return fmt.Sprintf("%s entry %d: %s", f.Conversation, f.Seq, f.Problem)
}

func (r *Report) add(c messages.ConversationID, seq messages.Seq, format string, args ...any) {
	if len(r.Findings) >= maxFindings {
		r.Omitted++
		return
	}
	r.Findings = append(r.Findings, Finding{c, seq, fmt.Sprintf(format, args...)})
}

// Verify reads the whole store and checks what is promised of it: entries
// dense from 1 in an order in which time never goes back, one entry for one
// client id, cursors not beyond the heads, counts right. Nothing may be
// written meanwhile. An error means that it could not read on; the report
// then covers what came before.
func Verify(ctx context.Context, w Walker) (Report, error) {
	var r Report
	err := w.Conversations(ctx, func(c messages.ConversationID) error {
		r.Conversations++
		return verifyConversation(ctx, w, &r, c)
	})
	if err != nil {
		return r, fmt.Errorf("verifying logs: %w", err)
	}
	if err := verifyDevices(ctx, w, &r); err != nil {
		return r, fmt.Errorf("verifying cursors: %w", err)
	}
	return r, nil
}

func verifyConversation(ctx context.Context, w Walker, r *Report, c messages.ConversationID) error {
	l := logCheck{report: r, c: c, ids: make(map[AuthorID][]Dedup), used: make(map[AuthorID]use)}
	if err := w.ScanDedup(ctx, c, l.dedup); err != nil {
		return err
	}
	if err := w.Scan(ctx, c, l.row); err != nil {
		if ctx.Err() != nil {
			return err
		}
		r.add(c, l.head.Seq+1, "can't be read: %v", err)
		return nil
	}
	l.leftover()
	return w.ScanMembers(ctx, c, func(m MemberCursor) error {
		r.Cursors++
		if last := max(m.Delivered, m.Read); last > l.head.Seq {
			r.add(c, 0, "the cursor of %s is at %d, beyond the head %d", m.User, last, l.head.Seq)
		}
		return nil
	})
}

// logCheck goes along one log.
type logCheck struct {
	report *Report
	c      messages.ConversationID
	head   Head // of the rows so far
	event  messages.Seq
	ids    map[AuthorID][]Dedup // whose entry is still to come
	used   map[AuthorID]use     // by the entries of the last messages.DedupFor
	pruned int64
}

type use struct {
	append AppendID
	at     int64
}

func (l *logCheck) dedup(d Dedup) error {
	l.report.IDs++
	id := AuthorID{d.Author, d.ClientID}
	for _, other := range l.ids[id] {
		if other.Seq != d.Seq && near(other.At, d.At) {
			l.report.add(l.c, d.Seq, "a client id of %s is used for entry %d too", d.Author, other.Seq)
		}
	}
	l.ids[id] = append(l.ids[id], d)
	return nil
}

// near reports whether an id used at one time may not be used at the other.
func near(a, b int64) bool { return max(a, b)-min(a, b) < messages.DedupFor.Milliseconds() }

func (l *logCheck) row(row Row, id AppendID) error {
	l.report.Entries++
	e := &messages.Entry{}
	if err := proto.Unmarshal(row.Entry, e); err != nil {
		l.report.add(l.c, row.Seq, "is no entry: %v", err)
		e = nil
	}
	l.order(row, e)
	l.counts(row, e)
	l.once(row, e, id)
	l.head = Head{Seq: row.Seq, At: max(row.At, l.head.At), Countable: row.Countable, StateSeq: row.StateSeq}
	return nil
}

func (l *logCheck) order(row Row, e *messages.Entry) {
	if row.Seq != l.head.Seq+1 {
		l.report.add(l.c, row.Seq, "follows entry %d", l.head.Seq)
	}
	if row.At < l.head.At {
		l.report.add(l.c, row.Seq, "is %d ms older than one before it", l.head.At-row.At)
	}
	if e != nil && (messages.Seq(e.Seq) != row.Seq || messages.ConversationID(e.Conversation) != l.c) {
		l.report.add(l.c, row.Seq, "says that it is entry %d of %s", e.Seq, e.Conversation)
	}
}

func (l *logCheck) counts(row Row, e *messages.Entry) {
	want := l.head.Countable
	if e.GetText() != nil || e.GetMedia() != nil {
		want++
	}
	if e != nil && row.Countable != want {
		l.report.add(l.c, row.Seq, "counts %d texts and media, not %d", row.Countable, want)
	}
	if e.GetEvent() != nil {
		l.event = row.Seq
	}
	if row.StateSeq < l.head.StateSeq || row.StateSeq > l.event || row.StateSeq == row.Seq && e.GetEvent() == nil {
		l.report.add(l.c, row.Seq, "names %d as the last change of its members", row.StateSeq)
	}
}

// once checks that no other append used the entry's client id. The events of
// one command share its id.
func (l *logCheck) once(row Row, e *messages.Entry, id AppendID) {
	if e == nil || e.ClientId == "" {
		return
	}
	author := AuthorID{messages.UserID(e.From), messages.ClientID(e.ClientId)}
	l.found(author, row.Seq)
	if e.GetEvent() != nil {
		return
	}
	if before, ok := l.used[author]; ok && before.append != id && near(before.at, row.At) {
		l.report.add(l.c, row.Seq, "repeats a client id of %s", author.Author)
	}
	l.prune(row.At)
	l.used[author] = use{id, row.At}
}

// found takes the dedup record of an entry as right.
func (l *logCheck) found(id AuthorID, seq messages.Seq) {
	for i, d := range l.ids[id] {
		if d.Seq == seq {
			l.ids[id] = append(l.ids[id][:i], l.ids[id][i+1:]...)
			break
		}
	}
	if len(l.ids[id]) == 0 {
		delete(l.ids, id)
	}
}

// prune bounds what is remembered to the entries of twice messages.DedupFor.
func (l *logCheck) prune(now int64) {
	if near(l.pruned, now) {
		return
	}
	for id, u := range l.used {
		if !near(u.at, now) {
			delete(l.used, id)
		}
	}
	l.pruned = now
}

// leftover reports the dedup records whose entry did not come.
func (l *logCheck) leftover() {
	for id, ds := range l.ids {
		for _, d := range ds {
			l.report.add(l.c, d.Seq, "is not the entry of %s that a client id stands for", id.Author)
		}
	}
}

// verifyDevices compares the devices' cursors with the heads, many at a time.
func verifyDevices(ctx context.Context, w Walker, r *Report) error {
	const many = 1000
	var ps []Position
	flush := func() error {
		cs := make([]messages.ConversationID, len(ps))
		for i, p := range ps {
			cs[i] = p.Conversation
		}
		heads, err := w.Heads(ctx, cs)
		if err != nil {
			return err
		}
		for i, p := range ps {
			if p.Seq > heads[i].Seq {
				r.add(p.Conversation, 0, "the cursor of a device is at %d, beyond the head %d", p.Seq, heads[i].Seq)
			}
		}
		ps = ps[:0]
		return nil
	}
	err := w.ScanDevices(ctx, func(_ DeviceKey, p Position) error {
		r.Cursors++
		if ps = append(ps, p); len(ps) < many {
			return nil
		}
		return flush()
	})
	if err != nil {
		return err
	}
	return flush()
}

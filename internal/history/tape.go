package history

import (
	"fmt"

	"github.com/troupe-chat/troupe/messages"
)

// reading is how one device has read one conversation, as its tape is played.
type reading struct {
	talk *talk
	view view

	seen      map[messages.Seq]struct{} // on any connection, in any way
	high      messages.Seq              // the highest of them that came in order
	confirmed messages.Seq              // nothing up to here may come again
	acked     messages.Seq
	baseline  messages.Seq              // the device asked not to be given what is before it
	answered  map[messages.Seq]struct{} // by answers to retries: they need not come any more
	receipts  map[messages.UserID]cursors

	// Of the current connection.
	conn    uint32
	last    messages.Seq              // in order; 0: none yet
	skipped map[messages.Seq]struct{} // before last
	told    map[messages.Seq]struct{} // by the answer to a retry, out of order
	starts  map[messages.Seq]struct{} // memberships begun
}

type cursors struct{ delivered, read messages.Seq }

// player plays one tape.
type player struct {
	*checker
	tape     *Tape
	readings map[messages.ConversationID]*reading
	head     bool // the device asked to start at the head
}

func (c *checker) checkTape(t *Tape) {
	p := &player{checker: c, tape: t, readings: make(map[messages.ConversationID]*reading)}
	for i := range t.records {
		p.play(i)
	}
	if !t.gone {
		p.checkComplete()
	}
}

func (p *player) play(i int) {
	r := &p.tape.records[i]
	if r.kind == Connected {
		p.head = p.head || r.head
		return
	}
	rd := p.reading(r)
	if !rd.talk.known {
		return
	}
	switch r.kind {
	case Resumed:
		rd.confirmed = max(rd.confirmed, r.seq)
	case Joined:
		p.joined(i, rd)
	case Acked:
		rd.acked = max(rd.acked, r.seq)
	case Read:
		rd.confirmed = max(rd.confirmed, r.seq)
	case Sent:
		p.sent(i, rd)
	case Delivered:
		p.matches(i, rd)
		p.inOrder(i, rd)
	case Paged:
		p.matches(i, rd)
	case Receipt:
		p.receipt(i, rd)
	}
}

// reading returns the reading that a record is of, on its connection.
func (p *player) reading(r *record) *reading {
	rd := p.readings[r.conv]
	if rd == nil {
		talk := p.talk(r.conv)
		rd = &reading{talk: talk, view: talk.views[p.tape.User], seen: make(map[messages.Seq]struct{})}
		p.readings[r.conv] = rd
	}
	if rd.conn != r.conn {
		rd.conn, rd.last, rd.skipped, rd.told, rd.starts = r.conn, 0, nil, nil, nil
		if p.options.AcksStored {
			rd.confirmed = max(rd.confirmed, rd.acked)
		}
	}
	return rd
}

func (p *player) joined(i int, rd *reading) {
	seq := p.tape.records[i].seq
	if !rd.view.startsAt(seq) {
		p.fault(Hole, p.tape, i, "no membership starts here")
	}
	add(&rd.starts, seq)
}

// sent takes the answer to a send: it stands for the entry, but for that to a
// retry, which only tells where the entry is.
func (p *player) sent(i int, rd *reading) {
	r := &p.tape.records[i]
	if !r.duplicate {
		p.inOrder(i, rd)
		return
	}
	rd.seen[r.seq] = struct{}{}
	add(&rd.answered, r.seq)
	if r.seq > rd.last {
		add(&rd.told, r.seq)
	}
}

// matches judges an entry by the log and by its user's memberships.
func (p *player) matches(i int, rd *reading) {
	r := &p.tape.records[i]
	if !rd.view.has(r.seq) {
		p.fault(Leak, p.tape, i, "outside the memberships of its user")
	}
	e, ok := rd.talk.entry(r.seq)
	switch {
	case !ok:
		p.fault(Lost, p.tape, i, "shown, and not in the log")
	case e.Author != r.author || e.ClientID != r.clientID:
		p.fault(Conflict, p.tape, i, fmt.Sprintf("the log has %s of %s", e.ClientID, e.Author))
	case differ(e.Hash, r.hash):
		p.fault(Conflict, p.tape, i, "the log has other content")
	}
}

// inOrder gives an entry its place in the order of its connection.
func (p *player) inOrder(i int, rd *reading) {
	seq := p.tape.records[i].seq
	defer func() { rd.seen[seq] = struct{}{} }()
	if rd.last != 0 && seq <= rd.last {
		p.late(i, rd)
		return
	}
	if rd.last == 0 && seq <= rd.confirmed {
		p.fault(Duplicate, p.tape, i, fmt.Sprintf("the device was known to have everything up to %d", rd.confirmed))
	}
	p.gap(i, rd)
	rd.last = seq
	rd.high = max(rd.high, seq)
}

// late judges an entry that is not beyond the last.
func (p *player) late(i int, rd *reading) {
	seq := p.tape.records[i].seq
	if remove(rd.told, seq) {
		return
	}
	if remove(rd.skipped, seq) {
		p.fault(Inversion, p.tape, i, fmt.Sprintf("after %d", rd.last))
		return
	}
	p.fault(Duplicate, p.tape, i, fmt.Sprintf("again on this connection, after %d", rd.last))
}

// gap judges what lies between the last entry and this one.
func (p *player) gap(i int, rd *reading) {
	seq, from := p.tape.records[i].seq, p.resumesAt(i, rd)
	if seq <= from+1 {
		return
	}
	missed := messages.Seq(0)
	for s := rd.view.next(from); s < seq; s = rd.view.next(s) {
		if _, answered := rd.answered[s]; answered {
			continue
		}
		if missed == 0 {
			missed = s
		}
		add(&rd.skipped, s)
	}
	switch _, announced := rd.starts[seq]; {
	case missed != 0:
		p.fault(Hole, p.tape, i, fmt.Sprintf("%d has not come", missed))
	case !announced && !rd.view.has(seq-1):
		p.fault(Hole, p.tape, i, "no deliver frame said that a membership starts here")
	}
}

// resumesAt returns the seq up to which nothing need come any more.
func (p *player) resumesAt(i int, rd *reading) messages.Seq {
	seq := p.tape.records[i].seq
	switch {
	case rd.last != 0:
		return rd.last
	case rd.high == 0 && rd.confirmed == 0 && p.head:
		rd.baseline = seq - 1
		return rd.baseline
	}
	return max(rd.high, rd.confirmed)
}

func (p *player) receipt(i int, rd *reading) {
	r := &p.tape.records[i]
	if len(rd.view) == 0 {
		p.fault(Leak, p.tape, i, "a receipt of a conversation that its user was never in")
	}
	if rd.receipts == nil {
		rd.receipts = make(map[messages.UserID]cursors)
	}
	before, now := rd.receipts[r.author], cursors{r.seq, r.read}
	if now.delivered < before.delivered || now.read < before.read {
		p.fault(CursorBack, p.tape, i, fmt.Sprintf("%s had delivered %d and read %d before; now %d and %d",
			r.author, before.delivered, before.read, now.delivered, now.read))
	}
	rd.receipts[r.author] = cursors{max(before.delivered, now.delivered), max(before.read, now.read)}
}

// checkComplete looks for what was acknowledged, is due to this device and
// never came.
func (p *player) checkComplete() {
	for _, id := range p.ids() {
		t := p.talks[id]
		rd := p.readings[id]
		if rd == nil {
			rd = &reading{talk: t, view: t.views[p.tape.User]}
		}
		if p.head && rd.high == 0 {
			continue // where the head was is not known
		}
		p.checkReading(t, rd)
	}
}

func (p *player) checkReading(t *talk, rd *reading) {
	from := max(rd.baseline, rd.confirmed)
	for seq := rd.view.next(from); seq <= messages.Seq(len(t.log)); seq = rd.view.next(seq) {
		if _, ok := rd.seen[seq]; ok || !t.acked[seq-1] {
			continue
		}
		last := len(p.tape.records) - 1
		p.report(Violation{Lost, t.id, seq, p.tape.User, p.tape.Device, "acknowledged to its author, and it never came", p.tape.around(last, t.id)})
	}
}

func add(set *map[messages.Seq]struct{}, seq messages.Seq) {
	if *set == nil {
		*set = make(map[messages.Seq]struct{})
	}
	(*set)[seq] = struct{}{}
}

func remove(set map[messages.Seq]struct{}, seq messages.Seq) bool {
	_, ok := set[seq]
	delete(set, seq)
	return ok
}

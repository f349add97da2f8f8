//go:build linux

package load

import (
	"slices"
	"time"

	"github.com/troupe-chat/troupe/internal/load/wire"
)

// room is one conversation under load, all of whose members are clients of one
// worker. It knows the conversation's log as far as anybody has seen it.
type room struct {
	w       *worker
	id      string
	group   bool
	members []*member
	byUser  map[string]*member
	turn    int // whose turn it is to send, in a group

	base  uint64  // the seq of log[0]
	log   []known // by seq − base
	acked uint64  // the highest seq acknowledged
}

// known says which entry stands at a seq: 0 where nobody has seen it yet.
type known uint64

const (
	knownAcked known = 1 << 63 // the sender was told
	knownOther known = 1 << 62 // not of this run
	knownBits  known = knownAcked
)

func entryOf(sender int, n uint64) known { return known(sender+1)<<32 | known(n) }

// member is one user's place in a room.
type member struct {
	c    *client
	room *room
	idx  int
	peer string // of a direct conversation

	n        uint64   // sends made
	acks     int      // of them, acknowledged
	inflight int      // of them, not answered
	seqs     []uint64 // by number of the send: where it stands

	first, last uint64              // the seqs seen, with missing between them
	missing     map[uint64]struct{} // skipped so far
	owing       bool                // an entry was delivered since the last ack

	receipts map[string]receipt // the last ones seen, by user
}

type receipt struct{ delivered, read uint64 }

func newRoom(w *worker, id string, group bool, clients []*client) *room {
	r := &room{w: w, group: group, byUser: make(map[string]*member, len(clients))}
	for i, c := range clients {
		m := &member{c: c, room: r, idx: i}
		r.members = append(r.members, m)
		r.byUser[c.user] = m
	}
	if !group {
		r.members[0].peer, r.members[1].peer = clients[1].user, clients[0].user
	}
	if id != "" {
		r.named(id)
	}
	return r
}

// named tells the room its conversation's id.
func (r *room) named(id string) {
	r.id = id
	for _, m := range r.members {
		m.c.joins(m)
	}
}

// next returns who sends after m was answered: in a group the members take
// turns, in a pair each keeps its own number in flight.
func (r *room) next(m *member) *member {
	if !r.group {
		return m
	}
	r.turn = (r.turn + 1) % len(r.members)
	return r.members[r.turn]
}

// note records that e stands at seq, as a device saw it, and counts what
// contradicts what others saw.
func (r *room) note(seq uint64, e known) {
	slot := r.slot(seq)
	if *slot == 0 {
		*slot = e
		r.once(seq, e)
		return
	}
	if (*slot^e)&^knownBits != 0 {
		r.w.tally.violation(&r.w.tally.reordered, "%s/%d: devices see different entries here", r.id, seq)
	}
	*slot |= e & knownAcked
}

// once counts a send that stands at two seqs.
func (r *room) once(seq uint64, e known) {
	if e&knownOther != 0 {
		return
	}
	m, n := r.members[int(e&^knownBits>>32)-1], int(uint32(e))
	if len(m.seqs) <= n {
		m.seqs = append(m.seqs, make([]uint64, n+1-len(m.seqs))...)
	}
	if m.seqs[n] != 0 && m.seqs[n] != seq {
		r.w.tally.violation(&r.w.tally.duplicated, "%s/%d: send %d of %s is at %d too", r.id, seq, n, m.c.user, m.seqs[n])
	}
	m.seqs[n] = seq
}

// slot returns where seq is kept. Devices start at about the same seq, so log
// begins near the first one seen.
func (r *room) slot(seq uint64) *known {
	if len(r.log) == 0 {
		r.base = seq
	}
	if seq < r.base {
		r.log = slices.Insert(r.log, 0, make([]known, r.base-seq)...)
		r.base = seq
	}
	for uint64(len(r.log)) <= seq-r.base {
		r.log = append(r.log, 0)
	}
	return &r.log[seq-r.base]
}

// settled reports whether every answer is in and every connected member has
// all that was acknowledged.
func (r *room) settled() bool {
	for _, m := range r.members {
		if !m.c.gone() && (m.inflight > 0 || m.last < r.acked || len(m.missing) > 0) {
			return false
		}
	}
	return true
}

// judge counts, at the end of a run, what was acknowledged and never reached a
// member that is still connected, and what was never answered.
func (r *room) judge() {
	for _, m := range r.members {
		r.w.tally.unanswered += int64(m.inflight)
		if !m.c.gone() {
			r.judgeMember(m)
		}
	}
}

func (r *room) judgeMember(m *member) {
	for i, e := range r.log {
		seq := r.base + uint64(i)
		if e&knownAcked != 0 && !m.has(seq) {
			r.w.tally.violation(&r.w.tally.lost, "%s/%d: acknowledged, and %s never got it", r.id, seq, m.c.user)
		}
	}
}

func (m *member) has(seq uint64) bool {
	_, missed := m.missing[seq]
	return m.first <= seq && seq <= m.last && !missed
}

// saw takes seq into what m has, in the order of its socket. It returns false
// for a repetition.
func (m *member) saw(seq uint64) bool {
	switch {
	case seq == m.last+1:
		m.last = seq
		if m.first == 0 {
			m.first = seq
		}
	case m.last == 0:
		m.first, m.last = seq, seq
	case seq > m.last:
		m.skip(seq)
	default:
		return m.late(seq)
	}
	return true
}

// skip notes the hole before seq.
func (m *member) skip(seq uint64) {
	t := m.room.w.tally
	t.violation(&t.reordered, "%s/%d: at %s it came after %d", m.room.id, seq, m.c.user, m.last)
	if m.missing == nil {
		m.missing = make(map[uint64]struct{})
	}
	for s := m.last + 1; s < seq; s++ {
		m.missing[s] = struct{}{}
	}
	m.last = seq
}

func (m *member) late(seq uint64) bool {
	if _, ok := m.missing[seq]; ok {
		delete(m.missing, seq)
		return true
	}
	t := m.room.w.tally
	t.violation(&t.duplicated, "%s/%d: at %s again, after %d", m.room.id, seq, m.c.user, m.last)
	return false
}

// send makes the next send, which was due then. Of a client that has gone it
// is refused.
func (m *member) send(due time.Duration) {
	w := m.room.w
	w.tally.attempts++
	if m.c.gone() {
		w.tally.refused["disconnected"]++
		return
	}
	s := stamp{run: w.run, n: m.n, due: due, late: w.loop.now - due}
	m.n++
	m.inflight++
	var id [stampSize]byte
	var conversation string
	if m.room.group {
		conversation = m.room.id
	}
	b := m.c.conn
	b.batch = wire.AppendSend(b.batch, uint32(m.n), conversation, m.peer, s.append(id[:0]), w.body(s.n))
	b.appended()
}

// sent takes the answer to one of m's sends.
func (m *member) sent(s wire.Sent, st stamp) {
	w := m.room.w
	m.inflight--
	m.acks++
	w.tally.answer(w.loop.now, st)
	m.room.note(s.Seq, entryOf(m.idx, st.n)|knownAcked)
	m.room.acked = max(m.room.acked, s.Seq)
	// The answer to a retry tells where the entry stands; it takes no place in
	// the order of this socket.
	if !s.Duplicate {
		m.saw(s.Seq)
	}
	w.answered(m)
}

// delivered takes an entry from m's socket.
func (m *member) delivered(e wire.Entry) {
	if m.saw(e.Seq) {
		m.count(e)
	}
	m.c.owes(m)
}

func (m *member) count(e wire.Entry) {
	w := m.room.w
	st, ours := parseStamp(e.ClientID)
	from := m.room.byUser[string(e.From)]
	if !ours || st.run != w.run || from == nil {
		m.room.note(e.Seq, knownOther)
		return
	}
	m.room.note(e.Seq, entryOf(from.idx, st.n))
	if from != m {
		w.tally.delivery(w.loop.now, st)
	}
}

// moved takes a receipt, which must not go back.
func (m *member) moved(user string, now receipt) {
	if m.receipts == nil {
		m.receipts = make(map[string]receipt)
	}
	before := m.receipts[user]
	if now.delivered < before.delivered || now.read < before.read {
		t := m.room.w.tally
		t.violation(&t.receiptsBack, "%s: at %s the receipt of %s went back: %v after %v", m.room.id, m.c.user, user, now, before)
	}
	m.receipts[user] = now
}

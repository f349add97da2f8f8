package gateway

import (
	"context"
	"slices"
	"time"

	"github.com/troupe-chat/troupe/actors/rules"
	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// delivery is the delivery loop of one connected device: the only thing that
// writes entries to its socket. A conversation is a log, the device a cursor
// over it, and delivering closes the gap: a hint that holds just the next entry
// is sent as it is; anything else only sets the conversation dirty, and the log
// is read from where the device is. Live, offline, slow and reconnecting
// devices all take this path. Guarded by its connection's mutex.
type delivery struct {
	incarnation uint64
	tracks      map[messages.ConversationID]*track
	dirty       []*track // to be read, round robin
	window      rules.Window
	parked      int     // sent frames that wait for their place
	fullSince   instant // when the window closed; 0: it is open

	catching map[messages.ConversationID]messages.Seq // until caught_up: the heads seen at hello
	pass     int64                                    // ms: start of the pass that is not acknowledged yet
	passLeft map[messages.ConversationID]messages.Seq // its heads without an acknowledgement

	acks      map[messages.ConversationID]messages.Seq // cursors to hand on
	ackedAt   instant                                  // when some were last handed on
	started   bool                                     // welcome is written
	draining  bool                                     // a pool task reads for this connection
	ackQueued bool
}

// track is one conversation on its way to one device.
type track struct {
	id     messages.ConversationID
	sent   messages.Seq // the device has been sent everything visible up to here
	acked  messages.Seq // and has acknowledged everything up to here
	target messages.Seq // the log is known to reach at least here
	resume *messages.Seq
	spans  []persistence.Span // what its user may see beyond sent
	parked []parkedSent       // ascending
	state  trackState
	known  bool // sent and spans are loaded
}

// trackState says what a dirty track waits for.
type trackState uint8

const (
	trackClean   trackState = iota
	trackQueued             // in the dirty queue
	trackReading            // a read of it is under way
	trackClosed             // the window is closed to it
	trackWaiting            // its next entry is this connection's own, its send not answered yet
)

// parkedSent is an answer to a send, waiting for the entries before its own.
type parkedSent struct {
	re   uint32
	sent *messages.Sent
}

func (p parkedSent) seq() messages.Seq { return messages.Seq(p.sent.Seq) }

// Bounds of one turn of the loop.
const (
	maxParked = 1024
	turnRows  = messages.MaxDeliver
	turnBytes = messages.MaxServerMessage
	maxTurns  = 8 // before the task goes to the end of the pool's queue
)

// windowBytes bounds the unacknowledged entries of one device.
const windowBytes = 1 << 20

func (d *delivery) open(incarnation uint64, l *messages.Limits) {
	d.incarnation = incarnation
	d.window = rules.NewWindow(int(l.Window), windowBytes)
}

// overdue reports whether a full window has gone without acknowledgement for
// too long.
func (d *delivery) overdue(now instant) bool {
	return d.fullSince != 0 && now.sub(d.fullSince) > ackWithin
}

func (d *delivery) track(id messages.ConversationID) *track {
	t := d.tracks[id]
	if t == nil {
		if d.tracks == nil {
			d.tracks = map[messages.ConversationID]*track{}
		}
		t = &track{id: id}
		d.tracks[id] = t
	}
	return t
}

// begin starts the loop with what waited at hello.
func (d *delivery) begin(c *conn, m *messages.News) {
	d.started = true
	if len(m.Items) == 0 {
		c.push(&messages.ServerFrame{Event: &messages.ServerFrame_CaughtUp{CaughtUp: &messages.CaughtUp{}}})
	} else {
		d.catching = make(map[messages.ConversationID]messages.Seq, len(m.Items))
		d.pass = m.Pass
		d.passLeft = make(map[messages.ConversationID]messages.Seq, len(m.Items))
	}
	for _, item := range m.Items {
		id := messages.ConversationID(item.Conversation)
		d.catching[id] = messages.Seq(item.Head)
		d.passLeft[id] = messages.Seq(item.Head)
	}
	d.recheck(c, m)
	for _, t := range d.tracks { // hints that came before welcome
		d.mark(c, t)
	}
}

// recheck takes heads that a hint may have missed.
func (d *delivery) recheck(c *conn, m *messages.News) {
	for _, item := range m.Items {
		t := d.track(messages.ConversationID(item.Conversation))
		if !t.known && t.resume == nil {
			resume := messages.Seq(item.Resume)
			t.resume = &resume
		}
		t.target = max(t.target, messages.Seq(item.Head))
		d.mark(c, t)
	}
}

// Hint tells of durable entries.
func (c *Conn) Hint(h *messages.Hint) { (*conn)(c).hint(h) }

func (c *conn) hint(h *messages.Hint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase == phaseClosed || c.phase == phaseNew {
		return
	}
	d := &c.delivery
	t := d.track(h.Conversation)
	for _, e := range h.Entries {
		seq := messages.Seq(e.Entry.Seq)
		if seq <= t.sent && t.known {
			continue
		}
		t.target = max(t.target, seq)
		if !d.started || t.state != trackClean || !t.known || seq != t.next() {
			continue
		}
		if d.emit(c, t, e, true) == emitted {
			c.srv.Metrics.Hints.Add(1)
		}
	}
	if len(h.Entries) == 0 {
		t.target = max(t.target, h.First)
	}
	d.mark(c, t)
}

// next is the seq that the device gets next, once the log has it; 0: none that
// is known of.
func (t *track) next() messages.Seq {
	if span, ok := persistence.Next(t.spans, t.sent); ok {
		return span.First
	}
	return 0
}

// mark queues a track that lags behind its log. Called with the connection's
// mutex held, like everything below that takes a *conn.
func (d *delivery) mark(c *conn, t *track) {
	if !d.started || t.state != trackClean || t.known && t.sent >= t.target {
		return
	}
	t.state = trackQueued
	d.dirty = append(d.dirty, t)
	d.drain(c)
}

func (d *delivery) drain(c *conn) {
	if !d.draining && len(d.dirty) > 0 {
		d.draining = true
		c.srv.cfg.Pool.Do(c.drain)
	}
}

// ---------------------------------------------------------------- emitting

// verdict is what became of an entry that was to be sent.
type verdict uint8

const (
	emitted verdict = iota
	blocked         // the track waits, see its state
)

// emit sends the next entry of a track. live tells that the entry comes from
// the actor that has just appended it, so that it answers this connection's own
// send of it.
func (d *delivery) emit(c *conn, t *track, e *messages.Encoded, live bool) verdict {
	seq := messages.Seq(e.Entry.Seq)
	if messages.UserID(e.Entry.From) == c.user {
		switch d.own(c, t, e.Entry, live) {
		case ownAnswered:
			return emitted
		case ownUnanswered:
			t.state = trackWaiting
			return blocked
		}
	}
	if !d.window.CanSend(t.id, len(e.Proto()), len(d.dirty) > 0) {
		t.state = trackClosed
		if d.fullSince == 0 {
			d.fullSince = c.srv.now()
		}
		return blocked
	}
	c.out.entry(e, t.start(seq), d.catching != nil)
	c.wake()
	c.srv.Metrics.Delivered.Add(1)
	d.window.Sent(t.id, seq, len(e.Proto()))
	d.advance(c, t, seq)
	if endsMembership(e.Entry, c.user) {
		t.forgetView()
	}
	return emitted
}

// start announces a membership that begins at seq.
func (t *track) start(seq messages.Seq) *messages.Position {
	span, ok := persistence.Next(t.spans, t.sent)
	if !ok || !span.Begins || seq == t.sent+1 && seq != 1 {
		return nil
	}
	if t.id.Kind() == messages.KindDirect && seq == 1 {
		return nil
	}
	return &messages.Position{Conversation: string(t.id), Seq: uint64(seq)}
}

// endsMembership reports whether an entry is the last that u may see.
func endsMembership(e *messages.Entry, u messages.UserID) bool {
	event := e.GetEvent()
	if event == nil || event.Kind != rules.EventRemoved && event.Kind != rules.EventLeft {
		return false
	}
	for _, user := range event.Users {
		if messages.UserID(user) == u {
			return true
		}
	}
	return false
}

// forgetView makes the track load its user's memberships before it goes on:
// after a removal there is more to see only if its user was added again.
func (t *track) forgetView() { t.known, t.spans = false, nil }

// advance moves a track over what has been sent.
func (d *delivery) advance(c *conn, t *track, seq messages.Seq) {
	t.sent = seq
	d.caught(c, t)
}

// caught notes how far a track has come towards caught_up.
func (d *delivery) caught(c *conn, t *track) {
	head, ok := d.catching[t.id]
	if !ok || t.sent < head && t.target > t.sent {
		return
	}
	delete(d.catching, t.id)
	if len(d.catching) > 0 {
		return
	}
	d.catching = nil
	c.push(&messages.ServerFrame{Event: &messages.ServerFrame_CaughtUp{CaughtUp: &messages.CaughtUp{}}})
}

// ---------------------------------------------------------------- own sends

type ownVerdict uint8

const (
	ownDeliver    ownVerdict = iota // sent from elsewhere: deliver it
	ownAnswered                     // its sent frame is written
	ownUnanswered                   // its answer is on its way
)

// own handles an entry of the connection's own user. On the connection that
// sent it, its sent frame stands for it and takes its place in the order.
func (d *delivery) own(c *conn, t *track, e *messages.Entry, live bool) ownVerdict {
	seq := messages.Seq(e.Seq)
	if len(t.parked) > 0 && t.parked[0].seq() == seq {
		d.unpark(c, t)
		return ownAnswered
	}
	isCall := func(x *call) bool {
		return x.conversation == t.id && x.clientID == messages.ClientID(e.ClientId)
	}
	if !live {
		for i := range c.calls {
			if isCall(&c.calls[i]) {
				return ownUnanswered
			}
		}
		return ownDeliver
	}
	done, ok := c.settle(isCall)
	if !ok {
		return ownDeliver
	}
	c.refusals = 0
	c.answerSent(done, &messages.Sent{Conversation: e.Conversation, Seq: e.Seq, ClientId: e.ClientId, At: e.At})
	d.advance(c, t, seq)
	return ownAnswered
}

// answerSent writes the answer to a send.
func (c *conn) answerSent(done call, sent *messages.Sent) {
	c.out.sent(done.re, sent)
	c.out.answers++
	c.out.cost += done.cost
	c.wake()
	c.srv.Metrics.Sent.Add(1)
}

// placeSent writes the answer to a send where its entry stands in the order.
func (c *conn) placeSent(done call, sent *messages.Sent) {
	d := &c.delivery
	t := d.track(messages.ConversationID(sent.Conversation))
	seq := messages.Seq(sent.Seq)
	switch {
	case t.known && seq <= t.sent:
		c.answerSent(done, sent)
		d.unblock(c, t.id)
		return
	case t.known && seq == t.next() && (t.state == trackClean || t.state == trackWaiting):
		c.answerSent(done, sent)
		d.advance(c, t, seq)
	default:
		d.park(c, t, done, sent)
	}
	t.target = max(t.target, seq)
	d.unblock(c, t.id)
	d.mark(c, t)
}

// park keeps an answer until the entries before it are sent. It no longer
// counts as owed, or a client whose window is closed could not acknowledge for
// its own sends; what is parked is small, and bounded.
func (d *delivery) park(c *conn, t *track, done call, sent *messages.Sent) {
	i := len(t.parked)
	for i > 0 && t.parked[i-1].sent.Seq > sent.Seq {
		i--
	}
	t.parked = slices.Insert(t.parked, i, parkedSent{done.re, sent})
	if d.parked++; d.parked <= maxParked {
		c.owed--
		c.owedCost -= done.cost
		c.release()
	}
}

// unpark writes the first parked answer of a track.
func (d *delivery) unpark(c *conn, t *track) {
	p := t.parked[0]
	t.parked = t.parked[1:]
	if len(t.parked) == 0 {
		t.parked = nil
	}
	if d.parked--; d.parked >= maxParked {
		c.out.answers++
		c.out.cost += smallAnswer
	}
	c.out.sent(p.re, p.sent)
	c.wake()
	c.srv.Metrics.Sent.Add(1)
	if p.seq() > t.sent {
		d.advance(c, t, p.seq())
	}
}

// unblock lets a track go on that waited for the answer to a send.
func (d *delivery) unblock(c *conn, id messages.ConversationID) {
	t := d.tracks[id]
	if t == nil {
		return
	}
	if t.state == trackWaiting {
		t.state = trackClean
	}
	for t.known && t.state == trackClean && len(t.parked) > 0 && t.parked[0].seq() <= max(t.sent, t.next()) {
		d.unpark(c, t)
	}
	d.mark(c, t)
}

// ---------------------------------------------------------------- reading the log

// drain reads the log for dirty tracks, a turn each, on a pool goroutine.
func (c *conn) drain() {
	for range maxTurns {
		t, known, ok := c.nextTurn()
		if !ok {
			return
		}
		if known {
			c.readTurn(t)
		} else {
			c.loadTurn(t)
		}
	}
	c.srv.cfg.Pool.Do(c.drain)
}

// nextTurn takes the next track to read for, if there is one.
func (c *conn) nextTurn() (*track, bool, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := &c.delivery
	for len(d.dirty) > 0 && c.phase == phaseLive {
		t := d.dirty[0]
		d.dirty[0] = nil
		d.dirty = d.dirty[1:]
		if t.known && t.sent >= t.target {
			t.state = trackClean
			continue
		}
		if t.known && t.next() == 0 {
			t.forgetView() // the log has news for its user: it was added again
		}
		t.state = trackReading
		return t, t.known, true
	}
	d.dirty = nil
	d.draining = false
	return nil, false, false
}

// loadTurn learns what a track's user may see and where its device is.
func (c *conn) loadTurn(t *track) {
	ctx, cancel := context.WithTimeout(c.srv.ctx, messages.CommandTimeout)
	defer cancel()
	c.mu.Lock()
	aim := t.target
	c.mu.Unlock()
	spans, stored, err := c.load(ctx, t)
	c.mu.Lock()
	defer c.mu.Unlock()
	d := &c.delivery
	t.state = trackClean
	if err != nil {
		c.retryLater(t, err)
		return
	}
	t.spans = spans
	cursor := stored
	if t.resume != nil {
		cursor, t.resume = *t.resume, nil
	}
	if cursor > t.sent {
		t.sent = cursor
	}
	t.acked = max(t.acked, min(stored, t.sent))
	t.known = true
	d.settleTrack(c, t, aim)
}

// settleTrack decides what a track that has just been read does next. aim is
// how far the log was known to reach when the read began: what a hint has told
// of since, the read may not have seen.
func (d *delivery) settleTrack(c *conn, t *track, aim messages.Seq) {
	if t.known && t.next() == 0 && t.target == aim {
		t.target = t.sent // nothing more is visible
	}
	d.caught(c, t)
	d.passed(c, t)
	d.unblock(c, t.id)
}

func (c *conn) load(ctx context.Context, t *track) ([]persistence.Span, messages.Seq, error) {
	intervals, err := c.srv.cfg.Log.Membership(ctx, c.user, t.id)
	if err != nil {
		return nil, 0, err
	}
	settings, err := c.srv.cfg.Log.Settings(ctx, c.user, []messages.ConversationID{t.id})
	if err != nil {
		return nil, 0, err
	}
	key := persistence.DeviceKey{User: c.user, Incarnation: c.delivery.incarnation}
	cursors, err := c.srv.cfg.Log.DevicePositions(ctx, key, []messages.ConversationID{t.id})
	if err != nil {
		return nil, 0, err
	}
	return persistence.View(intervals, settings[0].Cleared), cursors[0], nil
}

// readTurn sends the next rows of a track.
func (c *conn) readTurn(t *track) {
	ctx, cancel := context.WithTimeout(c.srv.ctx, messages.CommandTimeout)
	defer cancel()
	rows, aim, err := c.readRows(ctx, t)
	entries := make([]*messages.Encoded, len(rows))
	for i := range rows {
		if err == nil {
			entries[i], err = messages.Decode(rows[i].Entry)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d := &c.delivery
	t.state = trackClean
	if err != nil {
		c.retryLater(t, err)
		return
	}
	for _, e := range entries {
		if c.phase != phaseLive || !t.known || d.emit(c, t, e, false) != emitted {
			break
		}
		if c.srv.cfg.Drained != nil {
			c.srv.cfg.Drained()
		}
	}
	if len(entries) == 0 && t.target == aim {
		t.target = t.sent // the log ends here
	}
	if t.state == trackClean {
		d.settleTrack(c, t, aim)
	}
}

// readRows reads what follows a track's place; aim is how far the log was known
// to reach when the read began.
func (c *conn) readRows(ctx context.Context, t *track) (rows []persistence.Row, aim messages.Seq, err error) {
	c.mu.Lock()
	aim = t.target
	span, ok := persistence.Next(t.spans, t.sent)
	c.mu.Unlock()
	if !ok {
		return nil, aim, nil
	}
	c.srv.Metrics.Reads.Add(1)
	rows, err = c.srv.cfg.Log.Read(ctx, t.id, persistence.Range{
		After: span.First - 1, UpTo: span.Last, Limit: turnRows, Bytes: turnBytes,
	})
	return rows, aim, err
}

// retryLater tries a failed read again after a pause: the store may be away
// for a while.
func (c *conn) retryLater(t *track, err error) {
	if c.phase != phaseLive {
		return
	}
	c.srv.cfg.Logger.Warn("reading for a device", "connection", c.id, "conversation", t.id, "error", err)
	t.state = trackQueued
	time.AfterFunc(time.Second, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.delivery.dirty = append(c.delivery.dirty, t)
		c.delivery.drain(c)
	})
}

// ---------------------------------------------------------------- acknowledgements

// ack takes what the device has. What it was never sent it can't acknowledge.
func (c *conn) ack(a *messages.Ack) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := &c.delivery
	freed := false
	for _, p := range a.Positions {
		t := d.tracks[messages.ConversationID(p.Conversation)]
		if t == nil {
			continue
		}
		if seq := min(messages.Seq(p.Seq), t.sent); seq > t.acked {
			freed = d.window.Ack(t.id, seq) || freed
			d.moved(c, t, seq)
		}
	}
	if freed {
		d.reopen(c)
	}
}

// reopen lets tracks go on that waited for the window.
func (d *delivery) reopen(c *conn) {
	if d.fullSince == 0 {
		return
	}
	d.fullSince = 0
	for _, t := range d.tracks {
		if t.state == trackClosed {
			t.state = trackClean
			d.mark(c, t)
		}
	}
}

// moved notes a cursor to hand on to the inbox. It is moved by nothing but an
// acknowledgement, over one's own entries too: a sent frame that was written
// may not have arrived.
func (d *delivery) moved(c *conn, t *track, cursor messages.Seq) {
	if d.acks == nil {
		d.acks = map[messages.ConversationID]messages.Seq{}
	}
	d.acks[t.id] = cursor
	t.acked = cursor
	d.passed(c, t)
	d.queueAcks(c)
}

// passed notes a conversation of the pass that the device has acknowledged as
// far as it goes.
func (d *delivery) passed(c *conn, t *track) {
	goal, ok := d.passLeft[t.id]
	if !ok {
		return
	}
	if t.known && t.target <= t.sent {
		goal = min(goal, t.sent) // there is nothing more to see
	}
	if t.acked < goal {
		return
	}
	if delete(d.passLeft, t.id); len(d.passLeft) == 0 {
		d.queueAcks(c)
	}
}

// queueAcks has acknowledgements handed on: at once, or with others a moment
// later.
func (d *delivery) queueAcks(c *conn) {
	if d.ackQueued {
		return
	}
	d.ackQueued = true
	if c.srv.now().sub(d.ackedAt) >= ackEvery {
		c.srv.cfg.Pool.Do(c.flushAcks)
		return
	}
	c.srv.ackLater(c)
}

// flushAcks hands cursors on to the inbox.
func (c *conn) flushAcks() {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := &c.delivery
	d.ackQueued = false
	complete := d.passLeft != nil && len(d.passLeft) == 0
	if len(d.acks) == 0 && !complete {
		return
	}
	m := &messages.Acked{User: string(c.user), Device: string(c.device), Incarnation: d.incarnation}
	for id, seq := range d.acks {
		m.Positions = append(m.Positions, &messages.Position{Conversation: string(id), Seq: uint64(seq)})
	}
	if complete {
		m.CaughtUp, d.passLeft = d.pass, nil
	}
	d.acks = nil
	d.ackedAt = c.srv.now()
	_ = c.srv.tell(messages.ActorInbox, string(c.user), m)
}

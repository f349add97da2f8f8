package actors

import (
	"context"
	"slices"
	"time"

	"github.com/troupe-chat/troupe/actors/rules"
	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// receipts is the part of a conversation that keeps its members' cursors: a
// move is stored first and told afterwards, so that what an author has been
// shown never moves back. Moves of the same member within a moment are one.
//
//	booked       the cursors, read from the store when they were first needed
//	saved        the outcome of storing moves
//	receiptsDue  the moment is over in which moves are gathered to be stored
//	tellingDue   and that in which a member's moves are told as one
type receipts struct {
	book    rules.Receipts // what is stored, and told
	ready   bool           // the book holds every member's cursor
	loading bool
	then    []bookTask               // waits for the book
	moves   map[messages.UserID]move // to be stored
	asks    []*item                  // read commands, answered once their move is stored
	stored  []func()                 // waits for what has moved to be stored
	saving  bool
	due     bool // a receiptsDue is on its way
	last    time.Time
	pace    pace
}

// pace tells of each member's moves once in messages.ReceiptEvery.
type pace struct {
	told    map[messages.UserID]time.Time // within that time
	pending map[messages.UserID]telling
	due     bool // a tellingDue is on its way
}

// telling is a move that is stored and not told yet.
type telling struct {
	rules.Move
	via uint64
}

type tellingDue struct{}

// move is where a member's cursor goes, and the connection that brought it
// there, which need not be told.
type move struct {
	rules.Cursor
	via uint64
}

// bookTask is work that needs the book, and the command it is for, if any.
type bookTask struct {
	run func()
	it  *item
}

type booked struct {
	cursors []persistence.MemberCursor
	err     error
}

type saved struct {
	moves map[messages.UserID]move
	asks  []*item
	err   error
}

type receiptsDue struct{}

// covered tells whose entries a move covers that the book does not remember.
type covered struct {
	user    messages.UserID
	authors []messages.UserID
}

// retrySave is the pause after cursors could not be stored.
const retrySave = time.Second

// maxCovered is how many entries are read to find whom a move concerns.
const maxCovered = 512

func (r *receipts) busy() bool {
	return r.loading || r.saving || r.due || r.pace.due || len(r.then) > 0 || len(r.moves) > 0
}

// withBook runs f once the cursors are known. it is answered where they can't
// be read.
func (c *conversation) withBook(it *item, f func()) {
	r := &c.receipts
	if r.ready {
		f()
		return
	}
	r.then = append(r.then, bookTask{f, it})
	if r.loading {
		return
	}
	r.loading = true
	members := c.state.Members()
	c.env.Pool.Do(func() {
		ctx, cancel := ioContext()
		defer cancel()
		cursors, err := c.env.Store.MemberCursors(ctx, c.id, members)
		c.self(&booked{cursors, err})
	})
}

func (c *conversation) booked(m *booked) {
	r := &c.receipts
	r.loading = false
	tasks := r.then
	r.then = nil
	if m.err != nil {
		c.env.Log.Warn("reading cursors", "conversation", c.id, "error", m.err)
		for _, t := range tasks {
			if t.it != nil {
				c.env.fail(t.it.origin, unavailable())
			}
		}
		return
	}
	for _, cursor := range m.cursors {
		r.book.Move(cursor.User, cursor.Delivered, cursor.Read, max(cursor.Delivered, cursor.Read))
	}
	r.ready = true
	for _, t := range tasks {
		t.run()
	}
}

// delivered takes how far a member's device has the conversation.
func (c *conversation) delivered(m *messages.Delivered) {
	if c.state == nil {
		c.early = append(c.early, m)
		c.load()
		return
	}
	user := messages.UserID(m.User)
	if _, ok := c.state.Member(user); ok {
		c.withBook(nil, func() { c.move(user, messages.Seq(m.Seq), 0, 0) })
	}
}

// read moves a member's read cursor for a command, answered once it is stored.
func (c *conversation) read(it *item, seq messages.Seq) {
	user := it.command.User
	c.withBook(it, func() {
		c.receipts.asks = append(c.receipts.asks, it)
		c.move(user, 0, seq, it.origin.GetConnection())
		c.store()
	})
}

// wrote notes an entry that has just become durable: whose it is, and that its
// author has read it, if it had read what was before.
func (c *conversation) wrote(seq messages.Seq, author messages.UserID, fx rules.Effects, via uint64) {
	c.receipts.book.Wrote(seq, author)
	if len(fx.Memberships) > 0 {
		c.receipts.ready = false // somebody came whose cursors are not here
	}
	if !fx.Countable {
		return
	}
	c.withBook(nil, func() {
		member, ok := c.state.Member(author)
		if !ok {
			return
		}
		before := member.StartsRead(c.cursor(author).Read)
		if read, moved := rules.ReadAfterSend(before, fx.OthersBefore, seq); moved {
			c.move(author, read, read, via)
		}
	})
}

// cursor is where a member is, moves that are not stored yet included.
func (c *conversation) cursor(u messages.UserID) rules.Cursor {
	stored, moving := c.receipts.book.Cursor(u), c.receipts.moves[u]
	return rules.Cursor{Delivered: max(stored.Delivered, moving.Delivered), Read: max(stored.Read, moving.Read)}
}

// move takes a move to be stored soon.
func (c *conversation) move(u messages.UserID, delivered, read messages.Seq, via uint64) {
	head := c.state.Head().Seq
	delivered, read = min(delivered, head), min(read, head)
	now := c.cursor(u)
	if delivered <= now.Delivered && read <= now.Read {
		return
	}
	if c.receipts.moves == nil {
		c.receipts.moves = map[messages.UserID]move{}
	}
	now.Read = max(now.Read, read)
	now.Delivered = max(now.Delivered, delivered, now.Read)
	c.receipts.moves[u] = move{now, max(via, c.receipts.moves[u].via)}
	c.schedule(c.receiptEvery())
}

// schedule stores what has moved: at once, or when the last time is long
// enough ago.
func (c *conversation) schedule(every time.Duration) {
	r := &c.receipts
	if r.saving || r.due || len(r.moves) == 0 {
		return
	}
	wait := every - c.env.Now().Sub(r.last)
	if wait <= 0 {
		c.store()
		return
	}
	r.due = true
	time.AfterFunc(wait, func() { c.self(&receiptsDue{}) })
}

func (c *conversation) receiptsDue() {
	c.receipts.due = false
	c.store()
}

// store stores what has moved.
func (c *conversation) store() {
	r := &c.receipts
	if r.saving || len(r.moves) == 0 && len(r.asks) == 0 {
		return
	}
	if len(r.moves) == 0 { // it was read before
		c.answerAsks(r.asks)
		r.asks = nil
		return
	}
	r.saving = true
	m := &saved{moves: r.moves, asks: r.asks}
	r.moves, r.asks = nil, nil
	list := make([]persistence.MemberCursor, 0, len(m.moves))
	for u, cursor := range m.moves {
		list = append(list, persistence.MemberCursor{User: u, Delivered: cursor.Delivered, Read: cursor.Read})
	}
	c.env.Store.SaveMembers(c.id, list, c.env.nowMs(), func(err error) {
		m.err = err
		c.self(m)
	})
}

func (c *conversation) saved(m *saved) {
	r := &c.receipts
	r.saving = false
	r.last = c.env.Now()
	if m.err != nil {
		c.unsaved(m)
		return
	}
	for u, to := range m.moves {
		if moved, ok := r.book.Move(u, to.Delivered, to.Read, to.Delivered); ok {
			r.pace.add(moved, to.via)
		}
	}
	c.tellMoves()
	c.answerAsks(m.asks)
	c.runStored()
	if len(r.asks) > 0 {
		c.store()
		return
	}
	if c.state != nil {
		c.schedule(c.receiptEvery())
	}
}

func (c *conversation) answerAsks(asks []*item) {
	for _, it := range asks {
		c.env.answer(it.origin, okFrame())
	}
}

func (c *conversation) receiptEvery() time.Duration {
	return c.kind.receiptEvery(len(c.state.Members()))
}

// unsaved keeps moves that could not be stored for another try.
func (c *conversation) unsaved(m *saved) {
	c.env.Log.Warn("storing cursors", "conversation", c.id, "error", m.err)
	c.runStored()
	for _, it := range m.asks {
		c.env.fail(it.origin, unavailable())
	}
	for u, later := range c.receipts.moves {
		was := m.moves[u]
		m.moves[u] = move{rules.Cursor{Delivered: max(was.Delivered, later.Delivered), Read: max(was.Read, later.Read)}, later.via}
	}
	c.receipts.moves = m.moves
	c.schedule(retrySave)
}

// runStored goes on with what waited for moves to be stored.
func (c *conversation) runStored() {
	stored := c.receipts.stored
	c.receipts.stored = nil
	for _, then := range stored {
		then()
	}
}

// add takes a move to be told.
func (p *pace) add(m rules.Move, via uint64) {
	if p.pending == nil {
		p.pending = map[messages.UserID]telling{}
	}
	if earlier, ok := p.pending[m.User]; ok {
		m.Was = earlier.Was
	}
	p.pending[m.User] = telling{m, via}
}

// tellMoves tells of the moves of members that were not told of a moment ago,
// and comes back for the others.
func (c *conversation) tellMoves() {
	p := &c.receipts.pace
	now := c.env.Now()
	for u, at := range p.told {
		if now.Sub(at) >= messages.ReceiptEvery {
			delete(p.told, u)
		}
	}
	for u, t := range p.pending {
		if _, recently := p.told[u]; recently {
			continue
		}
		if p.told == nil {
			p.told = map[messages.UserID]time.Time{}
		}
		p.told[u] = now
		delete(p.pending, u)
		c.publish(t.Move, t.via)
	}
	if len(p.pending) == 0 || p.due {
		return
	}
	p.due = true
	time.AfterFunc(messages.ReceiptEvery, func() { c.self(&tellingDue{}) })
}

func (c *conversation) tellingDue() {
	c.receipts.pace.due = false
	c.tellMoves()
}

// publish tells of a move: the authors of what it newly covers, and the
// member's own other devices what it has read.
func (c *conversation) publish(m rules.Move, via uint64) {
	for _, author := range c.receipts.book.Authors(m) {
		c.env.Routes.Notify(author, c.receiptFrame(m.User))
	}
	if m.Now.Read > m.Was.Read {
		c.env.Routes.NotifyOthers(m.User, via, c.receiptFrame(m.User))
	}
	after, upTo := c.receipts.book.Missing(m)
	if after == upTo {
		return
	}
	if upTo-after > maxCovered {
		after = upTo - maxCovered
	}
	c.env.Pool.Do(func() { c.self(&covered{m.User, c.env.authors(c.id, m.User, after, upTo)}) })
}

// authors returns whose entries (after, upTo] are, but for u. Blocks.
func (e *Env) authors(id messages.ConversationID, u messages.UserID, after, upTo messages.Seq) []messages.UserID {
	ctx, cancel := ioContext()
	defer cancel()
	entries, err := e.entries(ctx, id, persistence.Range{After: after, UpTo: upTo, Limit: maxCovered})
	if err != nil {
		e.Log.Warn("reading for receipts", "conversation", id, "error", err)
		return nil
	}
	var authors []messages.UserID
	for _, entry := range entries {
		if author := messages.UserID(entry.From); author != u && !slices.Contains(authors, author) {
			authors = append(authors, author)
		}
	}
	return authors
}

func (c *conversation) covered(m *covered) {
	for _, author := range m.authors {
		c.env.Routes.Notify(author, c.receiptFrame(m.user))
	}
}

func (c *conversation) receiptFrame(u messages.UserID) *messages.ServerFrame {
	cursor := c.receipts.book.Cursor(u)
	return &messages.ServerFrame{Event: &messages.ServerFrame_Receipt{Receipt: &messages.Receipt{
		Conversation: string(c.id), User: string(u), Delivered: uint64(cursor.Delivered), Read: uint64(cursor.Read),
	}}}
}

// receiptList answers who has had and read one entry.
func (c *conversation) receiptList(it *item, seq messages.Seq) {
	c.withBook(it, func() {
		r := &c.receipts
		if len(r.moves) == 0 && !r.saving {
			c.listReceipts(it, seq)
			return
		}
		r.stored = append(r.stored, func() { c.listReceipts(it, seq) })
		c.store()
	})
}

// listReceipts answers from the book.
func (c *conversation) listReceipts(it *item, seq messages.Seq) {
	if c.state == nil {
		c.env.fail(it.origin, unavailable())
		return
	}
	users := c.state.Audience(seq)
	status := make(map[messages.UserID]string, len(users))
	for _, u := range users {
		status[u] = c.receipts.book.Status(u, seq)
	}
	c.aside(it, func(ctx context.Context) (*messages.ServerFrame, error) {
		return c.env.receiptList(ctx, c.id, seq, users, status)
	})
}

// receiptList is the answer to a receipts command: the status of an entry for
// each member but its author. Blocks.
func (e *Env) receiptList(ctx context.Context, id messages.ConversationID, seq messages.Seq,
	users []messages.UserID, status map[messages.UserID]string,
) (*messages.ServerFrame, error) {
	entries, err := e.entries(ctx, id, persistence.Range{After: seq - 1, UpTo: seq, Limit: 1})
	if err != nil {
		return nil, err
	}
	since, err := e.Store.Since(ctx, id, seq, users)
	if err != nil {
		return nil, err
	}
	list := &messages.ReceiptList{Conversation: string(id), Seq: uint64(seq)}
	for i, u := range users {
		if len(entries) > 0 && entries[0].From == string(u) {
			continue
		}
		m := &messages.MemberStatus{User: string(u), Status: status[u]}
		switch {
		case status[u] == rules.StatusRead:
			m.At = since[i].Read
		case status[u] == rules.StatusDelivered:
			m.At = since[i].Delivered
		case len(entries) > 0:
			m.At = entries[0].At / 1000 * 1000
		}
		list.Members = append(list.Members, m)
	}
	return &messages.ServerFrame{Event: &messages.ServerFrame_ReceiptList{ReceiptList: list}}, nil
}

package actors

import (
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/troupe-chat/troupe/actors/rules"
	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// erasing is the part of a conversation that takes back what deleted users
// wrote. It reads the log aside, page by page, and queues commands of its own
// among those of clients, a few at a time: one for each text and media of the
// user that is not retracted, and at the end one by which it leaves a group.
//
//	Erase      from the node: a pass over the log begins, unless one is under way
//	eraseDue   it is time for the next page
//	leftovers  a page was read
//
// A pass that found something to do is not answered, whatever came of it: the
// node repeats the Erase, and the pass that finds nothing is the answer. From
// the first Erase on, clients' commands of that user are refused here.
type erasing map[messages.UserID]*erasure

// erasure is one deleted user's.
type erasure struct {
	user   messages.UserID
	reply  func() // tells the node that asked last
	active bool   // a pass is under way

	// Of the pass under way.
	reading bool         // a page is due or being read
	found   bool         // there was something to do
	ended   bool         // the last page was read
	after   messages.Seq // read up to here
	least   messages.Seq // the log ended here when the pass began, or will
}

type eraseDue struct{ erasure *erasure }

// leftovers is what one page held.
type leftovers struct {
	erasure *erasure
	seqs    []messages.Seq // texts and media that are not retracted
	after   messages.Seq   // read up to here
	ended   bool           // that was the end of the log
	err     error
}

// The pace of an erasure: what it queues at once is one append, and others'
// commands go between two of them.
const (
	erasePage  = 256 // rows
	eraseBatch = 64  // commands waiting
	erasePause = 50 * time.Millisecond
)

// busy reports whether a pass is under way.
func (e erasing) busy() bool {
	for _, erasure := range e {
		if erasure.active {
			return true
		}
	}
	return false
}

func (c *conversation) erase(ctx actor.Context, m *messages.Erase) {
	e := c.erasing[messages.UserID(m.User)]
	if e == nil {
		e = &erasure{user: messages.UserID(m.User)}
		if c.erasing == nil {
			c.erasing = erasing{}
		}
		c.erasing[e.user] = e
	}
	sender, root := ctx.Sender(), ctx.ActorSystem().Root
	e.reply = func() {
		if sender != nil {
			root.Send(sender, &messages.Ok{})
		}
	}
	if !e.active {
		*e = erasure{user: e.user, reply: e.reply, active: true}
	}
	if c.state == nil {
		c.load()
	}
	c.pump()
}

// goOnErasing takes the next step of every erasure whose commands are done.
func (c *conversation) goOnErasing() {
	if c.state == nil {
		return
	}
	for _, e := range c.erasing {
		if e.active && !e.reading && !c.erasureWaits(e.user) {
			c.eraseNext(e)
		}
	}
}

// erasureWaits reports whether commands of u's erasure are not done yet.
func (c *conversation) erasureWaits(u messages.UserID) bool {
	ours := func(it *item) bool { return it.command.Erase && it.command.User == u }
	return slices.ContainsFunc(c.waiting, ours) || c.flight != nil && slices.ContainsFunc(c.flight.items, ours)
}

func (c *conversation) eraseNext(e *erasure) {
	if e.after == 0 {
		e.least = c.state.Head().Seq
	}
	if !e.ended {
		e.reading = true
		time.AfterFunc(erasePause, func() { c.self(&eraseDue{e}) })
		return
	}
	e.active = false
	if !e.found && e.after >= e.least {
		e.reply()
	}
}

func (c *conversation) eraseDue(m *eraseDue) {
	e, after := m.erasure, m.erasure.after
	c.env.Pool.Do(func() {
		page := c.env.leftovers(c.id, e.user, after)
		page.erasure = e
		c.self(page)
	})
}

// leftovers reads what a page of a log holds of a user's. Blocks.
func (e *Env) leftovers(id messages.ConversationID, u messages.UserID, after messages.Seq) *leftovers {
	ctx, cancel := ioContext()
	defer cancel()
	rows, err := e.entries(ctx, id, persistence.Range{After: after, Limit: erasePage})
	page := &leftovers{after: after, ended: len(rows) < erasePage, err: err}
	for _, entry := range rows {
		if len(page.seqs) == eraseBatch {
			page.ended = false
			break
		}
		page.after = messages.Seq(entry.Seq)
		if entry.From == string(u) && entry.RetractedAt == 0 && (entry.GetText() != nil || entry.GetMedia() != nil) {
			page.seqs = append(page.seqs, page.after)
		}
	}
	return page
}

func (c *conversation) leftovers(m *leftovers) {
	e := m.erasure
	e.reading = false
	if m.err != nil || c.state == nil {
		c.env.Log.Warn("reading what to erase", "conversation", c.id, "user", e.user, "error", m.err)
		e.active = false
		return
	}
	e.after, e.ended = m.after, m.ended
	for _, seq := range m.seqs {
		c.queueErase(e, &messages.ClientFrame{Command: &messages.ClientFrame_Send{Send: &messages.Send{
			Conversation: string(c.id),
			Content:      &messages.Send_Retract{Retract: &messages.Retract{Seq: uint64(seq)}},
		}}})
	}
	if _, member := c.state.Member(e.user); e.ended && member && c.id.Kind() == messages.KindGroup {
		c.queueErase(e, &messages.ClientFrame{Command: &messages.ClientFrame_ChangeGroup{ChangeGroup: &messages.ChangeGroup{
			Conversation: string(c.id), Leave: true,
		}}})
	}
	c.pump()
}

// queueErase queues a command that nobody is answered.
func (c *conversation) queueErase(e *erasure, frame *messages.ClientFrame) {
	e.found = true
	c.waiting = append(c.waiting, &item{
		command:  rules.Command{User: e.user, Frame: frame, Erase: true},
		deadline: c.env.Now().Add(messages.CommandTimeout),
	})
}

// judge decides one command. A deleted user's is not what its client asks for
// any more.
func (c *conversation) judge(it *item, at int64) (rules.Decision, *messages.Failure) {
	if _, gone := c.erasing[it.command.User]; gone && !it.command.Erase {
		return rules.Decision{}, messages.Fail(messages.CodeUnauthenticated, "this account was deleted")
	}
	return c.state.Decide(it.command, it.known, c.env.Limits, at)
}

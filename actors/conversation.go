package actors

import (
	"crypto/rand"
	"errors"
	"hash/fnv"
	mathrand "math/rand/v2"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/actors/rules"
	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// conversation is the virtual actor of one conversation: it alone decides what
// is appended to its log, and in which order. It never blocks: look-ups and
// appends run elsewhere and come back as messages, and while an append is under
// way commands only queue.
//
//	Command    from a client: decided in arrival order, answered once durable
//	Delivered  from an inbox: a member's device has entries
//	loaded     the state, read from the store when the activation began
//	known      what was looked up for queued commands
//	settled    the outcome of an append, or of marks written again
//	receipts.go, typing.go and erase.go have their own
//
// The order of steps is everywhere: append (with dedup) → marks → apply → tell
// → answer. Whatever another activation of the same identity does meanwhile,
// the append's compare on the head finds out.
type conversation struct {
	env  *Env
	id   messages.ConversationID
	self func(any) // tells this activation
	kind policy

	// The rules' state. nil until loaded, and after an append that failed. It
	// runs ahead of the log by the append under way.
	state   *rules.State
	ids     recentIDs
	loading bool

	waiting []*item // commands not decided yet, in order of arrival
	early   []any   // other messages that came before the state was loaded
	knowing bool    // a look-up is under way
	flight  *flight // the append under way

	marked   marks
	receipts receipts
	typing   typing
	erasing  erasing
}

// policy is what groups do otherwise than direct conversations.
type policy struct {
	receiptEvery func(members int) time.Duration
}

// item is a command that waits to be decided.
type item struct {
	command  rules.Command
	origin   *messages.Origin // nil: nobody is answered
	deadline time.Time
	asked    bool // its look-up is under way
	ready    bool // known holds what it needs
	known    rules.Known
}

// flight is commands that were decided together, until their append is known
// to be durable.
type flight struct {
	batch   *persistence.Batch // nil: nothing to append
	marks   []persistence.Mark
	items   []*item // all that were decided, in order
	hints   []*messages.Hint
	answers []answer
	after   []func() // what else to do once durable
	redo    messages.Seq
	tries   int
}

type answer struct {
	origin *messages.Origin
	frame  *messages.ServerFrame
}

type loaded struct {
	state *rules.State
	ids   recentIDs
	err   error
}

type known struct {
	items []*item
	err   error
}

type settled struct {
	flight *flight
	err    error
}

// again asks for a flight or a load to be tried again.
type again struct{ flight *flight }

// Bounds of one conversation.
const (
	maxWaiting    = 512
	maxBatch      = 256       // commands
	maxBatchBytes = 512 << 10 // of entries
	retryPause    = 50 * time.Millisecond
)

// NewConversation returns the behaviour of the conversation kind.
func NewConversation(env *Env, identity string) actor.Actor {
	return newConversation(env, identity, policy{
		receiptEvery: func(int) time.Duration { return messages.ReceiptEvery },
	})
}

func newConversation(env *Env, identity string, kind policy) *conversation {
	return &conversation{env: env, id: messages.ConversationID(identity), kind: kind}
}

// Receive takes one message.
func (c *conversation) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		c.started(ctx)
	case *messages.Command:
		c.command(m)
	case *messages.Delivered:
		c.delivered(m)
	case *loaded:
		c.loaded(m)
	case *known:
		c.known(m)
	case *settled:
		c.settled(m)
	case *again:
		c.again(m)
	case *booked:
		c.booked(m)
	case *saved:
		c.saved(m)
	case *covered:
		c.covered(m)
	case *receiptsDue:
		c.receiptsDue()
	case *tellingDue:
		c.tellingDue()
	case *typingDue:
		c.typingDue()
	case *messages.Erase:
		c.erase(ctx, m)
	case *eraseDue:
		c.eraseDue(m)
	case *leftovers:
		c.leftovers(m)
	case *messages.Inspect:
		m.Reply(c.inspect())
	case *messages.Idle:
		c.idle(m)
	}
}

func (c *conversation) started(ctx actor.Context) {
	self, root := ctx.Self(), ctx.ActorSystem().Root
	c.self = func(m any) { root.Send(self, m) }
	c.load()
}

// ---------------------------------------------------------------- loading

// load reads the state, unless an append that lost is still to be decided
// again: that loads when its pause is over, and must find no state before.
func (c *conversation) load() {
	if c.loading || c.flight != nil {
		return
	}
	c.loading = true
	c.env.Pool.Do(func() { c.self(c.env.loadConversation(c.id)) })
}

func (c *conversation) loaded(m *loaded) {
	c.loading = false
	if m.err != nil {
		c.env.Log.Warn("loading a conversation", "conversation", c.id, "error", m.err)
		c.failWaiting()
		return
	}
	c.state, c.ids = m.state, m.ids
	c.receipts.ready = false
	early := c.early
	c.early = nil
	for _, m := range early {
		if d, ok := m.(*messages.Delivered); ok {
			c.delivered(d)
		}
	}
	c.pump()
}

func (c *conversation) failWaiting() {
	for _, it := range c.waiting {
		c.env.fail(it.origin, unavailable())
	}
	c.waiting, c.early = nil, nil
}

// ---------------------------------------------------------------- commands

func (c *conversation) command(m *messages.Command) {
	switch m.Frame.Command.(type) {
	case *messages.ClientFrame_Block, *messages.ClientFrame_Unblock:
		c.blocksChanged(m)
		return
	}
	if len(c.waiting) >= maxWaiting {
		c.env.fail(m.Origin, messages.Later(messages.CodeOverloaded, 100*time.Millisecond,
			"this conversation has too much to store; try again"))
		return
	}
	remaining := time.Duration(m.RemainingMs) * time.Millisecond
	c.waiting = append(c.waiting, &item{
		command:  rules.Command{User: messages.UserID(m.Origin.User), Frame: m.Frame, RetryAfter: m.RetryAfterMs},
		origin:   m.Origin,
		deadline: c.env.Now().Add(remaining),
	})
	if c.state == nil {
		c.load()
	}
	c.pump()
}

// blocksChanged answers a block that the session has stored: whatever is
// decided from here on has looked at it.
func (c *conversation) blocksChanged(m *messages.Command) {
	unknow(c.waiting)
	c.env.answer(m.Origin, okFrame())
	c.pump()
}

// pump decides what can be decided and asks for what the rest needs.
func (c *conversation) pump() {
	if c.state == nil {
		return
	}
	defer c.goOnErasing()
	c.know()
	if c.flight != nil {
		return
	}
	f := c.form()
	if len(f.items) == 0 {
		return
	}
	c.launch(f)
}

// know looks up what waiting commands need and memory does not hold, all in
// one go.
func (c *conversation) know() {
	if c.knowing {
		return
	}
	var asked []*item
	for _, it := range c.waiting {
		if !it.ready && !c.knownFromMemory(it) {
			it.asked = true
			asked = append(asked, it)
		}
	}
	if len(asked) == 0 {
		return
	}
	c.knowing = true
	needs := make([]rules.Needs, len(asked))
	for i, it := range asked {
		needs[i] = c.state.Needs(it.command)
	}
	c.env.Pool.Do(func() {
		c.self(&known{asked, c.env.lookUp(c.id, asked, needs)})
	})
}

// unknow makes what was looked up for items, or is being looked up, be looked
// up again.
func unknow(items []*item) {
	for _, it := range items {
		it.ready, it.asked = false, false
	}
}

// knownFromMemory reports whether a command needs no look-up.
func (c *conversation) knownFromMemory(it *item) bool {
	needs := c.state.Needs(it.command)
	if needs.Target != 0 || len(needs.Users) > 0 || needs.Media != "" {
		return false
	}
	if needs.Blocks && !c.env.Store.Unblocked(c.id) {
		return false
	}
	it.ready = needs.ID == "" || c.ids.unused(persistence.AuthorID{Author: it.command.User, ClientID: needs.ID})
	return it.ready
}

func (c *conversation) known(m *known) {
	c.knowing = false
	for _, it := range m.items {
		// One that unknow has met meanwhile needs another look.
		it.ready, it.asked = it.asked, false
	}
	if m.err != nil {
		c.env.Log.Warn("looking up for a conversation", "conversation", c.id, "error", m.err)
		c.refuse(m.items)
	}
	c.pump()
}

// refuse answers items as unavailable and takes them off the queue.
func (c *conversation) refuse(items []*item) {
	gone := make(map[*item]bool, len(items))
	for _, it := range items {
		gone[it] = true
		c.env.fail(it.origin, unavailable())
	}
	kept := c.waiting[:0]
	for _, it := range c.waiting {
		if !gone[it] {
			kept = append(kept, it)
		}
	}
	clear(c.waiting[len(kept):])
	c.waiting = kept
}

// ---------------------------------------------------------------- deciding

// form decides waiting commands in order, each against the state after those
// before it, until one is not known yet or the batch is full.
func (c *conversation) form() *flight {
	f := &flight{}
	now := c.env.Now()
	n, size := 0, 0
	for _, it := range c.waiting {
		if !it.ready || n == maxBatch || size > maxBatchBytes {
			break
		}
		n++
		f.items = append(f.items, it)
		if now.After(it.deadline) {
			c.env.fail(it.origin, unavailable())
			continue
		}
		size += c.decide(f, it, now.UnixMilli())
	}
	clear(c.waiting[:n])
	if c.waiting = c.waiting[n:]; len(c.waiting) == 0 {
		c.waiting = nil
	}
	if f.batch != nil {
		c.complete(f.batch)
	}
	f.marks = c.marked.due(c, f, now)
	return f
}

// decide judges one command into f and returns the bytes it adds to the log.
func (c *conversation) decide(f *flight, it *item, at int64) int {
	if d := c.ids.find(it.command); d != nil {
		it.known.Duplicate = d
	}
	decision, failure := c.judge(it, at)
	if failure != nil {
		f.answers = append(f.answers, answer{it.origin, failure.Frame(it.command.Frame.Id)})
		return 0
	}
	if decision.Duplicate != nil {
		c.env.Metrics.Duplicates.Add(1)
		f.redo = max(f.redo, decision.Duplicate.Seq)
	}
	size := 0
	for _, e := range decision.Entries {
		size += c.write(f, e, it.origin.GetConnection())
	}
	if len(decision.Entries) > 0 {
		c.useID(f, it, decision)
	}
	c.respond(f, it, decision)
	return size
}

// write puts an entry, sent on the connection via, into f's batch and moves the
// state over it.
func (c *conversation) write(f *flight, e *messages.Entry, via uint64) int {
	if f.batch == nil {
		f.batch = &persistence.Batch{
			Conversation: c.id, ExpectHead: c.state.Head().Seq, ID: newAppendID(), Outbox: c.env.Hooks != nil,
		}
	}
	encoded, err := messages.Encode(e)
	if err != nil {
		panic(err) // the rules made an entry that can't be encoded
	}
	fx := c.state.Apply(e)
	head := c.state.Head()
	f.batch.Rows = append(f.batch.Rows, persistence.Row{
		Seq: head.Seq, At: e.At, Entry: encoded.Proto(), Countable: head.Countable, StateSeq: head.StateSeq,
	})
	f.note(c.id, fx)
	f.hint(c.id, encoded, fx.Recipients)
	author, seq := messages.UserID(e.From), head.Seq
	f.after = append(f.after, func() { c.wrote(seq, author, fx, via) })
	return len(encoded.Proto())
}

// note adds what an entry changes elsewhere to the batch.
func (f *flight) note(id messages.ConversationID, fx rules.Effects) {
	for _, i := range fx.Memberships {
		f.batch.Memberships = append(f.batch.Memberships, persistence.Membership{
			User: i.User, Conversation: id, Joined: i.Joined, From: i.From, Ended: i.Ended, Unmarked: i.Unmarked,
		})
	}
	if o := fx.Overlay; o != nil {
		f.batch.Overlays = append(f.batch.Overlays, persistence.Overlay{
			Target: o.Target, Seq: o.Seq, At: o.At, Retract: o.Retract, Body: o.Body,
		})
	}
	if fx.Membership {
		f.batch.Snapshot = []byte{}
	}
}

// hint adds an entry to what is told, together with those before it that have
// the same recipients.
func (f *flight) hint(id messages.ConversationID, e *messages.Encoded, to []messages.UserID) {
	if n := len(f.hints); n > 0 && sameSlice(f.hints[n-1].Users, to) {
		f.hints[n-1].Entries = append(f.hints[n-1].Entries, e)
		return
	}
	f.hints = append(f.hints, &messages.Hint{
		Conversation: id, First: messages.Seq(e.Entry.Seq), Entries: []*messages.Encoded{e}, Users: to,
	})
}

// sameSlice reports whether a and b are the very same slice: member lists are
// immutable and shared.
func sameSlice(a, b []messages.UserID) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// complete adds to a batch what only its end tells.
func (c *conversation) complete(b *persistence.Batch) {
	if b.Snapshot == nil {
		return
	}
	snapshot, err := proto.Marshal(c.state.Snapshot())
	if err != nil {
		panic(err) // the rules made a state that can't be encoded
	}
	b.Snapshot = snapshot
}

// useID notes that a command's client id is used up by its last entry.
func (c *conversation) useID(f *flight, it *item, d rules.Decision) {
	last := d.Entries[len(d.Entries)-1]
	if last.ClientId == "" {
		return
	}
	row := persistence.Dedup{
		Author: it.command.User, ClientID: messages.ClientID(last.ClientId),
		Seq: messages.Seq(last.Seq), Hash: d.Hash, At: last.At,
	}
	f.batch.Dedup = append(f.batch.Dedup, row)
	c.ids.add(row)
}

// respond adds the answer of a decided command.
func (c *conversation) respond(f *flight, it *item, d rules.Decision) {
	switch cmd := it.command.Frame.Command.(type) {
	case *messages.ClientFrame_Send:
		f.answers = append(f.answers, answer{it.origin, c.sentFrame(cmd.Send, d)})
	case *messages.ClientFrame_CreateGroup, *messages.ClientFrame_ChangeGroup, *messages.ClientFrame_Group:
		f.answers = append(f.answers, answer{it.origin, &messages.ServerFrame{
			Event: &messages.ServerFrame_Group{Group: c.state.Group()},
		}})
	default:
		f.after = append(f.after, func() { c.serve(it) })
	}
}

func (c *conversation) sentFrame(s *messages.Send, d rules.Decision) *messages.ServerFrame {
	sent := &messages.Sent{Conversation: string(c.id), ClientId: s.ClientId}
	if d.Duplicate != nil {
		sent.Seq, sent.At, sent.Duplicate = uint64(d.Duplicate.Seq), d.Duplicate.At, true
	} else {
		sent.Seq, sent.At = d.Entries[0].Seq, d.Entries[0].At
	}
	return &messages.ServerFrame{Event: &messages.ServerFrame_Sent{Sent: sent}}
}

// ---------------------------------------------------------------- appending

// launch makes a flight durable: its rows and their marks, or the marks alone
// of a command that was done before.
func (c *conversation) launch(f *flight) {
	if f.batch == nil && len(f.marks) == 0 {
		c.land(f)
		return
	}
	c.flight = f
	done := func(err error) { c.self(&settled{f, err}) }
	if f.batch == nil {
		c.env.Store.Mark(f.marks, done)
		return
	}
	f.batch.Marks = f.marks
	c.env.at(BeforeAppend)
	c.env.Store.Append(f.batch, done)
}

func (c *conversation) settled(m *settled) {
	f := m.flight
	switch {
	case m.err == nil:
		c.env.at(AfterAppend)
		c.flight = nil
		c.land(f)
		c.pump()
	case errors.Is(m.err, persistence.ErrUnknown):
		c.env.Metrics.Unknown.Add(1)
		c.later(f) // the identical batch, until its outcome is known
	case errors.Is(m.err, persistence.ErrConflict):
		c.conflict(f)
	default:
		c.failed(f, m.err)
	}
}

// land tells and answers what is durable.
func (c *conversation) land(f *flight) {
	c.marked.remember(c, f)
	if f.batch != nil {
		c.env.Metrics.Appends.Add(1)
		c.env.Metrics.Entries.Add(int64(len(f.batch.Rows)))
	}
	for _, h := range f.hints {
		c.env.Routes.Hint(h, c.env.at)
	}
	c.env.at(BeforeAnswer)
	if f.redo != 0 {
		c.env.Routes.Hint(&messages.Hint{Conversation: c.id, First: f.redo, Users: c.state.Members()}, c.env.at)
	}
	for _, a := range f.answers {
		c.env.answer(a.origin, a.frame)
	}
	for _, then := range f.after {
		then()
	}
	c.wake(f)
}

// wake hands an append to the webhook, with those of its users that are absent.
func (c *conversation) wake(f *flight) {
	if c.env.Hooks == nil || f.batch == nil {
		return
	}
	entries := make([]*messages.Entry, 0, len(f.batch.Rows))
	users := f.hints[0].Users
	for _, h := range f.hints {
		for _, e := range h.Entries {
			entries = append(entries, e.Entry)
		}
		if !sameSlice(h.Users, users) {
			users = union(users, h.Users)
		}
	}
	c.env.Hooks.Waiting(c.id, entries, c.env.Routes.Absent(users))
}

// conflict: another activation wrote. Nothing of the batch is in the log, and
// the state it was decided on is not the log's: read it again, and decide all
// of it again.
func (c *conversation) conflict(f *flight) {
	c.env.Metrics.Conflicts.Add(1)
	c.waiting = append(f.items, c.waiting...)
	unknow(c.waiting)
	c.state = nil
	c.later(f)
}

// failed: nothing was written. The state has run ahead of the log: read it
// again when there is something to decide.
func (c *conversation) failed(f *flight, err error) {
	c.env.Metrics.Failed.Add(1)
	c.env.Log.Warn("appending", "conversation", c.id, "error", err)
	c.flight = nil
	for _, it := range f.items {
		c.env.fail(it.origin, unavailable())
	}
	unknow(c.waiting)
	c.state = nil
	if len(c.waiting) > 0 {
		c.load()
	}
}

// later comes back to a flight after a jittered pause.
func (c *conversation) later(f *flight) {
	f.tries++
	pause := retryPause << min(f.tries-1, 5)
	pause = pause/2 + mathrand.N(pause)
	time.AfterFunc(pause, func() { c.self(&again{f}) })
}

func (c *conversation) again(m *again) {
	if c.state == nil {
		c.flight = nil
		c.load()
		return
	}
	c.launch(m.flight)
}

func newAppendID() (id persistence.AppendID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

// ---------------------------------------------------------------- marks

// marks remembers whom the conversation has marked today. Marks are never
// removed before their day expires, so what is remembered cannot be wrong.
type marks struct {
	day     int64
	members []messages.UserID
}

// due returns the marks that f's entries need, or those of a command done
// before whose marks may be missing.
func (m *marks) due(c *conversation, f *flight, now time.Time) []persistence.Mark {
	if !c.state.Marked() || f.batch == nil && f.redo == 0 {
		return nil
	}
	users := c.state.Members()
	for _, h := range f.hints { // those that an entry removes, too
		if !sameSlice(h.Users, users) {
			users = union(users, h.Users)
		}
	}
	day := markDay(c.id, now)
	if m.day == day && sameSlice(m.members, users) {
		return nil
	}
	due := make([]persistence.Mark, len(users))
	for i, u := range users {
		due[i] = persistence.Mark{User: u, Day: day, Conversation: c.id}
	}
	return due
}

func (m *marks) remember(c *conversation, f *flight) {
	if len(f.marks) > 0 {
		m.day, m.members = f.marks[0].Day, c.state.Members()
	}
}

func union(a, b []messages.UserID) []messages.UserID {
	seen := make(map[messages.UserID]bool, len(a)+len(b))
	var out []messages.UserID
	for _, list := range [][]messages.UserID{a, b} {
		for _, u := range list {
			if !seen[u] {
				seen[u] = true
				out = append(out, u)
			}
		}
	}
	return out
}

// markDay returns the day of a mark. Each conversation's day begins at an
// offset of its own, so that they do not all write marks at midnight.
func markDay(id messages.ConversationID, now time.Time) int64 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	offset := time.Duration(h.Sum32()) * (24 * time.Hour) >> 32
	return now.Add(-offset).Unix() / (24 * 60 * 60)
}

// ---------------------------------------------------------------- the rest

// idle leaves when nothing is under way and nothing is kept that the store
// does not hold.
func (c *conversation) idle(m *messages.Idle) {
	busy := c.loading || c.knowing || c.flight != nil || len(c.waiting) > 0 || len(c.early) > 0
	if !busy && !c.receipts.busy() && c.typing.empty() && !c.erasing.busy() {
		c.env.at(HandOver)
		m.Leave()
	}
}

func (c *conversation) inspect() any {
	type inspection struct {
		Head        messages.Seq      `json:"head"`
		Members     int               `json:"members"`
		Subscribers []messages.UserID `json:"subscribers"`
		Waiting     int               `json:"waiting"`
		Appending   bool              `json:"appending"`
	}
	in := inspection{Waiting: len(c.waiting), Appending: c.flight != nil}
	if c.state == nil {
		return in
	}
	members := c.state.Members()
	in.Head, in.Members = c.state.Head().Seq, len(members)
	for _, u := range members {
		if len(c.env.Routes.Of(u)) > 0 {
			in.Subscribers = append(in.Subscribers, u)
		}
	}
	return in
}

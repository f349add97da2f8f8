package actors

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/asynkron/protoactor-go/actor"
	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/actors/rules"
	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// inbox is the virtual actor of what waits for one user: it owns the cursors
// of the user's devices, and knows from the user's marks which conversations
// can have news for one. There is no queue of copies: the news is in the logs.
//
//	CatchUp  from a gateway: what can a device be missing?
//	Acked    from a gateway: a device has this
//	Command  conversations, from a client
//	finished work aside is over
type inbox struct {
	env     *Env
	user    messages.UserID
	self    func(any)
	pending int
	used    bool // for more than telling a device what waits
}

// NewInbox returns the behaviour of the inbox kind.
func NewInbox(env *Env, identity string) actor.Actor {
	return &inbox{env: env, user: messages.UserID(identity)}
}

// Receive takes one message.
func (i *inbox) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		self, root := ctx.Self(), ctx.ActorSystem().Root
		i.self = func(m any) { root.Send(self, m) }
	case *messages.CatchUp:
		i.catchUp(m)
	case *messages.Acked:
		i.used = true
		i.acked(m)
	case *messages.Command:
		i.used = true
		i.command(m)
	case *finished:
		i.finished(ctx)
	case *messages.Inspect:
		i.inspect(m)
	case *messages.Idle:
		if i.pending == 0 {
			m.Leave()
		}
	}
}

// aside runs work that blocks.
func (i *inbox) aside(work func(ctx context.Context)) {
	i.pending++
	i.env.Pool.Do(func() {
		ctx, cancel := ioContext()
		defer cancel()
		work(ctx)
		i.self(&finished{})
	})
}

// finished ends at once an inbox that was only asked what waits: it has nothing
// to remember, and a device that is connected and quiet needs none.
func (i *inbox) finished(ctx actor.Context) {
	if i.pending--; i.pending == 0 && !i.used {
		ctx.Stop(ctx.Self())
	}
}

func (i *inbox) inspect(m *messages.Inspect) {
	m.Reply(struct {
		Pending int `json:"pending"`
	}{i.pending})
}

// ---------------------------------------------------------------- what waits

func (i *inbox) catchUp(m *messages.CatchUp) {
	env, user := i.env, i.user
	i.aside(func(ctx context.Context) {
		p := pass{env: env, device: persistence.DeviceKey{User: user, Incarnation: m.Incarnation}, at: env.nowMs()}
		items, err := p.run(ctx, m)
		news := &messages.News{Connection: m.Origin.Connection, Items: items, Pass: p.at}
		if err != nil {
			env.Log.Warn("finding what waits", "user", user, "error", err)
			news.Error = unavailable().Proto()
		}
		env.Gateways.Tell(m.Origin.Node, news)
	})
}

// pass is one search for what a device can be missing. It blocks.
type pass struct {
	env    *Env
	device persistence.DeviceKey
	at     int64 // ms: when it began
}

// rememberPass is how much later than the stored pass one with no news must be
// to be stored: marks are searched by the day.
const rememberPass = 60 * 60 * 1000 // ms

// markSlack is how many days before the last complete pass are searched again:
// a mark's day begins at an offset, and is read before its append is durable.
const markSlack = 2

func (p *pass) run(ctx context.Context, m *messages.CatchUp) ([]*messages.NewsItem, error) {
	last, err := p.env.Store.CaughtUp(ctx, p.device)
	if err != nil {
		return nil, err
	}
	if m.Head && last == 0 {
		return nil, p.baseline(ctx)
	}
	if last > p.at {
		last = 0 // the clock was wrong then: check everything
	}
	resume := map[messages.ConversationID]messages.Seq{}
	for _, at := range m.Positions {
		resume[messages.ConversationID(at.Conversation)] = messages.Seq(at.Seq)
	}
	all, err := p.env.Store.Memberships(ctx, p.device.User)
	if err != nil {
		return nil, err
	}
	candidates, err := p.candidates(ctx, all, p.since(last, m.Recheck), resume)
	if err != nil {
		return nil, err
	}
	items, err := p.compare(ctx, candidates, ends(all), resume)
	if err == nil && len(items) == 0 && !m.Recheck && p.at-last > rememberPass {
		err = await(ctx, func(done persistence.Done) { p.env.Store.SaveDevice(p.device, nil, p.at, done) })
	}
	return items, err
}

// since returns the first day whose marks are searched; 0: check everything.
func (p *pass) since(last int64, recheck bool) int64 {
	expired := p.at-last > messages.KeepMarks.Milliseconds()
	switch {
	case recheck:
		return day(p.at) - markSlack
	case expired:
		return 0
	}
	return day(last) - markSlack
}

// candidates returns the conversations that can have news: those marked since,
// those that leave no marks, and those that the device itself names.
func (p *pass) candidates(ctx context.Context, all []persistence.Membership, since int64,
	resume map[messages.ConversationID]messages.Seq,
) ([]messages.ConversationID, error) {
	found := map[messages.ConversationID]bool{}
	for _, m := range all {
		if _, named := resume[m.Conversation]; named || m.Unmarked || since == 0 {
			found[m.Conversation] = true
		}
	}
	if since != 0 {
		marked, err := p.env.Store.Marked(ctx, p.device.User, since)
		if err != nil {
			return nil, err
		}
		for _, c := range marked {
			found[c] = true
		}
	}
	out := make([]messages.ConversationID, 0, len(found))
	for c := range found {
		out = append(out, c)
	}
	return out, nil
}

// ends returns the last entry that a user may see of each conversation that it
// has left.
func ends(all []persistence.Membership) map[messages.ConversationID]messages.Seq {
	last := map[messages.ConversationID]messages.Seq{}
	for _, m := range all { // by Joined: a later interval is the one that counts
		if m.Ended == 0 {
			delete(last, m.Conversation)
		} else {
			last[m.Conversation] = m.Ended
		}
	}
	return last
}

// compare returns the candidates whose head is beyond where delivery resumes,
// the most recent first. A position that the device presents is also what it
// has: it moves a stored cursor forward, never back.
func (p *pass) compare(ctx context.Context, candidates []messages.ConversationID,
	ends, resume map[messages.ConversationID]messages.Seq,
) ([]*messages.NewsItem, error) {
	heads, err := p.env.Store.Heads(ctx, candidates)
	if err != nil {
		return nil, err
	}
	cursors, err := p.env.Store.DevicePositions(ctx, p.device, candidates)
	if err != nil {
		return nil, err
	}
	type candidate struct {
		item *messages.NewsItem
		at   int64
	}
	var news []candidate
	var forward []persistence.Position
	for i, c := range candidates {
		if end, left := ends[c]; left {
			heads[i].Seq = min(heads[i].Seq, end)
		}
		from := cursors[i]
		if named, ok := resume[c]; ok {
			from = min(named, heads[i].Seq)
			if from > cursors[i] {
				forward = append(forward, persistence.Position{Conversation: c, Seq: from})
			}
		}
		if heads[i].Seq > from {
			item := &messages.NewsItem{Conversation: string(c), Head: uint64(heads[i].Seq), Resume: uint64(from)}
			news = append(news, candidate{item, heads[i].At})
		}
	}
	p.forward(ctx, forward)
	slices.SortFunc(news, func(a, b candidate) int { return cmp.Compare(b.at, a.at) })
	items := make([]*messages.NewsItem, len(news))
	for i := range news {
		items[i] = news[i].item
	}
	return items, nil
}

// forward stores what a device presents, and waits: a conversation without news
// now is later resumed at its stored cursor. Where that fails, entries are only
// repeated.
func (p *pass) forward(ctx context.Context, at []persistence.Position) {
	if len(at) == 0 {
		return
	}
	err := await(ctx, func(done persistence.Done) { p.env.Store.SaveDevice(p.device, at, 0, done) })
	if err != nil {
		p.env.Log.Warn("storing cursors", "user", p.device.User, "error", err)
	}
}

// baseline makes a new device begin at the heads of its conversations.
func (p *pass) baseline(ctx context.Context) error {
	all, err := p.env.Store.Memberships(ctx, p.device.User)
	if err != nil {
		return err
	}
	ids := conversationsOf(all)
	heads, err := p.env.Store.Heads(ctx, ids)
	if err != nil {
		return err
	}
	at := make([]persistence.Position, len(ids))
	for i, c := range ids {
		at[i] = persistence.Position{Conversation: c, Seq: heads[i].Seq}
	}
	return await(ctx, func(done persistence.Done) { p.env.Store.SaveDevice(p.device, at, p.at, done) })
}

func conversationsOf(all []persistence.Membership) []messages.ConversationID {
	ids := make([]messages.ConversationID, len(all))
	for i, m := range all {
		ids[i] = m.Conversation
	}
	return slices.Compact(ids) // ordered by conversation
}

// ---------------------------------------------------------------- cursors

// acked stores what a device has and tells the conversations.
func (i *inbox) acked(m *messages.Acked) {
	at := make([]persistence.Position, len(m.Positions))
	for n, p := range m.Positions {
		at[n] = persistence.Position{Conversation: messages.ConversationID(p.Conversation), Seq: messages.Seq(p.Seq)}
	}
	device := persistence.DeviceKey{User: i.user, Incarnation: m.Incarnation}
	i.pending++
	env, user, self := i.env, i.user, i.self
	env.at(BeforeCursor)
	env.Store.SaveDevice(device, at, m.CaughtUp, func(err error) {
		if err != nil {
			env.Log.Warn("storing cursors", "user", user, "error", err)
		}
		self(&finished{})
	})
	for _, p := range at {
		_ = env.Cluster.Tell(p.Conversation.ActorKind(), string(p.Conversation), &messages.Delivered{
			User: string(user), Seq: uint64(p.Seq),
		})
	}
}

// ---------------------------------------------------------------- the list

func (i *inbox) command(m *messages.Command) {
	list, ok := m.Frame.Command.(*messages.ClientFrame_Conversations)
	if !ok {
		return
	}
	env, user := i.env, i.user
	i.aside(func(ctx context.Context) {
		answer, err := env.conversations(ctx, user, list.Conversations)
		if err != nil {
			if f := messages.FailureOf(err); f.Code == messages.CodeInvalid {
				env.fail(m.Origin, f)
				return
			}
			env.Log.Warn("listing conversations", "user", user, "error", err)
			env.fail(m.Origin, unavailable())
			return
		}
		env.answer(m.Origin, &messages.ServerFrame{Event: &messages.ServerFrame_ConversationList{ConversationList: answer}})
	})
}

// listed is one conversation of a list, and its place: the newest last entry
// comes first, and the id tells equals apart.
type listed struct {
	id    messages.ConversationID
	at    int64
	head  persistence.Head
	views []persistence.Membership
}

func (a listed) compare(b listed) int {
	if c := cmp.Compare(b.at, a.at); c != 0 {
		return c
	}
	return cmp.Compare(a.id, b.id)
}

// conversations is one page of a user's list. Blocks.
func (e *Env) conversations(ctx context.Context, u messages.UserID, q *messages.Conversations) (*messages.ConversationList, error) {
	after, err := decodeCursor(q.Cursor)
	if err != nil {
		return nil, err
	}
	all, err := e.listed(ctx, u)
	if err != nil {
		return nil, err
	}
	if q.Cursor != "" {
		all = slices.DeleteFunc(all, func(l listed) bool { return l.compare(after) <= 0 })
	}
	limit := int(min(q.Limit, e.Limits.Page))
	if limit == 0 {
		limit = int(e.Limits.Page)
	}
	return e.describe(ctx, u, all, limit)
}

// listed returns the conversations that u is a member of, in order.
func (e *Env) listed(ctx context.Context, u messages.UserID) ([]listed, error) {
	all, err := e.Store.Memberships(ctx, u)
	if err != nil {
		return nil, err
	}
	byID := map[messages.ConversationID][]persistence.Membership{}
	for _, m := range all {
		byID[m.Conversation] = append(byID[m.Conversation], m)
	}
	var out []listed
	for id, intervals := range byID {
		if intervals[len(intervals)-1].Ended == 0 {
			out = append(out, listed{id: id, views: intervals})
		}
	}
	ids := make([]messages.ConversationID, len(out))
	for i := range out {
		ids[i] = out[i].id
	}
	heads, err := e.Store.Heads(ctx, ids)
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i].head, out[i].at = heads[i], heads[i].At
	}
	slices.SortFunc(out, listed.compare)
	return out, nil
}

// describe fills in a page of the list.
func (e *Env) describe(ctx context.Context, u messages.UserID, all []listed, limit int) (*messages.ConversationList, error) {
	list := &messages.ConversationList{}
	bytes := 0
	for i, l := range all {
		if i == limit || bytes > pageBytes {
			list.Cursor = encodeCursor(all[i-1])
			return list, nil
		}
		c, err := e.describeOne(ctx, u, l)
		if err != nil {
			return nil, err
		}
		list.Conversations = append(list.Conversations, c)
		bytes += proto.Size(c)
	}
	return list, nil
}

func (e *Env) describeOne(ctx context.Context, u messages.UserID, l listed) (*messages.Conversation, error) {
	c := &messages.Conversation{Conversation: string(l.id), Kind: l.id.Kind(), Head: uint64(l.head.Seq), MemberCount: 2}
	if peer, ok := l.id.Peer(u); ok {
		c.Peer = string(peer)
	} else if err := e.describeGroup(ctx, l.id, c); err != nil {
		return nil, err
	}
	ids := []messages.ConversationID{l.id}
	settings, err := e.Store.Settings(ctx, u, ids)
	if err != nil {
		return nil, err
	}
	set := settings[0]
	c.Muted, c.Archived, c.Pinned = set.Muted, set.Archived, set.Pinned
	cursors, err := e.Store.MemberCursors(ctx, l.id, []messages.UserID{u})
	if err != nil {
		return nil, err
	}
	starts := l.views[len(l.views)-1].From - 1
	read := max(cursors[0].Read, starts, set.Cleared)
	c.Read, c.Delivered = uint64(read), uint64(max(cursors[0].Delivered, read))
	if c.Unread, err = e.unread(ctx, u, l.id, l.head, read); err != nil {
		return nil, err
	}
	if l.head.Seq <= set.Cleared {
		return c, nil
	}
	tail, err := e.entries(ctx, l.id, persistence.Range{Before: l.head.Seq + 1, Limit: 1})
	if err == nil && len(tail) > 0 {
		c.Last = tail[0]
	}
	return c, err
}

func (e *Env) describeGroup(ctx context.Context, id messages.ConversationID, c *messages.Conversation) error {
	_, encoded, err := e.Store.Load(ctx, id)
	if err != nil {
		return err
	}
	var snapshot messages.Snapshot
	if err := proto.Unmarshal(encoded, &snapshot); err != nil {
		return fmt.Errorf("decode the snapshot of %s: %w", id, err)
	}
	c.Name, c.MemberCount = snapshot.Name, uint32(len(snapshot.Members))
	return nil
}

// exactUnread is how many entries are looked at to leave a user's own out of
// its unread count. Beyond it the count is one subtraction, and one's own are
// in it.
const exactUnread = 200

// unread counts the texts and media beyond read.
func (e *Env) unread(ctx context.Context, u messages.UserID, id messages.ConversationID, head persistence.Head, read messages.Seq) (uint64, error) {
	if head.Seq <= read {
		return 0, nil
	}
	if head.Seq-read <= exactUnread {
		return e.unreadOfOthers(ctx, u, id, head.Seq, read)
	}
	before := uint64(0)
	if read > 0 {
		rows, err := e.Store.Read(ctx, id, persistence.Range{After: read - 1, UpTo: read, Limit: 1})
		if err != nil || len(rows) == 0 {
			return 0, err
		}
		before = rows[0].Countable
	}
	return rules.Unread(head.Countable, before), nil
}

func (e *Env) unreadOfOthers(ctx context.Context, u messages.UserID, id messages.ConversationID, head, read messages.Seq) (n uint64, err error) {
	entries, err := e.entries(ctx, id, persistence.Range{After: read, UpTo: head})
	for _, entry := range entries {
		if entry.From != string(u) && (entry.GetText() != nil || entry.GetMedia() != nil) {
			n++
		}
	}
	return n, err
}

// The cursor of a list is the place of the last conversation on its page.

func encodeCursor(l listed) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(l.at, 10) + " " + string(l.id)))
}

func decodeCursor(s string) (listed, error) {
	if s == "" {
		return listed{}, nil
	}
	bad := messages.Fail(messages.CodeInvalid, "cursor: give back the one of the page before")
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return listed{}, bad
	}
	at, id, ok := strings.Cut(string(b), " ")
	ms, err := strconv.ParseInt(at, 10, 64)
	if !ok || err != nil {
		return listed{}, bad
	}
	return listed{id: messages.ConversationID(id), at: ms}, nil
}

package chat

import (
	"cmp"
	"maps"
	"slices"

	"github.com/troupe-chat/troupe/gateway/client"
	"github.com/troupe-chat/troupe/messages"
)

// maxKept bounds the entries that a room keeps; older ones come by history.
const maxKept = 2000

// book is what this program knows: the rooms and the people. It does no I/O and
// is used by one goroutine at a time.
type book struct {
	me     string
	rooms  map[string]*room
	online map[string]bool // by user; no entry: not known
}

// room is one conversation.
type room struct {
	id, kind, name, peer string
	members              []*messages.Member
	pinned               bool
	at                   int64 // of the newest entry, ms

	entries []*messages.Entry // ascending, those with a line of their own
	seen    map[uint64]bool   // seqs of all entries taken
	head    uint64
	oldest  uint64 // of the entries taken; 0: none
	more    bool   // there is history before oldest
	loaded  bool

	edits     map[uint64]change
	retracted map[uint64]bool
	reactions map[uint64]map[string]change // by target and user

	counted uint64 // entries up to here are in unread already
	unread  int
	read    uint64 // what the server was told
	cursors map[string]cursor
	typing  map[string]bool
	pending []*client.Outgoing // texts on their way
	failed  map[*client.Outgoing]error
}

// change is the body of the edit, or the emoji of the reaction, at seq.
type change struct {
	seq  uint64
	text string
}

// cursor is how far a member has come.
type cursor struct{ delivered, read uint64 }

func newBook(me string) *book {
	return &book{me: me, rooms: map[string]*room{}, online: map[string]bool{}}
}

// room returns the room of a conversation, and makes it where there is none.
func (b *book) room(id string) *room {
	r := b.rooms[id]
	if r == nil {
		c := messages.ConversationID(id)
		peer, _ := c.Peer(messages.UserID(b.me))
		r = &room{
			id: id, kind: c.Kind(), peer: string(peer),
			seen: map[uint64]bool{}, edits: map[uint64]change{}, retracted: map[uint64]bool{},
			reactions: map[uint64]map[string]change{}, cursors: map[string]cursor{}, typing: map[string]bool{},
			failed: map[*client.Outgoing]error{},
		}
		b.rooms[id] = r
	}
	return r
}

// direct returns the room of the conversation with a user.
func (b *book) direct(user string) *room {
	return b.room(string(messages.Direct(messages.UserID(b.me), messages.UserID(user))))
}

// find returns the room that a person means by name: a group's name, a
// conversation's id, or a user.
func (b *book) find(name string) *room {
	for _, r := range b.sorted() {
		if r.id == name || r.kind == messages.KindGroup && r.name == name {
			return r
		}
	}
	if messages.UserID(name).Valid() && name != b.me {
		return b.direct(name)
	}
	return nil
}

// sorted returns the rooms as they are listed: pinned first, then the newest.
func (b *book) sorted() []*room {
	return slices.SortedFunc(maps.Values(b.rooms), func(x, y *room) int {
		if x.pinned != y.pinned {
			if x.pinned {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(y.at, x.at), cmp.Compare(x.id, y.id))
	})
}

// people returns whose presence matters here, at most so many.
func (b *book) people(most int) []messages.UserID {
	var out []messages.UserID
	known := map[string]bool{b.me: true, "": true}
	add := func(user string) {
		if !known[user] && len(out) < most {
			known[user] = true
			out = append(out, messages.UserID(user))
		}
	}
	for _, r := range b.sorted() {
		add(r.peer)
		for _, m := range r.members {
			add(m.User)
		}
	}
	return out
}

// listed takes the server's summary of a conversation.
func (b *book) listed(c *messages.Conversation) {
	r := b.room(c.Conversation)
	r.kind, r.name, r.pinned = c.Kind, cleanLine(c.Name), c.Pinned
	if c.Peer != "" {
		r.peer = c.Peer
	}
	r.at = max(r.at, c.GetLast().GetAt())
	if c.Head >= r.counted {
		r.counted, r.unread = c.Head, int(c.Unread)
	}
	r.head, r.read = max(r.head, c.Head), max(r.read, c.Read)
}

// grouped takes a group as the server describes it.
func (b *book) grouped(g *messages.Group) *room {
	r := b.room(g.Conversation)
	r.kind, r.name, r.members = messages.KindGroup, cleanLine(g.Name), g.Members
	return r
}

// paged takes a page of history.
func (b *book) paged(p *messages.Page, older bool) {
	r := b.room(p.Conversation)
	for _, e := range p.Entries {
		b.take(r, e)
	}
	if older || !r.loaded {
		r.more = p.More
	}
	r.loaded = true
}

// arrived takes an entry that was delivered, and returns its room and whether
// it was new.
func (b *book) arrived(e *messages.Entry) (*room, bool) {
	r := b.room(e.Conversation)
	if e.Seq > r.counted {
		r.counted = e.Seq
		if isCountable(e) && e.From != b.me {
			r.unread++
		}
	}
	delete(r.typing, e.From)
	fresh := b.take(r, e)
	r.trim()
	return r, fresh
}

func isCountable(e *messages.Entry) bool { return e.GetText() != nil || e.GetMedia() != nil }

// take keeps an entry, wherever it came from, once.
func (b *book) take(r *room, e *messages.Entry) bool {
	r.settle(b.me, e.ClientId, e.From)
	if r.seen[e.Seq] {
		return false
	}
	r.seen[e.Seq] = true
	r.head = max(r.head, e.Seq)
	if r.oldest == 0 || e.Seq < r.oldest {
		r.oldest = e.Seq
	}
	r.at = max(r.at, e.At)
	r.apply(e)
	if _, shown := bodyOf(e); shown {
		at, _ := slices.BinarySearchFunc(r.entries, e.Seq, func(e *messages.Entry, seq uint64) int { return cmp.Compare(e.Seq, seq) })
		r.entries = slices.Insert(r.entries, at, e)
	}
	return true
}

// settle forgets the outgoing text that has become an entry.
func (r *room) settle(me, clientID, from string) {
	if from == me {
		r.pending = slices.DeleteFunc(r.pending, func(o *client.Outgoing) bool { return string(o.ClientID()) == clientID })
	}
}

// unsent counts the texts that may yet become entries.
func (r *room) unsent() int { return len(r.pending) - len(r.failed) }

// apply does what an entry does to others. The later one wins, in whatever
// order they are taken.
func (r *room) apply(e *messages.Entry) {
	switch k := e.Kind.(type) {
	case *messages.Entry_Edit:
		if r.edits[k.Edit.Seq].seq < e.Seq {
			r.edits[k.Edit.Seq] = change{e.Seq, clean(k.Edit.Body)}
		}
	case *messages.Entry_Retract:
		r.retracted[k.Retract.Seq] = true
	case *messages.Entry_Reaction:
		by := r.reactions[k.Reaction.Seq]
		if by == nil {
			by = map[string]change{}
			r.reactions[k.Reaction.Seq] = by
		}
		if by[e.From].seq < e.Seq {
			by[e.From] = change{e.Seq, cleanLine(k.Reaction.Emoji)}
		}
	case *messages.Entry_Event:
		r.applyEvent(k.Event)
	}
}

// applyEvent keeps the name; members come from the server.
func (r *room) applyEvent(e *messages.Event) {
	if e.Kind == "created" && r.name == "" || e.Kind == "renamed" {
		r.name = cleanLine(e.Name)
	}
}

// disconnected forgets what only a connection keeps true.
func (b *book) disconnected() {
	clear(b.online)
	for _, r := range b.rooms {
		clear(r.typing)
	}
}

// isOut reports whether e ends the user's own membership.
func (b *book) isOut(e *messages.Entry) bool {
	ev := e.GetEvent()
	return (ev.GetKind() == "removed" || ev.GetKind() == "left") && slices.Contains(ev.GetUsers(), b.me)
}

// trim drops the oldest entries where there are too many.
func (r *room) trim() {
	if len(r.entries) <= maxKept {
		return
	}
	r.entries = slices.Clone(r.entries[len(r.entries)-maxKept:])
	r.oldest, r.more = r.entries[0].Seq, true
	maps.DeleteFunc(r.seen, func(seq uint64, _ bool) bool { return seq < r.oldest })
}

// text returns the body of an entry as it is now.
func (r *room) text(e *messages.Entry) (body string, edited, retracted bool) {
	if r.retracted[e.Seq] || e.RetractedAt != 0 {
		return "", false, true
	}
	if edit, ok := r.edits[e.Seq]; ok {
		return edit.text, true, false
	}
	body, _ = bodyOf(e)
	return body, e.EditedAt != 0, false
}

// entry returns the entry at seq, or nil where it is not kept.
func (r *room) entry(seq uint64) *messages.Entry {
	at, found := slices.BinarySearchFunc(r.entries, seq, func(e *messages.Entry, seq uint64) int { return cmp.Compare(e.Seq, seq) })
	if !found {
		return nil
	}
	return r.entries[at]
}

// last returns the newest text or media that is so and stands, or 0.
func (r *room) last(so func(*messages.Entry) bool) uint64 {
	for _, e := range slices.Backward(r.entries) {
		if _, _, gone := r.text(e); isCountable(e) && so(e) && !gone {
			return e.Seq
		}
	}
	return 0
}

// received takes a receipt.
func (r *room) received(user string, delivered, read uint64) {
	c := r.cursors[user]
	c.delivered, c.read = max(c.delivered, delivered, read), max(c.read, read)
	r.cursors[user] = c
}

// status tells how far one of the user's own entries has come.
func (b *book) status(r *room, seq uint64) string {
	others := r.others(b.me)
	all := func(reached func(cursor) bool) bool {
		for _, user := range others {
			if !reached(r.cursors[user]) {
				return false
			}
		}
		return len(others) > 0
	}
	switch {
	case all(func(c cursor) bool { return c.read >= seq }):
		return "read"
	case all(func(c cursor) bool { return c.delivered >= seq }):
		return "delivered"
	}
	return "sent"
}

// others returns the members but one.
func (r *room) others(me string) []string {
	if r.kind == messages.KindDirect {
		return []string{r.peer}
	}
	var out []string
	for _, m := range r.members {
		if m.User != me {
			out = append(out, m.User)
		}
	}
	return out
}

// title is the room's name for people.
func (r *room) title() string {
	return cmp.Or(r.name, cleanLine(r.peer), r.id)
}

// toRead returns what to tell the server when the room is looked at, or 0.
func (r *room) toRead() uint64 {
	r.unread = 0
	if r.head <= r.read {
		return 0
	}
	r.read = r.head
	return r.head
}

package clienttest

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

// conversation is a log with its members.
type conversation struct {
	id, kind, name, history string
	entries                 []*messages.Entry
	members                 map[string]*member
}

type member struct {
	role            string
	from, to        uint64 // what it sees: from … to; to 0 while it is a member
	delivered, read uint64
}

func (c *conversation) head() uint64 { return uint64(len(c.entries)) }

// Do carries out one command as a server does.
func (s *Server) Do(c *Conn, f *messages.ClientFrame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.changed.Broadcast()
	s.frames = append(s.frames, f)
	if h := f.GetHello(); h != nil {
		s.hello(c, f.Id, h)
		return
	}
	if c.user == "" {
		c.Refuse(f, messages.Fail(messages.CodeUnauthenticated, "say hello first"))
		c.Close(messages.CloseUnauthenticated, "no hello")
		return
	}
	answer, failure := s.command(c, f)
	switch {
	case failure != nil:
		c.Refuse(f, failure)
	case answer != nil:
		answer.Re = f.Id
		c.Write(answer)
	}
	for user := range s.watchers[c] {
		if f.GetWatch() != nil {
			c.Write(s.presence(user))
		}
	}
	s.deliverAll()
}

func ok() *messages.ServerFrame {
	return &messages.ServerFrame{Event: &messages.ServerFrame_Ok{Ok: &messages.Ok{}}}
}

func (s *Server) command(c *Conn, f *messages.ClientFrame) (*messages.ServerFrame, *messages.Failure) {
	switch cmd := f.Command.(type) {
	case *messages.ClientFrame_Send:
		return s.sendFrom(c, cmd.Send)
	case *messages.ClientFrame_Ack:
		s.ack(c, cmd.Ack)
		return nil, nil
	case *messages.ClientFrame_Read:
		return s.read(c.user, cmd.Read)
	case *messages.ClientFrame_Typing:
		s.typing(c.user, cmd.Typing)
		return nil, nil
	case *messages.ClientFrame_Watch:
		return s.watch(c, cmd.Watch)
	case *messages.ClientFrame_History:
		return s.page(c.user, cmd.History)
	case *messages.ClientFrame_Conversations:
		return s.list(c.user), nil
	case *messages.ClientFrame_CreateGroup:
		return s.createGroup(c.user, cmd.CreateGroup)
	case *messages.ClientFrame_ChangeGroup:
		return s.changeGroup(c.user, cmd.ChangeGroup)
	case *messages.ClientFrame_Group:
		return s.group(c.user, cmd.Group.Conversation)
	case *messages.ClientFrame_Receipts:
		return s.receipts(c.user, cmd.Receipts)
	case *messages.ClientFrame_Block:
		s.blocks[[2]string{c.user, cmd.Block.User}] = true
		return ok(), nil
	case *messages.ClientFrame_Unblock:
		delete(s.blocks, [2]string{c.user, cmd.Unblock.User})
		return ok(), nil
	case *messages.ClientFrame_Profile:
		return s.profile(c.user, cmd.Profile), nil
	case *messages.ClientFrame_Mute:
		s.setting(c.user, cmd.Mute.Conversation).Muted = cmd.Mute.Value
		return ok(), nil
	case *messages.ClientFrame_Archive:
		s.setting(c.user, cmd.Archive.Conversation).Archived = cmd.Archive.Value
		return ok(), nil
	case *messages.ClientFrame_Pin:
		s.setting(c.user, cmd.Pin.Conversation).Pinned = cmd.Pin.Value
		return ok(), nil
	case *messages.ClientFrame_Clear:
		return ok(), nil
	case *messages.ClientFrame_Ping:
		return &messages.ServerFrame{Event: &messages.ServerFrame_Pong{Pong: &messages.Pong{}}}, nil
	}
	return nil, messages.Fail(messages.CodeInvalid, "no such command")
}

func (s *Server) setting(user, id string) *messages.Conversation {
	key := [2]string{user, id}
	if s.settings[key] == nil {
		s.settings[key] = &messages.Conversation{}
	}
	return s.settings[key]
}

// ---- connections

func (s *Server) hello(c *Conn, id uint32, h *messages.Hello) {
	user := s.tokens[h.Token]
	if user == "" {
		c.Write(messages.Fail(messages.CodeUnauthenticated, "get a new token").Frame(id))
		c.Close(messages.CloseUnauthenticated, "bad token")
		return
	}
	for other := range s.conns {
		if other != c && other.user == user && other.device == h.Device {
			other.Close(messages.CloseReplaced, "connected elsewhere")
			delete(s.conns, other)
		}
	}
	first := c.user == ""
	c.user, c.device = user, h.Device
	s.begin(c, h)
	s.conns[c] = true
	c.Write(&messages.ServerFrame{Re: id, Event: &messages.ServerFrame_Welcome{Welcome: &messages.Welcome{
		User: user, Device: h.Device, Session: "test", ServerTime: time.Now().UnixMilli(),
		HeartbeatSeconds: 25, Limits: proto.CloneOf(s.limits),
	}}})
	s.deliver(c)
	if first {
		c.Write(&messages.ServerFrame{Event: &messages.ServerFrame_CaughtUp{CaughtUp: &messages.CaughtUp{}}})
		s.tellPresence(user)
	}
}

// begin sets where delivery to c starts.
func (s *Server) begin(c *Conn, h *messages.Hello) {
	key := [2]string{c.user, c.device}
	cursors, known := s.devices[key]
	if !known {
		cursors = map[string]uint64{}
		s.devices[key] = cursors
		for id, conversation := range s.conversations {
			if conversation.members[c.user] != nil && h.Start == "head" {
				cursors[id] = conversation.head()
			}
		}
	}
	if len(c.sent) == 0 {
		maps.Copy(c.sent, cursors)
	}
	for _, p := range h.Positions {
		c.sent[p.Conversation] = p.Seq
	}
}

func (s *Server) forget(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	delete(s.watchers, c)
	s.changed.Broadcast()
	if c.user != "" {
		s.tellPresence(c.user)
	}
}

func (s *Server) deliverAll() {
	for c := range s.conns {
		s.deliver(c)
	}
}

// deliver sends c what it does not have.
func (s *Server) deliver(c *Conn) {
	for _, id := range slices.Sorted(maps.Keys(s.conversations)) {
		conversation := s.conversations[id]
		m := conversation.members[c.user]
		if m == nil {
			continue
		}
		for c.sent[id] < conversation.head() {
			if d := conversation.next(m, c.sent[id]); d != nil {
				c.sent[id] = d.Entries[len(d.Entries)-1].Seq
				c.Write(&messages.ServerFrame{Event: &messages.ServerFrame_Deliver{Deliver: d}})
				continue
			}
			break
		}
	}
}

// next returns the entries after a position that m may see, or nil.
func (c *conversation) next(m *member, after uint64) *messages.Deliver {
	d := &messages.Deliver{}
	from := max(after+1, m.from)
	if from == m.from {
		d.Starts = []*messages.Position{{Conversation: c.id, Seq: from}}
	}
	to := c.head()
	if m.to != 0 {
		to = m.to
	}
	for seq := from; seq <= to && len(d.Entries) < messages.MaxDeliver; seq++ {
		d.Entries = append(d.Entries, c.served(seq))
	}
	if len(d.Entries) == 0 {
		return nil
	}
	return d
}

// served returns an entry with later edits and retractions applied.
func (c *conversation) served(seq uint64) *messages.Entry {
	e := proto.CloneOf(c.entries[seq-1])
	for _, later := range c.entries[seq:] {
		if edit := later.GetEdit(); edit.GetSeq() == seq && e.GetText() != nil {
			e.GetText().Body, e.EditedAt = edit.Body, later.At
		}
		if later.GetRetract().GetSeq() == seq {
			e.Kind, e.RetractedAt = nil, later.At
		}
	}
	return e
}

// ---- entries

func (s *Server) conversation(user, id string) (*conversation, *member, *messages.Failure) {
	c := s.conversations[id]
	if c == nil || c.members[user] == nil || c.members[user].to != 0 {
		return nil, nil, messages.Fail(messages.CodeNotFound, "no such conversation")
	}
	return c, c.members[user], nil
}

// open returns the conversation that a send is for.
func (s *Server) open(from string, m *messages.Send) (*conversation, *messages.Failure) {
	id := m.Conversation
	if m.User != "" {
		id = string(messages.Direct(messages.UserID(from), messages.UserID(m.User)))
	}
	if c, _, failure := s.conversation(from, id); failure == nil {
		return c, nil
	}
	peer, direct := messages.ConversationID(id).Peer(messages.UserID(from))
	if _, known := s.passwords[string(peer)]; !direct || !known {
		return nil, messages.Fail(messages.CodeNotFound, "no such conversation")
	}
	return &conversation{id: id, kind: messages.KindDirect, members: map[string]*member{
		from: {from: 1}, string(peer): {from: 1},
	}}, nil
}

// send appends what a user sends, once for each client id.
func (s *Server) send(from string, m *messages.Send) (*messages.Entry, *messages.Failure) {
	c, failure := s.open(from, m)
	if failure != nil {
		return nil, failure
	}
	for other := range c.members {
		if c.kind == messages.KindDirect && (s.blocks[[2]string{from, other}] || s.blocks[[2]string{other, from}]) {
			return nil, messages.Fail(messages.CodeForbidden, "blocked")
		}
	}
	key := [3]string{c.id, from, m.ClientId}
	if e := s.appended[key]; e != nil {
		return e, nil
	}
	e := &messages.Entry{From: from, ClientId: m.ClientId, ReplyTo: m.ReplyTo}
	switch content := proto.CloneOf(m).Content.(type) {
	case *messages.Send_Text:
		e.Kind = &messages.Entry_Text{Text: content.Text}
	case *messages.Send_Media:
		e.Kind = &messages.Entry_Media{Media: content.Media}
	case *messages.Send_Edit:
		e.Kind = &messages.Entry_Edit{Edit: content.Edit}
	case *messages.Send_Retract:
		e.Kind = &messages.Entry_Retract{Retract: content.Retract}
	case *messages.Send_Reaction:
		e.Kind = &messages.Entry_Reaction{Reaction: content.Reaction}
	}
	if e.Kind == nil {
		return nil, messages.Fail(messages.CodeInvalid, "nothing to send")
	}
	s.append(c, e)
	s.appended[key] = e
	c.members[from].read = e.Seq
	return e, nil
}

func (s *Server) append(c *conversation, e *messages.Entry) {
	e.Conversation, e.Seq, e.At = c.id, c.head()+1, time.Now().UnixMilli()
	c.entries = append(c.entries, e)
	s.conversations[c.id] = c
	s.changed.Broadcast()
}

// sendFrom is send for a connection: the answer stands for the entry.
func (s *Server) sendFrom(c *Conn, m *messages.Send) (*messages.ServerFrame, *messages.Failure) {
	before := len(s.appended)
	e, failure := s.send(c.user, m)
	if failure != nil {
		return nil, failure
	}
	fresh := len(s.appended) > before
	if fresh && c.sent[e.Conversation] == e.Seq-1 {
		c.sent[e.Conversation] = e.Seq
	}
	return &messages.ServerFrame{Event: &messages.ServerFrame_Sent{Sent: &messages.Sent{
		Conversation: e.Conversation, Seq: e.Seq, ClientId: e.ClientId, At: e.At, Duplicate: !fresh,
	}}}, nil
}

func (s *Server) page(user string, h *messages.History) (*messages.ServerFrame, *messages.Failure) {
	c, m, failure := s.conversation(user, h.Conversation)
	if failure != nil {
		return nil, failure
	}
	limit := uint64(cmp.Or(h.Limit, 50))
	from, to := m.from, c.head()
	if h.After != 0 {
		from = max(from, h.After+1)
		to = min(to, from+limit-1)
	} else if h.Before != 0 {
		to = min(to, h.Before-1)
	}
	page := &messages.Page{Conversation: c.id}
	if to >= limit && h.After == 0 && to-limit+1 > from {
		from, page.More = to-limit+1, true
	}
	for seq := from; seq <= to; seq++ {
		page.Entries = append(page.Entries, c.served(seq))
	}
	page.More = page.More || h.After != 0 && to < c.head()
	return &messages.ServerFrame{Event: &messages.ServerFrame_Page{Page: page}}, nil
}

// ---- cursors

func (s *Server) ack(c *Conn, a *messages.Ack) {
	for _, p := range a.Positions {
		cursors := s.devices[[2]string{c.user, c.device}]
		cursors[p.Conversation] = max(cursors[p.Conversation], min(p.Seq, c.sent[p.Conversation]))
		if conversation, m, failure := s.conversation(c.user, p.Conversation); failure == nil {
			s.move(conversation, c.user, m, max(m.delivered, cursors[p.Conversation]), m.read)
		}
	}
}

// Acked returns what a device has acknowledged in a conversation.
func (s *Server) Acked(user, device string, id messages.ConversationID) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.devices[[2]string{user, device}][string(id)]
}

func (s *Server) read(user string, r *messages.Read) (*messages.ServerFrame, *messages.Failure) {
	c, m, failure := s.conversation(user, r.Conversation)
	if failure != nil {
		return nil, failure
	}
	read := max(m.read, min(r.Seq, c.head()))
	s.move(c, user, m, max(m.delivered, read), read)
	return ok(), nil
}

// move moves cursors and tells everyone in the conversation.
func (s *Server) move(c *conversation, user string, m *member, delivered, read uint64) {
	if delivered == m.delivered && read == m.read {
		return
	}
	m.delivered, m.read = delivered, read
	s.tell(c, user, &messages.ServerFrame{Event: &messages.ServerFrame_Receipt{Receipt: &messages.Receipt{
		Conversation: c.id, User: user, Delivered: delivered, Read: read,
	}}})
}

// tell sends a frame to every member but one.
func (s *Server) tell(c *conversation, but string, f *messages.ServerFrame) {
	for conn := range s.conns {
		if m := c.members[conn.user]; m != nil && m.to == 0 && conn.user != but {
			conn.Write(f)
		}
	}
}

func (s *Server) typing(user string, t *messages.Typing) {
	if c, _, failure := s.conversation(user, t.Conversation); failure == nil {
		s.tell(c, user, &messages.ServerFrame{Event: &messages.ServerFrame_Typing{Typing: &messages.Typing{
			Conversation: c.id, User: user, Active: t.Active,
		}}})
	}
}

func (s *Server) receipts(user string, r *messages.Receipts) (*messages.ServerFrame, *messages.Failure) {
	c, _, failure := s.conversation(user, r.Conversation)
	if failure != nil {
		return nil, failure
	}
	list := &messages.ReceiptList{Conversation: c.id, Seq: r.Seq}
	for _, name := range slices.Sorted(maps.Keys(c.members)) {
		status := "sent"
		if m := c.members[name]; m.read >= r.Seq {
			status = "read"
		} else if m.delivered >= r.Seq {
			status = "delivered"
		}
		list.Members = append(list.Members, &messages.MemberStatus{User: name, Status: status})
	}
	return &messages.ServerFrame{Event: &messages.ServerFrame_ReceiptList{ReceiptList: list}}, nil
}

// ---- people

func (s *Server) presence(user string) *messages.ServerFrame {
	online := false
	for c := range s.conns {
		online = online || c.user == user
	}
	return &messages.ServerFrame{Event: &messages.ServerFrame_Presence{Presence: &messages.Presence{User: user, Online: online}}}
}

func (s *Server) tellPresence(user string) {
	for c, users := range s.watchers {
		if users[user] {
			c.Write(s.presence(user))
		}
	}
}

func (s *Server) watch(c *Conn, w *messages.Watch) (*messages.ServerFrame, *messages.Failure) {
	if len(w.Users) > messages.MaxWatches {
		return nil, messages.Fail(messages.CodeTooLarge, "too many users")
	}
	s.watchers[c] = map[string]bool{}
	for _, user := range w.Users {
		s.watchers[c][user] = true
	}
	return ok(), nil
}

func (s *Server) profile(user string, p *messages.Profile) *messages.ServerFrame {
	if set := p.Set; set != nil {
		s.profiles[user] = &messages.ProfileInfo{User: user, Name: set.Name, Avatar: set.Avatar}
	}
	list := &messages.ProfileList{}
	for _, name := range p.Users {
		info := s.profiles[name]
		if info == nil {
			info = &messages.ProfileInfo{User: name}
		}
		list.Profiles = append(list.Profiles, proto.CloneOf(info))
	}
	return &messages.ServerFrame{Event: &messages.ServerFrame_ProfileList{ProfileList: list}}
}

func (s *Server) list(user string) *messages.ServerFrame {
	list := &messages.ConversationList{}
	for _, c := range s.conversations {
		if m := c.members[user]; m != nil && m.to == 0 {
			list.Conversations = append(list.Conversations, s.summary(user, c, m))
		}
	}
	slices.SortFunc(list.Conversations, func(a, b *messages.Conversation) int {
		return cmp.Or(-cmp.Compare(a.Last.At, b.Last.At), cmp.Compare(a.Conversation, b.Conversation))
	})
	return &messages.ServerFrame{Event: &messages.ServerFrame_ConversationList{ConversationList: list}}
}

func (s *Server) summary(user string, c *conversation, m *member) *messages.Conversation {
	v := proto.CloneOf(s.setting(user, c.id))
	peer, _ := messages.ConversationID(c.id).Peer(messages.UserID(user))
	v.Conversation, v.Kind, v.Name, v.Peer = c.id, c.kind, c.name, string(peer)
	v.MemberCount, v.Head, v.Last = uint32(len(c.members)), c.head(), c.served(c.head())
	v.Read, v.Delivered = m.read, m.delivered
	for _, e := range c.entries[m.read:] {
		if e.GetText() != nil || e.GetMedia() != nil {
			v.Unread++
		}
	}
	return v
}

// ---- groups

func (s *Server) group(user, id string) (*messages.ServerFrame, *messages.Failure) {
	c, _, failure := s.conversation(user, id)
	if failure != nil {
		return nil, failure
	}
	return &messages.ServerFrame{Event: &messages.ServerFrame_Group{Group: c.group()}}, nil
}

func (c *conversation) group() *messages.Group {
	g := &messages.Group{Conversation: c.id, Name: c.name, Head: c.head(), History: c.history}
	for _, name := range slices.Sorted(maps.Keys(c.members)) {
		if m := c.members[name]; m.to == 0 {
			g.Members = append(g.Members, &messages.Member{User: name, Role: m.role})
		}
	}
	return g
}

func (s *Server) unknown(users []string) *messages.Failure {
	for _, u := range users {
		if _, known := s.passwords[u]; !known {
			return messages.Fail(messages.CodeNotFound, "no user %s", u)
		}
	}
	return nil
}

func (s *Server) createGroup(user string, g *messages.CreateGroup) (*messages.ServerFrame, *messages.Failure) {
	if failure := s.unknown(g.Members); failure != nil {
		return nil, failure
	}
	key := [2]string{user, g.ClientId}
	if s.groups[key] == "" {
		c := &conversation{
			id:   string(messages.NewGroup(messages.UserID(user), messages.ClientID(g.ClientId))),
			kind: messages.KindGroup, name: g.Name, history: g.History, members: map[string]*member{},
		}
		for _, u := range append(g.Members, user) {
			c.members[u] = &member{role: "member", from: 1}
		}
		c.members[user].role = "owner"
		s.event(c, user, "created", slices.Sorted(maps.Keys(c.members)), g.Name)
		s.groups[key] = c.id
	}
	return s.group(user, s.groups[key])
}

func (s *Server) event(c *conversation, by, kind string, users []string, name string) {
	s.append(c, &messages.Entry{From: by, Kind: &messages.Entry_Event{Event: &messages.Event{
		Kind: kind, By: by, Users: users, Name: name,
	}}})
}

func (s *Server) changeGroup(user string, g *messages.ChangeGroup) (*messages.ServerFrame, *messages.Failure) {
	c, m, failure := s.conversation(user, g.Conversation)
	if failure == nil {
		failure = s.unknown(append(slices.Clone(g.Add), g.Remove...))
	}
	if failure == nil && m.role != "owner" && !g.Leave {
		failure = messages.Fail(messages.CodeForbidden, "only the owner may")
	}
	if failure != nil {
		return nil, failure
	}
	if len(g.Add) > 0 {
		s.event(c, user, "added", g.Add, "")
		for _, u := range g.Add {
			c.members[u] = &member{role: "member", from: c.head(), read: c.head()}
		}
	}
	if len(g.Remove) > 0 {
		s.end(c, user, "removed", g.Remove)
	}
	if g.Name != "" {
		c.name = g.Name
		s.event(c, user, "renamed", nil, g.Name)
	}
	view := c.group()
	if g.Leave {
		s.end(c, user, "left", []string{user})
	}
	return &messages.ServerFrame{Event: &messages.ServerFrame_Group{Group: view}}, nil
}

// end ends memberships with the event that says so.
func (s *Server) end(c *conversation, by, kind string, users []string) {
	s.event(c, by, kind, users, "")
	for _, u := range users {
		if m := c.members[u]; m != nil {
			m.to = c.head()
		}
	}
}

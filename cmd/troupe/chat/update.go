package chat

import (
	"errors"
	"slices"
	"strings"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/troupe-chat/troupe/gateway/client"
	"github.com/troupe-chat/troupe/messages"
)

// Update takes one message.
func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.KeyMsg:
		return m, m.key(msg)
	case client.State:
		return m, m.state(msg)
	case *messages.Entry:
		return m, m.entry(msg)
	case *messages.Receipt:
		m.book.room(msg.Conversation).received(msg.User, msg.Delivered, msg.Read)
	case *messages.Typing:
		m.typing(msg)
	case *messages.Presence:
		m.book.online[msg.User] = msg.Online
	case listed:
		return m, m.listed(msg)
	case paged:
		return m, m.paged(msg)
	case grouped:
		m.book.grouped(msg.group)
		return m, m.watchPeople()
	case status:
		m.statuses(msg)
	case executed:
		return m, m.executed(msg)
	case settled:
		m.settled(msg)
	case failed:
		m.fail(msg.err)
	}
	return m, nil
}

func (m *model) state(s client.State) tea.Cmd {
	m.connected, m.status = s.Phase == client.Online, m.describe(s)
	switch s.Phase {
	case client.Online:
		return m.list()
	case client.Stopped:
		return tea.Quit
	case client.Waiting:
		m.book.disconnected()
	}
	return nil
}

func (m *model) entry(e *messages.Entry) tea.Cmd {
	_, known := m.book.rooms[e.Conversation]
	r, fresh := m.book.arrived(e)
	if m.book.isOut(e) {
		return m.leave(r)
	}
	var cmds []tea.Cmd
	if !known || fresh && e.GetEvent() != nil {
		cmds = append(cmds, m.members(r), m.watchPeople())
	}
	if r.id == m.open {
		if _, shown := bodyOf(e); shown && fresh && m.scroll > 0 {
			m.scroll++ // what is looked at stays about where it is
		}
		cmds = append(cmds, m.read())
	}
	if m.open == "" {
		cmds = append(cmds, m.show(r))
	}
	return tea.Batch(cmds...)
}

// leave closes a room that the user is no longer in.
func (m *model) leave(r *room) tea.Cmd {
	m.notice = "you are no longer in " + r.title()
	delete(m.book.rooms, r.id)
	if rooms := m.book.sorted(); r.id == m.open && len(rooms) > 0 {
		return m.show(rooms[0])
	}
	return nil
}

func (m *model) typing(t *messages.Typing) {
	r := m.book.room(t.Conversation)
	if t.Active {
		r.typing[t.User] = true
	} else {
		delete(r.typing, t.User)
	}
}

// listed takes the list of rooms: at the start, and again after each
// reconnect.
func (m *model) listed(l listed) tea.Cmd {
	if l.err != nil {
		m.fail(l.err)
		return nil
	}
	for _, c := range l.conversations {
		m.book.listed(c)
	}
	open := m.room()
	if m.to != "" {
		if open = m.book.find(m.to); open == nil {
			m.notice = "! there is no " + cleanLine(m.to)
		}
		m.to = ""
	}
	if rooms := m.book.sorted(); open == nil && len(rooms) > 0 {
		open = rooms[0]
	}
	cmds := []tea.Cmd{m.watchPeople()}
	if open != nil && (open.id != m.open || !open.loaded) {
		cmds = append(cmds, m.show(open))
	}
	return tea.Batch(append(cmds, m.read())...)
}

func (m *model) paged(p paged) tea.Cmd {
	m.fetching = m.fetching && !p.older
	r := m.book.room(p.room)
	if f, ok := errors.AsType[*messages.Failure](p.err); ok && f.Code == messages.CodeNotFound {
		r.loaded = true // a conversation in which nothing has been said
		return nil
	}
	if p.err != nil {
		m.fail(p.err)
		return nil
	}
	m.book.paged(p.page, p.older)
	if p.older {
		return nil
	}
	return tea.Batch(m.receipts(r), m.read())
}

func (m *model) statuses(s status) {
	r, seq := m.book.room(s.room), s.list.Seq
	for _, member := range s.list.Members {
		switch member.Status {
		case "read":
			r.received(member.User, seq, seq)
		case "delivered":
			r.received(member.User, seq, 0)
		}
	}
}

func (m *model) executed(e executed) tea.Cmd {
	if e.err != nil {
		m.fail(e.err)
		return nil
	}
	m.notice = e.outcome.notice
	switch o := e.outcome; {
	case o.quit:
		return tea.Quit
	case o.sent != nil:
		return m.watch(e.room, o.sent)
	case o.group != nil:
		return tea.Batch(m.show(m.book.grouped(o.group)), m.watchPeople())
	case o.to != "":
		r := m.book.find(o.to)
		if r == nil {
			m.notice = "! there is no " + cleanLine(o.to)
		}
		return tea.Batch(m.show(r), m.watchPeople())
	}
	return nil
}

func (m *model) settled(s settled) {
	r := m.book.room(s.room)
	if m.ctx.Err() != nil {
		return
	}
	if s.err != nil {
		r.failed[s.out] = s.err
		m.fail(s.err)
		return
	}
	r.settle(m.book.me, string(s.out.ClientID()), m.book.me)
}

// ---- keys

func (m *model) key(k tea.KeyMsg) tea.Cmd {
	switch k.String() {
	case "ctrl+c":
		return tea.Quit
	case "tab", "alt+down":
		return m.next(1)
	case "shift+tab", "alt+up":
		return m.next(-1)
	case "pgup":
		return m.up()
	case "pgdown":
		m.scroll = max(0, m.scroll-m.bodyHeight())
		return nil
	case "ctrl+n":
		m.numbers = !m.numbers
		return nil
	case "enter":
		return m.enter()
	case "esc":
		m.input.set("")
		m.editing, m.notice = 0, ""
		m.forgetFailed()
		return nil
	case "up":
		m.editLast()
		return nil
	}
	return m.edit(k)
}

// forgetFailed takes texts that were refused off the screen.
func (m *model) forgetFailed() {
	if r := m.room(); r != nil {
		r.pending = slices.DeleteFunc(r.pending, func(o *client.Outgoing) bool { return r.failed[o] != nil })
		clear(r.failed)
	}
}

// edit changes the input.
func (m *model) edit(k tea.KeyMsg) tea.Cmd {
	before := m.input.String()
	switch k.String() {
	case "left":
		m.input.move(-1)
	case "right":
		m.input.move(1)
	case "home", "ctrl+a":
		m.input.move(-len(before))
	case "end", "ctrl+e":
		m.input.move(len(before))
	case "backspace", "ctrl+h":
		m.input.backspace()
	case "delete", "ctrl+d":
		m.input.delete()
	case "ctrl+w":
		m.input.deleteWord()
	case "ctrl+u":
		m.input.deleteBefore()
	case "alt+enter", "ctrl+j":
		m.input.insert("\n")
	default:
		if k.Type == tea.KeyRunes && !k.Alt || k.Type == tea.KeySpace {
			m.input.insert(clean(string(k.Runes)))
		}
	}
	if after := m.input.String(); after != before {
		m.tellTyping(after)
	}
	return nil
}

// tellTyping tells the others that a text, not a command, is being written.
func (m *model) tellTyping(text string) {
	if r := m.room(); r != nil && r.head > 0 {
		m.client.Typing(messages.ConversationID(r.id), text != "" && !strings.HasPrefix(text, "/"))
	}
}

func (m *model) enter() tea.Cmd {
	text, editing := m.input.String(), m.editing
	m.input.set("")
	m.tellTyping("")
	m.editing, m.notice, m.scroll = 0, "", 0
	l := parse(text)
	if editing != 0 && l.name == "" {
		l = line{name: "edit", rest: numberedText(editing, l.rest)}
	}
	if l.name == "" && strings.TrimSpace(l.rest) == "" {
		return nil
	}
	return m.submit(l)
}

// editLast takes the last own text into the input.
func (m *model) editLast() {
	r := m.room()
	if r == nil || !m.input.empty() || r.unsent() > 0 {
		return
	}
	seq := r.last(func(e *messages.Entry) bool { return e.From == m.book.me && e.GetText() != nil })
	if seq == 0 {
		return
	}
	text, _, _ := r.text(r.entry(seq))
	m.input.set(text)
	m.editing = seq
}

// next opens the room that is so many places away in the list.
func (m *model) next(by int) tea.Cmd {
	rooms := m.book.sorted()
	if len(rooms) == 0 {
		return nil
	}
	at := 0
	for i, r := range rooms {
		if r.id == m.open {
			at = i
		}
	}
	m.notice = ""
	return m.show(rooms[(at+by+len(rooms))%len(rooms)])
}

// up scrolls towards earlier entries, and asks for them at the beginning of
// what is known.
func (m *model) up() tea.Cmd {
	r := m.room()
	if r == nil {
		return nil
	}
	height := m.bodyHeight()
	known := len(m.lines(r, m.rightWidth()))
	m.scroll = max(0, min(m.scroll+height, known-height))
	if m.scroll+height < known || !r.more || m.fetching || !m.connected {
		return nil
	}
	m.fetching = true
	return m.page(r, r.oldest)
}

package chat

import (
	"context"
	"fmt"
	"slices"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/troupe-chat/troupe/gateway/client"
	"github.com/troupe-chat/troupe/messages"
)

const (
	pageSize = 50
	// What the server is asked for in the background may take so long.
	patience = 30 * time.Second
	// So many of one's latest entries are asked for their receipts when a
	// room is opened.
	askedReceipts = 5
)

// model is the state of the screen. Only the goroutine of the program changes
// it; what waits for the server is a tea.Cmd whose result comes back as a
// message.
type model struct {
	ctx    context.Context
	client *client.Client
	book   *book
	style  styles
	zone   *time.Location

	width, height int
	open          string // the id of the room that is shown
	to            string // what to open once the rooms are known
	input         editor
	editing       uint64 // the entry whose text is in the input, or 0
	scroll        int    // lines up from the end
	numbers       bool
	fetching      bool // an older page is on its way
	connected     bool
	status        string // of the connection
	notice        string // of the last command
}

// The messages of the program, beside those of bubbletea. Those of the client
// are its own types.
type (
	listed struct {
		conversations []*messages.Conversation
		err           error
	}
	paged struct {
		room  string
		page  *messages.Page
		older bool
		err   error
	}
	grouped struct{ group *messages.Group }
	status  struct {
		room string
		list *messages.ReceiptList
	}
	executed struct {
		room    string
		outcome outcome
		err     error
	}
	settled struct {
		room string
		out  *client.Outgoing
		err  error
	}
	failed struct{ err error }
)

func newModel(ctx context.Context, c *client.Client, me, to string, s styles, zone *time.Location) *model {
	return &model{ctx: ctx, client: c, book: newBook(me), to: to, style: s, zone: zone, status: "connecting…", width: 80, height: 24}
}

// Init shows what an earlier run could not send.
func (m *model) Init() tea.Cmd {
	var cmds []tea.Cmd
	for _, out := range m.client.Unsent() {
		id := out.Send().Conversation
		if id == "" {
			id = m.book.direct(out.Send().User).id
		}
		cmds = append(cmds, m.watch(id, out))
	}
	return tea.Batch(cmds...)
}

func (m *model) room() *room { return m.book.rooms[m.open] }

// ---- what asks the server

// later runs ask in the background; what it returns comes back as a message.
func (m *model) later(ask func(context.Context) tea.Msg) tea.Cmd {
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(m.ctx, patience)
		defer cancel()
		return ask(ctx)
	}
}

func (m *model) list() tea.Cmd {
	return m.later(func(ctx context.Context) tea.Msg {
		var out listed
		for c, err := range m.client.Conversations(ctx) {
			if err != nil {
				return listed{err: err}
			}
			out.conversations = append(out.conversations, c)
		}
		return out
	})
}

func (m *model) page(r *room, before uint64) tea.Cmd {
	id := r.id
	return m.later(func(ctx context.Context) tea.Msg {
		q := client.HistoryQuery{Before: messages.Seq(before), Limit: pageSize}
		p, err := m.client.History(ctx, messages.ConversationID(id), q)
		return paged{room: id, page: p, older: before != 0, err: err}
	})
}

func (m *model) members(r *room) tea.Cmd {
	if r.kind != messages.KindGroup {
		return nil
	}
	id := r.id
	return m.later(func(ctx context.Context) tea.Msg {
		g, err := m.client.Group(ctx, messages.ConversationID(id))
		if err != nil {
			return failed{err}
		}
		return grouped{g}
	})
}

// receipts asks how far the others have come with the latest own entries.
func (m *model) receipts(r *room) tea.Cmd {
	var cmds []tea.Cmd
	for _, e := range slices.Backward(r.entries) {
		if e.From != m.book.me || !isCountable(e) {
			continue
		}
		id, seq := r.id, messages.Seq(e.Seq)
		cmds = append(cmds, m.later(func(ctx context.Context) tea.Msg {
			list, err := m.client.Receipts(ctx, messages.ConversationID(id), seq)
			if err != nil {
				return failed{err}
			}
			return status{id, list}
		}))
		if len(cmds) == askedReceipts {
			break
		}
	}
	return tea.Batch(cmds...)
}

// watchPeople keeps the presence of everyone here up to date.
func (m *model) watchPeople() tea.Cmd {
	users := m.book.people(messages.MaxWatches)
	return m.later(func(ctx context.Context) tea.Msg {
		if err := m.client.Watch(ctx, users...); err != nil {
			return failed{err}
		}
		return nil
	})
}

// read tells the server that the open room has been looked at.
func (m *model) read() tea.Cmd {
	r := m.room()
	if r == nil || !m.connected {
		return nil
	}
	seq := r.toRead()
	if seq == 0 {
		return nil
	}
	id := r.id
	return m.later(func(ctx context.Context) tea.Msg {
		if err := m.client.Read(ctx, messages.ConversationID(id), messages.Seq(seq)); err != nil {
			return failed{err}
		}
		return nil
	})
}

// watch shows an entry that is on its way and waits for its outcome.
func (m *model) watch(id string, out *client.Outgoing) tea.Cmd {
	r := m.book.room(id)
	if out.Send().GetText() != nil {
		r.pending = append(r.pending, out)
	}
	return func() tea.Msg {
		_, err := out.Wait(m.ctx)
		return settled{id, out, err}
	}
}

func (m *model) submit(l line) tea.Cmd {
	id, at := m.open, m.book.placeOf(m.room())
	return m.later(func(ctx context.Context) tea.Msg {
		done, err := execute(ctx, m.client, at, l)
		return executed{id, done, err}
	})
}

// show opens a room and fetches what is not known of it.
func (m *model) show(r *room) tea.Cmd {
	if r == nil {
		return nil
	}
	m.open, m.scroll, m.editing = r.id, 0, 0
	cmds := []tea.Cmd{m.read()}
	if !r.loaded && m.connected {
		cmds = append(cmds, m.page(r, 0), m.members(r))
	}
	return tea.Batch(cmds...)
}

func (m *model) fail(err error) {
	m.notice = "! " + cleanLine(err.Error())
}

func (m *model) describe(s client.State) string {
	switch s.Phase {
	case client.Waiting:
		return fmt.Sprintf("offline: again in %v", s.After.Round(time.Second/10))
	case client.Online:
		return ""
	}
	return string(s.Phase) + "…"
}

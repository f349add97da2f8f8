package chat

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/x/ansi"

	"github.com/troupe-chat/troupe/gateway/client"
	"github.com/troupe-chat/troupe/messages"
)

var rewrite = flag.Bool("rewrite", false, "write the views in testdata anew")

// desk is a model of ana's screen that is never connected: what the server
// would say is given to it by hand.
func desk(t *testing.T) *model {
	t.Helper()
	c, err := client.New(client.Options{
		Server: "http://troupe.test", Device: "d",
		Token: func(context.Context) (string, error) { return "", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return newModel(context.Background(), c, "ana", "", newStyles(lipgloss.NewRenderer(io.Discard)), time.UTC)
}

// tell gives messages to the model and drops what it asks of the server.
func (m *model) tell(msgs ...tea.Msg) {
	for _, msg := range msgs {
		m.Update(msg)
	}
}

// press gives keys: names of keys, or text.
func (m *model) press(keys ...string) {
	named := map[string]tea.KeyMsg{
		"enter": {Type: tea.KeyEnter}, "tab": {Type: tea.KeyTab}, "shift+tab": {Type: tea.KeyShiftTab},
		"up": {Type: tea.KeyUp}, "pgup": {Type: tea.KeyPgUp}, "pgdown": {Type: tea.KeyPgDown}, "esc": {Type: tea.KeyEsc},
		"left": {Type: tea.KeyLeft}, "backspace": {Type: tea.KeyBackspace}, "ctrl+n": {Type: tea.KeyCtrlN},
		"ctrl+w": {Type: tea.KeyCtrlW}, "alt+down": {Type: tea.KeyDown, Alt: true}, "home": {Type: tea.KeyHome},
	}
	for _, key := range keys {
		k, ok := named[key]
		if !ok {
			k = tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune(key)}
		}
		m.Update(k)
	}
}

// wantView compares the screen with a file in testdata.
func (m *model) wantView(t *testing.T, name string) {
	t.Helper()
	view := m.View()
	rows := strings.Split(view, "\n")
	if len(rows) != m.height {
		t.Errorf("%s: %d rows on a screen of %d", name, len(rows), m.height)
	}
	for _, row := range rows {
		if w := ansi.StringWidth(row); w > m.width {
			t.Errorf("%s: %d columns on a screen of %d: %q", name, w, m.width, row)
		}
	}
	for i := range rows {
		rows[i] = strings.TrimRight(rows[i], " ")
	}
	got := strings.Join(rows, "\n") + "\n"
	path := filepath.Join("testdata", name+".golden")
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

const (
	withBo = "d:ana~bo"
	withCy = "d:ana~cy"
	team   = "g:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
)

var monday = time.Date(2024, 1, 1, 9, 30, 0, 0, time.UTC)

func said(id string, seq uint64, from, body string) *messages.Entry {
	return &messages.Entry{
		Conversation: id, Seq: seq, From: from, ClientId: fmt.Sprint(from, seq),
		At:   monday.Add(time.Duration(seq) * time.Minute).UnixMilli(),
		Kind: &messages.Entry_Text{Text: &messages.Text{Body: body}},
	}
}

func of(id string, seq uint64, from string, s *messages.Send) *messages.Entry {
	e := said(id, seq, from, "")
	switch k := s.Content.(type) {
	case *messages.Send_Edit:
		e.Kind = &messages.Entry_Edit{Edit: k.Edit}
	case *messages.Send_Retract:
		e.Kind = &messages.Entry_Retract{Retract: k.Retract}
	case *messages.Send_Reaction:
		e.Kind = &messages.Entry_Reaction{Reaction: k.Reaction}
	}
	return e
}

func online() client.State {
	return client.State{Phase: client.Online, Welcome: &messages.Welcome{User: "ana"}}
}

// busy is a desk with three conversations, the one with bo open.
func busy(t *testing.T) *model {
	m := desk(t)
	m.to = "bo"
	to := client.In(withBo)
	m.tell(
		online(),
		listed{conversations: []*messages.Conversation{
			{Conversation: withBo, Kind: "direct", Peer: "bo", Head: 2, Last: said(withBo, 2, "bo", ""), Read: 2},
			{Conversation: team, Kind: "group", Name: "team", Head: 9, Last: said(team, 1, "cy", ""), Unread: 4},
			{Conversation: withCy, Kind: "direct", Peer: "cy", Head: 1, Last: said(withCy, 1, "cy", ""), Read: 1},
		}},
		paged{room: withBo, page: &messages.Page{Conversation: withBo, More: true, Entries: []*messages.Entry{
			said(withBo, 1, "ana", "good morning"), said(withBo, 2, "bo", "hi ana"),
		}}},
	)
	answer := said(withBo, 3, "ana", "did you see the numbers? They are better than anyone had hoped for")
	answer.ReplyTo = 2
	later := said(withBo, 1600, "bo", "next day")
	for _, e := range []*messages.Entry{
		answer,
		said(withBo, 4, "bo", "not yet"),
		of(withBo, 5, "bo", client.Edit(to, 4, "yes!")),
		said(withBo, 6, "bo", "oops"),
		of(withBo, 7, "bo", client.Retract(to, 6)),
		of(withBo, 8, "bo", client.React(to, 3, "👍")),
		said(withBo, 9, "ana", "and tomorrow?"),
		later,
		said(withCy, 2, "cy", "ping"),
	} {
		m.tell(e)
	}
	m.tell(
		&messages.Receipt{Conversation: withBo, User: "bo", Delivered: 9, Read: 3},
		&messages.Presence{User: "bo", Online: true},
		&messages.Typing{Conversation: withBo, User: "bo", Active: true},
	)
	return m
}

func TestViews(t *testing.T) {
	m := busy(t)
	m.wantView(t, "busy")
	m.tell(tea.WindowSizeMsg{Width: 40, Height: 12})
	m.wantView(t, "narrow")
	for h := 1; h <= 6; h++ {
		m.tell(tea.WindowSizeMsg{Width: 20, Height: h})
		m.wantView(t, fmt.Sprint("tiny", h))
	}
	m.tell(tea.WindowSizeMsg{Width: 120, Height: 30})
	m.press("ctrl+n")
	m.tell(client.State{Phase: client.Waiting, After: 1500 * time.Millisecond})
	m.wantView(t, "wide-offline-numbers")
	desk(t).wantView(t, "first")
}

func TestEveryScreenSizeIsKept(t *testing.T) {
	m := busy(t)
	m.notice = strings.Repeat("a long notice ", 40)
	for w := 1; w < 100; w += 7 {
		for h := 1; h < 30; h += 3 {
			m.tell(tea.WindowSizeMsg{Width: w, Height: h})
			rows := strings.Split(m.View(), "\n")
			if len(rows) != h {
				t.Fatalf("%dx%d: %d rows", w, h, len(rows))
			}
			for _, row := range rows {
				if w >= 10 && ansi.StringWidth(row) > w {
					t.Fatalf("%dx%d: a row of %d: %q", w, h, ansi.StringWidth(row), row)
				}
			}
		}
	}
}

func TestGroupView(t *testing.T) {
	m := busy(t)
	m.press("tab")
	m.tell(grouped{&messages.Group{Conversation: team, Name: "team", Members: []*messages.Member{
		{User: "ana", Role: "owner"}, {User: "bo", Role: "member"}, {User: "cy", Role: "member"},
	}}})
	m.press("tab")
	created := said(team, 1, "ana", "")
	created.Kind = &messages.Entry_Event{Event: &messages.Event{Kind: "created", By: "ana", Name: "team", Users: []string{"ana", "bo"}}}
	added := said(team, 2, "ana", "")
	added.Kind = &messages.Entry_Event{Event: &messages.Event{Kind: "added", By: "ana", Users: []string{"cy"}}}
	m.tell(
		paged{room: team, page: &messages.Page{Conversation: team, Entries: []*messages.Entry{
			created, added, said(team, 3, "ana", "all read"), said(team, 4, "ana", "not all"), said(team, 5, "ana", "cy has none"),
		}}},
		&messages.Receipt{Conversation: team, User: "bo", Delivered: 5, Read: 4},
		&messages.Receipt{Conversation: team, User: "cy", Delivered: 4, Read: 3},
	)
	m.wantView(t, "group")
}

func TestUnreadIsCountedOnce(t *testing.T) {
	m := busy(t)
	cy := m.book.rooms[withCy]
	if cy.unread != 1 {
		t.Fatalf("%d unread, want 1", cy.unread)
	}
	m.tell(
		said(withCy, 2, "cy", "ping"), // repeated
		of(withCy, 3, "cy", client.React(client.In(withCy), 1, "x")),
		said(withCy, 4, "ana", "pong"),
		said(team, 9, "cy", "was in the list already"),
		said(team, 10, "cy", "new"),
	)
	if n := len(cy.entries); n != 2 {
		t.Errorf("%d entries are shown, want 2: one came twice", n)
	}
	if cy.unread != 1 || m.book.rooms[team].unread != 5 {
		t.Errorf("unread %d and %d, want 1 and 5", cy.unread, m.book.rooms[team].unread)
	}
	m.press("tab", "tab")
	if cy.unread != 0 || m.book.rooms[team].unread != 0 {
		t.Error("opening a room left its unread count")
	}
}

func TestOwnTextIsShownWhileItIsQueued(t *testing.T) {
	m := busy(t)
	out, err := m.client.Send(client.Text(client.In(withBo), "on its way"))
	if err != nil {
		t.Fatal(err)
	}
	m.tell(executed{withBo, outcome{sent: out}, nil})
	if v := m.View(); !strings.Contains(v, "on its way ·") {
		t.Errorf("not shown as queued:\n%s", v)
	}
	if at := m.book.placeOf(m.room()); at.own != 0 {
		t.Errorf("/edit would change #%d, not the text that is on its way", at.own)
	}
	m.tell(settled{withBo, out, messages.Fail(messages.CodeForbidden, "blocked")})
	if v := m.View(); !strings.Contains(v, "on its way ! forbidden: blocked") {
		t.Errorf("not shown as failed:\n%s", v)
	}
	m.press("esc")
	if v := m.View(); strings.Contains(v, "on its way") {
		t.Errorf("Esc left it:\n%s", v)
	}
	again, err := m.client.Send(client.Text(client.In(withBo), "once"))
	if err != nil {
		t.Fatal(err)
	}
	m.tell(executed{withBo, outcome{sent: again}, nil})
	e := said(withBo, 1601, "ana", "once")
	e.ClientId = string(again.ClientID())
	m.tell(e, settled{withBo, again, nil})
	if v := m.View(); strings.Count(v, "once") != 1 || !strings.Contains(v, "once ✓") {
		t.Errorf("want it once, as sent:\n%s", v)
	}
}

func TestUpEditsTheLast(t *testing.T) {
	m := busy(t)
	m.press("up")
	if m.input.String() != "and tomorrow?" || m.editing != 9 {
		t.Fatalf("input %q, editing %d", m.input.String(), m.editing)
	}
	m.press("esc", "x", "up")
	if m.input.String() != "x" {
		t.Error("Up overwrote what was typed")
	}
}

func TestScrollingAsksForEarlierEntries(t *testing.T) {
	m := busy(t)
	for i := range uint64(100) {
		m.tell(said(withBo, 2000+i, "bo", "more"))
	}
	_, cmd := m.Update(tea.KeyMsg{Type: tea.KeyPgUp})
	if cmd != nil || m.scroll != m.bodyHeight() {
		t.Errorf("scrolled %d, want a page and no question", m.scroll)
	}
	m.tell(said(withBo, 2100, "bo", "below"))
	if m.scroll != m.bodyHeight()+1 {
		t.Error("a new entry moved what is looked at")
	}
	for cmd == nil && m.scroll < 200 {
		_, cmd = m.Update(tea.KeyMsg{Type: tea.KeyPgUp})
	}
	if cmd == nil || !m.fetching {
		t.Fatal("the beginning was reached and nothing asked for")
	}
	if _, again := m.Update(tea.KeyMsg{Type: tea.KeyPgUp}); again != nil {
		t.Error("asked twice")
	}
	m.tell(paged{room: withBo, older: true, page: &messages.Page{Conversation: withBo}})
	if m.fetching || m.room().more {
		t.Error("the answer that there is no more was not taken")
	}
}

func TestLeavingClosesTheRoom(t *testing.T) {
	m := busy(t)
	m.open = team
	e := said(team, 10, "bo", "")
	e.Kind = &messages.Entry_Event{Event: &messages.Event{Kind: "removed", By: "bo", Users: []string{"ana"}}}
	m.tell(e)
	if m.book.rooms[team] != nil || m.open == team {
		t.Error("the room is still there")
	}
}

func TestHostileTextCannotReachTheTerminal(t *testing.T) {
	m := busy(t)
	evil := "a\x1b[2J\x1b]0;title\x07\x9b31m\u202Eb\u2066c\r\x00\xff\td"
	m.tell(
		said(withBo, 3000, "bo\x1b[31m", evil),
		of(withBo, 3001, "bo", client.React(client.In(withBo), 3000, evil)),
		&messages.Typing{Conversation: withBo, User: evil, Active: true},
		grouped{&messages.Group{Conversation: team, Name: evil}},
		failed{messages.Fail(messages.CodeInternal, "%s", evil)},
	)
	for _, r := range m.View() {
		if r != '\n' && (r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || isReordering(r)) {
			t.Fatalf("%U is on the screen:\n%q", r, m.View())
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("plain")
	f.Add("\x1b[31mred\u202E\x9b")
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range clean(s) {
			if r != '\n' && drawable(r) != r {
				t.Fatalf("%q has %U", clean(s), r)
			}
		}
		if strings.Contains(cleanLine(s), "\n") {
			t.Fatalf("%q is more than a line", cleanLine(s))
		}
	})
}

func TestEditor(t *testing.T) {
	m := desk(t)
	m.press("wörld", "home", "hello ", "ctrl+w", "a", "👍🏽", "left", "backspace")
	if got := m.input.String(); got != "👍🏽wörld" {
		t.Errorf("got %q", got)
	}
	m.input.set(strings.Repeat("long ", 100))
	if v := m.input.view(20, func(s string) string { return s }); ansi.StringWidth(v) > 20 {
		t.Errorf("%d columns: %q", ansi.StringWidth(v), v)
	}
	m.input.move(-250)
	if v := m.input.view(20, func(s string) string { return s }); ansi.StringWidth(v) > 20 || ansi.StringWidth(v) < 18 {
		t.Errorf("%d columns: %q", ansi.StringWidth(v), v)
	}
}

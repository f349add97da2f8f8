package chat

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/x/ansi"

	"github.com/troupe-chat/troupe/messages"
)

const (
	narrow   = 50 // columns; below this the list of rooms is not shown
	mostList = 24
	divider  = "│"
	indent   = "  "
)

// styles are the few looks of the screen, for light and dark terminals. On one
// without colours, or with NO_COLOR, they change nothing: all that they say is
// said by signs too.
type styles struct {
	faint, strong, name, own, read, alarm, cursor lipgloss.Style
	color                                         bool
}

func newStyles(r *lipgloss.Renderer) styles {
	tint := func(light, dark string) lipgloss.Style {
		return r.NewStyle().Foreground(lipgloss.AdaptiveColor{Light: light, Dark: dark})
	}
	color := r.ColorProfile().Name() != "Ascii"
	return styles{
		faint:  tint("243", "245"),
		strong: r.NewStyle().Bold(true),
		name:   tint("25", "75"),
		own:    tint("28", "114"),
		read:   tint("26", "39"),
		alarm:  tint("124", "203"),
		cursor: r.NewStyle().Reverse(true),
		color:  color,
	}
}

// View draws the whole screen.
func (m *model) View() string {
	if m.width <= 0 || m.height <= 0 {
		return ""
	}
	right := m.right()
	if m.leftWidth() == 0 {
		return strings.Join(right, "\n")
	}
	left := m.left()
	rows := make([]string, m.height)
	for i := range rows {
		rows[i] = fit(at(left, i), m.leftWidth()) + m.style.faint.Render(divider) + at(right, i)
	}
	return strings.Join(rows, "\n")
}

func at(rows []string, i int) string {
	if i < len(rows) {
		return rows[i]
	}
	return ""
}

// fit makes s exactly width columns wide.
func fit(s string, width int) string {
	s = ansi.Truncate(s, width, "…")
	return s + strings.Repeat(" ", max(0, width-ansi.StringWidth(s)))
}

func (m *model) leftWidth() int {
	if m.width < narrow {
		return 0
	}
	return min(mostList, m.width/3)
}

func (m *model) rightWidth() int {
	if left := m.leftWidth(); left > 0 {
		return m.width - left - 1
	}
	return m.width
}

// bodyHeight is how many lines of entries are shown: what the title, the lines
// for typing, input and status leave, and the notice.
func (m *model) bodyHeight() int {
	return max(0, m.height-m.frame()-len(m.noticeLines()))
}

// frame is how many lines stand around the entries. On a very low screen the
// input is what stays.
func (m *model) frame() int { return max(1, min(4, m.height-1)) }

// ---- the list of rooms

func (m *model) left() []string {
	rooms := m.book.sorted()
	first := 0
	for i, r := range rooms {
		if r.id == m.open && i >= m.height-1 {
			first = i - m.height + 2
		}
	}
	out := []string{m.style.strong.Render(cleanLine(m.book.me))}
	for _, r := range rooms[first:] {
		out = append(out, m.listRow(r))
	}
	return out[:min(len(out), m.height)]
}

func (m *model) listRow(r *room) string {
	mark := " "
	if r.id == m.open {
		mark = "▸"
	}
	unread := ""
	if r.unread > 0 {
		unread = " (" + strconv.Itoa(r.unread) + ")"
	}
	width := m.leftWidth() - ansi.StringWidth(mark) - 2 - len(unread)
	name := fit(r.title(), width)
	if r.unread > 0 || r.id == m.open {
		name = m.style.strong.Render(name)
	}
	return mark + m.presence(r) + " " + name + unread
}

// presence is a dot for a user who is there, and a sign for a group.
func (m *model) presence(r *room) string {
	switch {
	case r.kind == messages.KindGroup:
		return "#"
	case m.book.online[r.peer]:
		return m.style.own.Render("●")
	}
	return m.style.faint.Render("○")
}

// ---- the open room

func (m *model) right() []string {
	width := m.rightWidth()
	input := m.inputLine(width)
	frame := m.frame()
	if frame == 1 {
		return append(m.body(width), input)
	}
	rows := append([]string{m.titleLine(width)}, m.body(width)...)
	if frame >= 4 {
		rows = append(rows, m.style.faint.Render(fit(m.typingLine(), width)))
	}
	rows = append(rows, input)
	if frame >= 3 {
		rows = append(rows, m.style.faint.Render(fit(m.statusLine(), width)))
	}
	return rows
}

func (m *model) titleLine(width int) string {
	r := m.room()
	if r == nil {
		return m.style.strong.Render(fit("Troupe", width))
	}
	title := r.title()
	switch {
	case r.kind == messages.KindGroup && len(r.members) > 0:
		title += fmt.Sprintf(" · %d members, %d online", len(r.members), m.present(r))
	case m.book.online[r.peer]:
		title += " · online"
	}
	return m.style.strong.Render(fit(title, width))
}

func (m *model) present(r *room) int {
	n := 0
	for _, member := range r.members {
		if m.book.online[member.User] || member.User == m.book.me && m.connected {
			n++
		}
	}
	return n
}

func (m *model) typingLine() string {
	r := m.room()
	if r == nil || len(r.typing) == 0 {
		return ""
	}
	names := slices.Sorted(maps.Keys(r.typing))
	if len(names) > 3 {
		return "several people are typing…"
	}
	verb := " is typing…"
	if len(names) > 1 {
		verb = " are typing…"
	}
	return cleanLine(strings.Join(names, ", ")) + verb
}

func (m *model) inputLine(width int) string {
	prompt := "> "
	if m.editing != 0 {
		prompt = "edit> "
	}
	return prompt + m.input.view(max(1, width-len(prompt)), func(s string) string { return m.style.cursor.Render(s) })
}

func (m *model) statusLine() string {
	if m.status != "" {
		return m.status
	}
	if m.leftWidth() == 0 {
		if n := m.elsewhere(); n > 0 {
			return fmt.Sprintf("%d unread elsewhere: Tab", n)
		}
	}
	return "/help"
}

// elsewhere counts the unread entries of the rooms that are not open.
func (m *model) elsewhere() int {
	n := 0
	for _, r := range m.book.rooms {
		if r.id != m.open {
			n += r.unread
		}
	}
	return n
}

// noticeLines is the answer to the last command, above the input. It takes at
// most the half of the screen.
func (m *model) noticeLines() []string {
	if m.notice == "" {
		return nil
	}
	rows := strings.Split(ansi.Wrap(m.notice, max(1, m.rightWidth()), ""), "\n")
	return rows[:min(len(rows), max(0, (m.height-m.frame())*3/4))]
}

// body returns exactly bodyHeight lines, and the notice below them.
func (m *model) body(width int) []string {
	height := m.bodyHeight()
	var all []string
	if r := m.room(); r != nil {
		all = m.lines(r, width)
	} else {
		all = []string{"", m.style.faint.Render(fit("/to NAME begins a conversation.", width))}
	}
	end := max(0, len(all)-m.scroll)
	shown := all[max(0, end-height):end]
	rows := make([]string, max(0, height-len(shown)), m.height)
	rows = append(rows, shown...)
	style := m.style.faint
	if strings.HasPrefix(m.notice, "!") {
		style = m.style.alarm
	}
	for _, n := range m.noticeLines() {
		rows = append(rows, style.Render(fit(n, width)))
	}
	return rows
}

// lines draws a room: its entries, then what is on its way.
func (m *model) lines(r *room, width int) []string {
	var rows []string
	if r.more {
		rows = append(rows, m.style.faint.Render(fit("PageUp for earlier entries", width)))
	}
	day := ""
	for _, e := range r.entries {
		when := time.UnixMilli(e.At).In(m.zone)
		if d := when.Format("Mon 2 Jan 2006"); d != day {
			day = d
			rows = append(rows, m.style.faint.Render(fit("── "+d+" ──", width)))
		}
		rows = append(rows, m.entryLines(r, e, when, width)...)
	}
	for _, out := range r.pending {
		rows = append(rows, m.pendingLines(r.failed[out], clean(out.Send().GetText().GetBody()), width)...)
	}
	return rows
}

func (m *model) entryLines(r *room, e *messages.Entry, when time.Time, width int) []string {
	head := m.style.faint.Render(when.Format("15:04")) + " "
	if m.numbers {
		head += m.style.faint.Render("#"+strconv.FormatUint(e.Seq, 10)) + " "
	}
	body, edited, retracted := r.text(e)
	switch {
	case e.GetEvent() != nil:
		return wrap(head+m.style.faint.Render("* "+body), width)
	case retracted:
		return wrap(head+m.who(e.From)+m.style.faint.Render("(retracted)"), width)
	case edited:
		body += m.style.faint.Render(" (edited)")
	}
	rows := m.quote(r, e.ReplyTo, width)
	rows = append(rows, wrap(head+m.who(e.From)+body+m.ticks(r, e), width)...)
	if reactions := tally(r.reactions[e.Seq]); reactions != "" {
		rows = append(rows, wrap(indent+m.style.faint.Render(reactions), width)...)
	}
	return rows
}

func (m *model) who(user string) string {
	style := m.style.name
	if user == m.book.me {
		style = m.style.own
	}
	return style.Render(cleanLine(user)) + ": "
}

// ticks tells how far an own entry has come.
func (m *model) ticks(r *room, e *messages.Entry) string {
	if e.From != m.book.me {
		return ""
	}
	switch m.book.status(r, e.Seq) {
	case "read":
		if m.style.color {
			return " " + m.style.read.Render("✓✓")
		}
		return " ✔✔"
	case "delivered":
		return m.style.faint.Render(" ✓✓")
	}
	return m.style.faint.Render(" ✓")
}

func (m *model) pendingLines(err error, body string, width int) []string {
	sign := m.style.faint.Render(" ·")
	if err != nil {
		sign = m.style.alarm.Render(" ! " + cleanLine(err.Error()))
	}
	return wrap("      "+m.who(m.book.me)+body+sign, width)
}

// quote draws the beginning of the entry that is answered.
func (m *model) quote(r *room, seq uint64, width int) []string {
	if seq == 0 {
		return nil
	}
	text := "#" + strconv.FormatUint(seq, 10)
	if e := r.entry(seq); e != nil {
		body, _, retracted := r.text(e)
		if retracted {
			body = "(retracted)"
		}
		text = cleanLine(e.From) + ": " + cleanLine(body)
	}
	return []string{m.style.faint.Render(ansi.Truncate(indent+"┃ "+text, width, "…"))}
}

// tally counts reactions, the most frequent first.
func tally(by map[string]change) string {
	counts := map[string]int{}
	for _, c := range by {
		if c.text != "" {
			counts[c.text]++
		}
	}
	emoji := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		if counts[a] != counts[b] {
			return counts[b] - counts[a]
		}
		return strings.Compare(a, b)
	})
	for i, e := range emoji {
		emoji[i] = e + " " + strconv.Itoa(counts[e])
	}
	return strings.Join(emoji, "  ")
}

// wrap breaks a line at width; what follows the first is indented.
func wrap(s string, width int) []string {
	inner := max(1, width-len(indent))
	rows := strings.Split(ansi.Wrap(s, inner, ""), "\n")
	for i := 1; i < len(rows); i++ {
		rows[i] = indent + rows[i]
	}
	return rows
}

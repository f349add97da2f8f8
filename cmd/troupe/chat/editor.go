package chat

import (
	"strings"

	"github.com/rivo/uniseg"
)

// editor is a line of input. It moves and deletes by what a person sees as one
// character.
type editor struct {
	clusters []string
	at       int // the cursor is before clusters[at]
}

func (e *editor) String() string { return strings.Join(e.clusters, "") }

func (e *editor) empty() bool { return len(e.clusters) == 0 }

func (e *editor) set(s string) {
	e.clusters = split(s)
	e.at = len(e.clusters)
}

// insert puts s at the cursor. It may join with what is there into one
// character, so both sides are split again.
func (e *editor) insert(s string) {
	before := split(strings.Join(e.clusters[:e.at], "") + s)
	after := strings.Join(e.clusters[e.at:], "")
	e.at = len(before)
	e.clusters = split(strings.Join(before, "") + after)
	e.at = min(e.at, len(e.clusters))
}

func (e *editor) move(by int) { e.at = max(0, min(len(e.clusters), e.at+by)) }

func (e *editor) backspace() {
	if e.at > 0 {
		e.at--
		e.delete()
	}
}

func (e *editor) delete() {
	if e.at < len(e.clusters) {
		e.clusters = append(e.clusters[:e.at:e.at], e.clusters[e.at+1:]...)
	}
}

// deleteWord deletes back to the beginning of a word.
func (e *editor) deleteWord() {
	for e.at > 0 && e.clusters[e.at-1] == " " {
		e.backspace()
	}
	for e.at > 0 && e.clusters[e.at-1] != " " {
		e.backspace()
	}
}

// deleteBefore deletes everything before the cursor.
func (e *editor) deleteBefore() {
	e.clusters = append([]string(nil), e.clusters[e.at:]...)
	e.at = 0
}

// view returns the part around the cursor that fits in width columns, with the
// cursor marked by mark. Line ends are shown as a sign.
func (e *editor) view(width int, mark func(string) string) string {
	under := " "
	if e.at < len(e.clusters) {
		under = visible(e.clusters[e.at])
	}
	room := max(0, width-uniseg.StringWidth(under))
	from := e.at
	for from > 0 && uniseg.StringWidth(visible(e.clusters[from-1])) <= room {
		from--
		room -= uniseg.StringWidth(visible(e.clusters[from]))
	}
	to := min(e.at+1, len(e.clusters))
	for to < len(e.clusters) && uniseg.StringWidth(visible(e.clusters[to])) <= room {
		room -= uniseg.StringWidth(visible(e.clusters[to]))
		to++
	}
	left, right := visible(strings.Join(e.clusters[from:e.at], "")), ""
	if e.at+1 < to {
		right = visible(strings.Join(e.clusters[e.at+1:to], ""))
	}
	return left + mark(under) + right
}

func visible(s string) string { return strings.ReplaceAll(s, "\n", "⏎") }

func split(s string) []string {
	var out []string
	for g := uniseg.NewGraphemes(s); g.Next(); {
		out = append(out, g.Str())
	}
	return out
}

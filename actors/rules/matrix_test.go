package rules

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

// The entries of a matrix group: who wrote what there.
const (
	byOwner  = 4
	byAdmin  = 5
	byMember = 6
)

// ownEntry is the text that each user of a matrix group wrote.
var ownEntry = map[string]uint64{"own": byOwner, "adm": byAdmin, "mem": byMember, "old": 3, "out": byMember}

// matrixActions is what is tried, by name: a command of user u.
var matrixActions = []struct {
	name  string
	frame func(u string) *messages.ClientFrame
}{
	{"send", func(string) *messages.ClientFrame { return textFrame("x", "hi") }},
	{"react", func(string) *messages.ClientFrame { return reactFrame("x", byOwner, "+1") }},
	{"edit own", func(u string) *messages.ClientFrame { return editFrame("x", ownEntry[u], "hi") }},
	{"edit other's", func(u string) *messages.ClientFrame { return editFrame("x", othersEntry(u), "hi") }},
	{"retract own", func(u string) *messages.ClientFrame { return retractFrame("x", ownEntry[u]) }},
	{"retract other's", func(u string) *messages.ClientFrame { return retractFrame("x", othersEntry(u)) }},
	{"add", change(&messages.ChangeGroup{Add: []string{"new"}})},
	{"add present", change(&messages.ChangeGroup{Add: []string{"mem2"}})},
	{"remove member", change(&messages.ChangeGroup{Remove: []string{"mem2"}})},
	{"remove admin", change(&messages.ChangeGroup{Remove: []string{"adm2"}})},
	{"remove owner", change(&messages.ChangeGroup{Remove: []string{"own"}})},
	{"remove stranger", change(&messages.ChangeGroup{Remove: []string{"out"}})},
	{"rename", change(&messages.ChangeGroup{Name: "other"})},
	{"promote", change(&messages.ChangeGroup{Promote: []string{"mem2"}})},
	{"promote admin", change(&messages.ChangeGroup{Promote: []string{"adm2"}})},
	{"demote", change(&messages.ChangeGroup{Demote: []string{"adm2"}})},
	{"demote member", change(&messages.ChangeGroup{Demote: []string{"mem2"}})},
	{"demote owner", change(&messages.ChangeGroup{Demote: []string{"own"}})},
	{"leave", change(&messages.ChangeGroup{Leave: true})},
}

func change(c *messages.ChangeGroup) func(string) *messages.ClientFrame {
	return func(string) *messages.ClientFrame {
		c.ClientId = "x"
		return changeFrame(proto.CloneOf(c))
	}
}

func othersEntry(u string) uint64 {
	if u == "mem" {
		return byOwner
	}
	return byMember
}

// matrixWorld makes the group in which a cell is tried.
func matrixWorld(t *testing.T) *world {
	t.Helper()
	create := createFrame(&messages.CreateGroup{
		ClientId: "g", Name: "team", Members: []string{"adm", "adm2", "mem", "mem2", "old"},
	})
	id, _ := ConversationOf("own", create)
	w := newWorld(id)
	steps := []struct {
		user  messages.UserID
		frame *messages.ClientFrame
	}{
		{"own", create},
		{"own", changeFrame(&messages.ChangeGroup{ClientId: "1", Promote: []string{"adm", "adm2"}})},
		{"old", textFrame("1", "hi")},
		{"own", textFrame("2", "hi")},
		{"adm", textFrame("1", "hi")},
		{"mem", textFrame("1", "hi")},
		{"own", changeFrame(&messages.ChangeGroup{ClientId: "3", Remove: []string{"old"}})},
	}
	for _, step := range steps {
		if _, f := w.do(step.user, about(step.frame, id)); f != nil {
			t.Fatal(f)
		}
	}
	return w
}

// matrix tries every action as every role.
func matrix(t *testing.T) string {
	users := []string{"own", "adm", "mem", "old", "out"}
	var b strings.Builder
	row := func(name string, cells []string) {
		fmt.Fprintf(&b, "%-15s", name)
		for _, cell := range cells {
			fmt.Fprintf(&b, " | %-9s", cell)
		}
		b.WriteString("\n")
	}
	row("as", users)
	for _, action := range matrixActions {
		var cells []string
		for _, u := range users {
			cells = append(cells, try(matrixWorld(t), u, action.frame(u)))
		}
		row(action.name, cells)
	}
	for _, name := range otherCommands {
		var cells []string
		for _, u := range users {
			cells = append(cells, try(matrixWorld(t), u, otherFrame(name, byOwner)))
		}
		row(name, cells)
	}
	return b.String()
}

func try(w *world, u string, frame *messages.ClientFrame) string {
	d, f := w.do(messages.UserID(u), about(frame, w.state.id))
	switch {
	case f != nil:
		return f.Code
	case len(d.Entries) == 0:
		return "-"
	}
	return "ok"
}

package rules

import (
	"slices"
	"testing"

	"github.com/troupe-chat/troupe/messages"
)

// erase does a command in the name of a deleted user.
func (w *world) erase(u messages.UserID, frame *messages.ClientFrame) *messages.Failure {
	c := Command{User: u, Frame: frame, Erase: true}
	d, f := w.state.Decide(c, w.know(u, w.state.Needs(c)), w.limits, w.now)
	for _, e := range d.Entries {
		w.append(e, d.Hash)
	}
	return f
}

func codeOf(f *messages.Failure) string {
	if f == nil {
		return ""
	}
	return f.Code
}

// team is a group of ana, who owns it, bo and cy, in which bo has written a
// text (2) and an upload (3), and cy a text (4).
func team(t *testing.T) *world {
	t.Helper()
	w := newWorld(messages.NewGroup("ana", "g"))
	w.uploads["m"] = true
	id := w.state.id
	for _, c := range []struct {
		user  messages.UserID
		frame *messages.ClientFrame
	}{
		{"ana", createFrame(&messages.CreateGroup{ClientId: "g", Name: "team", Members: []string{"bo", "cy"}})},
		{"bo", textFrame("erase-2", "mine")},
		{"bo", mediaFrame("erase-3", "m", "mine")},
		{"cy", textFrame("a", "not bo's")},
	} {
		if _, f := w.do(c.user, about(c.frame, id)); f != nil {
			t.Fatal(f)
		}
	}
	return w
}

func leaveFrame() *messages.ClientFrame {
	return changeFrame(&messages.ChangeGroup{Leave: true})
}

func TestEraseRetractsOnlyOnesOwn(t *testing.T) {
	w := team(t)
	for _, c := range []struct {
		frame *messages.ClientFrame
		want  string
	}{
		{retractFrame("", 2), ""},
		{retractFrame("", 2), messages.CodeConflict}, // done
		{retractFrame("", 3), ""},
		{retractFrame("", 4), messages.CodeNotFound}, // cy's
		{retractFrame("", 1), messages.CodeNotFound}, // ana's, an event
		{retractFrame("", 5), messages.CodeNotFound}, // bo's, a retraction
		{retractFrame("", 99), messages.CodeNotFound},
		{textFrame("b", "more"), messages.CodeInvalid},
		{otherFrame("history", 0), messages.CodeInvalid},
	} {
		if got := codeOf(w.erase("bo", c.frame)); got != c.want {
			t.Errorf("%v: %q, want %q", c.frame, got, c.want)
		}
	}
	if got := len(w.log); got != 6 {
		t.Errorf("%d entries, want 6", got)
	}
	for _, e := range w.log[4:] {
		if e.From != "bo" || e.ClientId != "" || e.GetRetract() == nil {
			t.Errorf("erased by %s", show(e))
		}
	}
}

func TestEraseAfterMembershipRatesAndBlocks(t *testing.T) {
	w := team(t)
	if _, f := w.do("ana", about(changeFrame(&messages.ChangeGroup{ClientId: "r", Remove: []string{"bo"}}), w.state.id)); f != nil {
		t.Fatal(f)
	}
	if _, f := w.do("bo", about(retractFrame("c", 2), w.state.id)); codeOf(f) != messages.CodeNotFound {
		t.Errorf("a former member's own command: %v", f)
	}
	if f := w.erase("bo", retractFrame("", 2)); f != nil {
		t.Errorf("a former member: %v", f)
	}
	if to := w.effects[len(w.effects)-1].Recipients; !slices.Equal(to, []messages.UserID{"ana", "cy"}) {
		t.Errorf("the retraction is due to %q", to)
	}

	d := newWorld(messages.Direct("ana", "bo"))
	if _, f := d.do("bo", about(textFrame("a", "hi"), d.state.id)); f != nil {
		t.Fatal(f)
	}
	d.blocked, d.over = true, 1000
	if f := d.erase("bo", retractFrame("", 1)); f != nil {
		t.Errorf("with a block: %v", f)
	}
	if f := d.erase("bo", leaveFrame()); codeOf(f) != messages.CodeNotFound {
		t.Errorf("leaving a direct conversation: %v", f)
	}
}

func TestEraseLeaves(t *testing.T) {
	w := team(t)
	if f := w.erase("ana", leaveFrame()); f != nil {
		t.Fatal(f)
	}
	if m, _ := w.state.Member("bo"); m.Role != RoleOwner {
		t.Errorf("bo is %q, want the owner", m.Role)
	}
	if f := w.erase("ana", leaveFrame()); codeOf(f) != messages.CodeNotFound {
		t.Errorf("leaving again: %v", f)
	}
	for _, u := range []messages.UserID{"bo", "cy"} {
		if f := w.erase(u, leaveFrame()); f != nil {
			t.Fatal(f)
		}
	}
	if f := w.erase("bo", retractFrame("", 2)); f != nil || !w.state.Ended() {
		t.Errorf("in a group that has ended: %v", f)
	}
}

package rules

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/troupe-chat/troupe/messages"
)

var people = []string{"abe", "ana", "bo", "cy", "dee"}

// walk is a world under random commands, with what it must hold to.
type walk struct {
	*world
	most int // members there have ever been
}

// Every promise holds after every step, whatever is asked in whatever order:
// density, order, one entry for one client id, views, roles, counts, and a
// state that is the same however it came about.
func TestGroupProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		create := createFrame(&messages.CreateGroup{
			ClientId: "g", Name: "team", Members: somePeople(t),
			History: rapid.SampledFrom([]string{"", HistoryJoined, HistoryAll}).Draw(t, "history"),
		})
		id, _ := ConversationOf("ana", create)
		w := &walk{world: newWorld(id)}
		w.limits.GroupMembers = 4
		w.attempt(t, "ana", create)
		w.repeat(t, create)
	})
}

func TestDirectProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &walk{world: newWorld("d:ana~bo"), most: 2}
		w.repeat(t, createFrame(&messages.CreateGroup{ClientId: "g", Name: "team"}))
	})
}

func (w *walk) repeat(t *rapid.T, create *messages.ClientFrame) {
	w.uploads["m"] = true
	w.limits.TextBytes = 4
	t.Repeat(map[string]func(*rapid.T){
		"send":   func(t *rapid.T) { w.attempt(t, person(t), sendFrame(someSend(t, len(w.log)))) },
		"text":   func(t *rapid.T) { w.attempt(t, person(t), textFrame(fmt.Sprint("t", len(w.log)), "hi")) },
		"change": func(t *rapid.T) { w.attempt(t, person(t), changeFrame(someChange(t))) },
		"create": func(t *rapid.T) { w.attempt(t, person(t), proto.CloneOf(create)) },
		"other": func(t *rapid.T) {
			frame := otherFrame(rapid.SampledFrom(otherCommands).Draw(t, "command"), someSeq(t, len(w.log)))
			w.attempt(t, person(t), frame)
		},
		"read": func(t *rapid.T) {
			u, seq := messages.UserID(person(t)), messages.Seq(someSeq(t, len(w.log)))
			w.reads[u] = max(w.reads[u], min(seq, w.state.Head().Seq))
		},
		"receive": w.receive,
		"world": func(t *rapid.T) {
			w.blocked = rapid.Bool().Draw(t, "blocked")
			w.unknown["dee"] = rapid.Bool().Draw(t, "dee is unknown")
			w.now += int64(rapid.IntRange(-5, 20).Draw(t, "hours")) * 3600_000
			w.over = int64(rapid.IntRange(0, 1).Draw(t, "over"))
		},
		"restart": func(t *rapid.T) {
			if err := w.restart(); err != nil {
				t.Fatal(err)
			}
			w.state.Recall(w.log)
		},
		"": w.check,
	})
}

func person(t *rapid.T) string { return rapid.SampledFrom(people).Draw(t, "user") }

func somePeople(t *rapid.T) []string {
	return rapid.SliceOfN(rapid.SampledFrom(people), 0, 3).Draw(t, "users")
}

func someSeq(t *rapid.T, head int) uint64 {
	return uint64(rapid.IntRange(0, head+2).Draw(t, "seq"))
}

func someSend(t *rapid.T, head int) *messages.Send {
	id := rapid.StringMatching(`[abc][0-9]?| |`).Draw(t, "id")
	body := rapid.StringMatching(`[hi]{0,5}`).Draw(t, "body")
	seq := someSeq(t, head)
	frames := []*messages.ClientFrame{
		textFrame(id, body), mediaFrame(id, "m", body), mediaFrame(id, "n", body),
		editFrame(id, seq, body), retractFrame(id, seq), reactFrame(id, seq, body),
	}
	send := rapid.SampledFrom(frames).Draw(t, "frame").GetSend()
	if rapid.IntRange(0, 4).Draw(t, "reply") == 0 {
		send.ReplyTo = seq
	}
	return send
}

func someChange(t *rapid.T) *messages.ChangeGroup {
	c := &messages.ChangeGroup{ClientId: rapid.StringMatching(`[abc][0-9]?`).Draw(t, "id")}
	fields := []*[]string{&c.Add, &c.Add, &c.Remove, &c.Promote, &c.Demote}
	*rapid.SampledFrom(fields).Draw(t, "field") = somePeople(t)
	if rapid.Bool().Draw(t, "combined") {
		*rapid.SampledFrom(fields).Draw(t, "field") = somePeople(t)
	}
	c.Leave = rapid.IntRange(0, 9).Draw(t, "leave") == 0
	c.Name = rapid.SampledFrom([]string{"", "", "team", "crew"}).Draw(t, "name")
	return c
}

// attempt does a command and checks that what it led to is what it may lead
// to.
func (w *walk) attempt(t *rapid.T, user string, frame *messages.ClientFrame) {
	u := messages.UserID(user)
	head, before := w.state.Head(), fingerprint(w.state)
	isCreate := frame.GetCreateGroup() != nil
	_, member := w.state.Member(u)
	about(frame, w.state.id)
	d, f := w.do(u, frame)
	switch {
	case f != nil || d.Duplicate != nil:
		if before != fingerprint(w.state) {
			t.Fatalf("a refused or repeated command changed the state: %v", f)
		}
	case !member && (!isCreate || head.Seq > 0):
		t.Fatalf("%s is no member and was answered", u)
	case frame.GetSend() != nil && len(d.Entries) != 1:
		t.Fatalf("a send led to %d entries", len(d.Entries))
	}
	if f != nil && (!member && f.Code != messages.CodeNotFound && !isCreate) {
		t.Fatalf("%s is no member and was told %v", u, f)
	}
	if f != nil && f.Code == messages.CodeInternal {
		t.Fatal(f)
	}
	w.most = max(w.most, len(w.state.Members()))
}

// receive moves a cursor and checks whom that is told to, against the log.
func (w *walk) receive(t *rapid.T) {
	u := messages.UserID(person(t))
	was, head := w.receipts.Cursor(u), w.state.Head().Seq
	delivered, read := messages.Seq(someSeq(t, len(w.log))), messages.Seq(someSeq(t, len(w.log)))
	m, moved := w.receipts.Move(u, delivered, read, head)
	now := w.receipts.Cursor(u)
	if now.Read < was.Read || now.Delivered < was.Delivered || now.Read > now.Delivered || now.Delivered > head {
		t.Fatalf("cursor of %s from %v to %v, head %d", u, was, now, head)
	}
	if now.Read < min(read, head) || now.Delivered < min(delivered, head) || moved != (now != was) {
		t.Fatalf("moving %s to %d, %d gave %v (%t)", u, delivered, read, now, moved)
	}
	var want []messages.UserID
	for _, e := range w.log {
		seq, author := messages.Seq(e.Seq), messages.UserID(e.From)
		newly := seq > was.Delivered && seq <= now.Delivered || seq > was.Read && seq <= now.Read
		if newly && author != u && !slices.Contains(want, author) {
			want = append(want, author)
		}
	}
	slices.Sort(want)
	if moved && !slices.Equal(want, w.receipts.Authors(m)) {
		t.Fatalf("%s from %v to %v is told to %v, expected %v", u, was, now, w.receipts.Authors(m), want)
	}
	if after, upTo := w.receipts.Missing(m); moved && after != upTo {
		t.Fatalf("%d–%d are missing from a short log", after, upTo)
	}
}

func (w *walk) check(t *rapid.T) {
	w.checkLog(t)
	w.checkViews(t)
	w.checkCounts(t)
	w.checkRoles(t)
	w.checkStates(t)
}

func (w *walk) checkLog(t *rapid.T) {
	at, ids := int64(0), map[string]bool{}
	for i, e := range w.log {
		if e.Seq != uint64(i+1) || e.At < at || e.Conversation != string(w.state.id) || e.Kind == nil {
			t.Fatalf("entry %d: %v", i+1, e)
		}
		at = e.At
		if id := e.From + " " + e.ClientId; e.ClientId != "" && ids[id] {
			t.Fatalf("two entries with the id %s", id)
		} else {
			ids[id] = true
		}
	}
}

// checkViews compares whom each entry was due to with the intervals.
func (w *walk) checkViews(t *rapid.T) {
	for i, fx := range w.effects {
		seq := messages.Seq(i + 1)
		for _, name := range people {
			u := messages.UserID(name)
			if due := slices.Contains(fx.Recipients, u); due != w.due(u, seq) {
				t.Fatalf("entry %d due to %s: %t, intervals %v", seq, u, due, w.intervals[u])
			}
		}
	}
	for u, intervals := range w.intervals {
		last := intervals[len(intervals)-1]
		m, member := w.state.Member(u)
		if member != (last.Ended == 0) || member && (m.Joined != last.Joined || m.From != last.From) {
			t.Fatalf("%s is %v (%t) with intervals %v", u, m, member, intervals)
		}
		for i := 1; i < len(intervals); i++ {
			if intervals[i-1].Ended == 0 || intervals[i].Joined <= intervals[i-1].Ended {
				t.Fatalf("%s has overlapping intervals %v", u, intervals)
			}
		}
	}
}

func (w *walk) checkCounts(t *rapid.T) {
	head := w.state.Head()
	if n := w.countables(0, head.Seq, anyone); n != head.Countable {
		t.Fatalf("%d countable entries counted as %d", n, head.Countable)
	}
	for _, name := range people {
		u := messages.UserID(name)
		if n := w.countables(w.reads[u], head.Seq, anyone); n != w.unread(u) {
			t.Fatalf("%s has %d unread, counted as %d", u, n, w.unread(u))
		}
	}
	for i, fx := range w.effects {
		e := w.log[i]
		others := func(from string) bool { return from != e.From }
		read := fx.OthersBefore
		if n := w.countables(read, messages.Seq(e.Seq), others); n != 0 {
			t.Fatalf("entry %d: %d of others after %d", e.Seq, n, read)
		}
		if read > 0 && w.countables(read-1, read, others) != 1 {
			t.Fatalf("entry %d: %d is not a countable entry of others", e.Seq, read)
		}
	}
}

func (w *walk) checkRoles(t *rapid.T) {
	if w.state.direct || !w.state.Exists() {
		return
	}
	owners := 0
	for _, m := range w.state.Group().Members {
		if m.Role == RoleOwner {
			owners++
		}
	}
	if w.state.Ended() != (owners == 0) || owners > 1 || w.most > int(w.limits.GroupMembers) {
		t.Fatalf("%d owners, %d members, at most %d", owners, len(w.state.Members()), w.most)
	}
}

// checkStates restores the state at every event and applies the tail, and
// compares.
func (w *walk) checkStates(t *rapid.T) {
	want, replayed := fingerprint(w.state), New(w.state.id)
	for i, e := range w.log {
		replayed.Apply(e)
		if !w.effects[i].Membership && i != len(w.log)-1 {
			continue
		}
		restored, err := Restore(w.state.id, replayed.Head(), replayed.Snapshot())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range w.log[i+1:] {
			restored.Apply(e)
		}
		if got := fingerprint(restored); got != want {
			t.Fatalf("restored at %d:\n%s\nexpected\n%s", i+1, got, want)
		}
	}
	if got := fingerprint(replayed); got != want {
		t.Fatalf("replayed:\n%s\nexpected\n%s", got, want)
	}
}

// fingerprint renders all that decisions rest on, but for what a state only
// remembers.
func fingerprint(s *State) string {
	out := fmt.Sprint(s.head, s.name, s.history, s.created, s.large, s.members, s.direct)
	for _, u := range s.members {
		m, _ := s.Member(u)
		out += fmt.Sprint(" ", u, m)
	}
	return out
}

// Authors' own reads move on sending exactly where nothing of others lies
// between, by the slow count.
func TestReadAfterSend(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld("d:ana~bo")
		read := messages.Seq(0)
		for i := range rapid.IntRange(1, 30).Draw(t, "entries") {
			u := messages.UserID(rapid.SampledFrom([]string{"ana", "bo"}).Draw(t, "user"))
			frame := textFrame(fmt.Sprint(i), "hi")
			if i > 0 && rapid.Bool().Draw(t, "reaction") {
				frame = reactFrame(fmt.Sprint(i), 1, "+1")
			}
			if rapid.IntRange(0, 3).Draw(t, "read") == 0 {
				read = max(read, messages.Seq(rapid.IntRange(0, i).Draw(t, "upTo")))
			}
			if _, f := w.do(u, about(frame, w.state.id)); f != nil {
				t.Fatal(f)
			}
			if u != "ana" {
				continue
			}
			seq := w.state.Head().Seq
			between := w.countables(read, seq, func(from string) bool { return from != "ana" })
			now, moved := ReadAfterSend(read, w.effects[i].OthersBefore, seq)
			if moved != (between == 0) || moved && now != seq || !moved && now != read {
				t.Fatalf("read %d, sent %d with %d of others between: %d (%t)", read, seq, between, now, moved)
			}
			read = now
		}
	})
}

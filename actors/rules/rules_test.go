package rules

import (
	"fmt"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

// Rules are pure: no clock, no I/O, no chance and no concurrency can come in.
func TestImports(t *testing.T) {
	allowed := []string{
		"cmp", "fmt", "maps", "slices", "google.golang.org/protobuf/proto",
		"github.com/troupe-chat/troupe/messages",
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			if path, _ := strconv.Unquote(spec.Path.Value); !slices.Contains(allowed, path) {
				t.Errorf("%s imports %s", file, path)
			}
		}
	}
}

// Content hashes are stored: these must never change.
func TestContentHashIsStable(t *testing.T) {
	create := &messages.CreateGroup{ClientId: "c", Name: "team", Members: []string{"cy", "bo"}, History: "all"}
	change := &messages.ChangeGroup{Add: []string{"dee"}, Remove: []string{"bo"}, Promote: []string{"cy"}, Demote: []string{"eve"}, Name: "n", Leave: true}
	reply := textFrame("c", "hello")
	reply.GetSend().ReplyTo = 3
	for _, c := range []struct {
		frame *messages.ClientFrame
		hash  uint64
	}{
		{textFrame("c", "hello"), 0x5f3e0c1f90e504a2},
		{reply, 0x17f454493d3c20a5},
		{textFrame("c", "hello, hello, hello"), 0x164bd97f40c62a5a},
		{mediaFrame("c", "m", "hello"), 0x0210cb419d62573d},
		{editFrame("c", 1, "hello"), 0xe221f047e53f08f2},
		{retractFrame("c", 1), 0xf92e520b88028bda},
		{reactFrame("c", 1, "+1"), 0xd2ddca2c334e1f1c},
		{createFrame(create), 0x5c2965aa0bf4c6bb},
		{changeFrame(change), 0x41bfeaf9f82cde45},
		{otherFrame("ping", 0), 0},
	} {
		if got := ContentHash(Command{User: "ana", Frame: c.frame}); got != c.hash {
			t.Errorf("%v: %#x, expected %#x", c.frame, got, c.hash)
		}
	}
}

// Contents that differ anywhere hash differently; names of the same do not.
func TestContentHashTellsContents(t *testing.T) {
	frames := []*messages.ClientFrame{
		textFrame("c", ""), textFrame("c", "a"), textFrame("c", "a\x00"), textFrame("c", "aaaaaaaa"), textFrame("c", "aaaaaaaaa"),
		textFrame("c", "aaaaaaaa\x00"), mediaFrame("c", "a", ""), mediaFrame("c", "", "a"), mediaFrame("c", "ab", "c"),
		mediaFrame("c", "a", "bc"), editFrame("c", 1, "a"), editFrame("c", 2, "a"), retractFrame("c", 1), reactFrame("c", 1, ""),
		reactFrame("c", 1, "a"),
		changeFrame(&messages.ChangeGroup{Add: []string{"a"}}), changeFrame(&messages.ChangeGroup{Remove: []string{"a"}}),
		changeFrame(&messages.ChangeGroup{Add: []string{"a", "b"}}), changeFrame(&messages.ChangeGroup{Add: []string{"a"}, Remove: []string{"b"}}),
		changeFrame(&messages.ChangeGroup{Promote: []string{"a"}}), changeFrame(&messages.ChangeGroup{Demote: []string{"a"}}),
		changeFrame(&messages.ChangeGroup{Name: "a"}), changeFrame(&messages.ChangeGroup{Leave: true}),
		createFrame(&messages.CreateGroup{Name: "a"}), createFrame(&messages.CreateGroup{Name: "a", Members: []string{"a"}}),
		createFrame(&messages.CreateGroup{Name: "a", History: HistoryAll}), createFrame(&messages.CreateGroup{}),
	}
	seen := map[uint64]*messages.ClientFrame{}
	for _, f := range frames {
		h := ContentHash(Command{User: "ana", Frame: f})
		if other := seen[h]; other != nil {
			t.Errorf("%v and %v hash alike", f, other)
		}
		seen[h] = f
	}
	renamed := textFrame("d", "a")
	renamed.GetSend().Conversation, renamed.GetSend().User = "d:ana~bo", "bo"
	if ContentHash(Command{User: "ana", Frame: renamed}) != ContentHash(Command{User: "ana", Frame: frames[1]}) {
		t.Error("the hash depends on how the conversation is named or on the client id")
	}
}

// A group that has had more than 64 members leaves no marks ever after, and
// every member's interval says so from the event that made it so large.
func TestLargeGroupsLeaveNoMarks(t *testing.T) {
	var members []string
	for i := range messages.MarkedMembers - 1 {
		members = append(members, fmt.Sprintf("u%02d", i))
	}
	create := createFrame(&messages.CreateGroup{ClientId: "g", Name: "big", Members: members})
	id, _ := ConversationOf("ana", create)
	w := newWorld(id)
	must := func(frame *messages.ClientFrame) Effects {
		t.Helper()
		if _, f := w.do("ana", about(frame, id)); f != nil {
			t.Fatal(f)
		}
		return w.effects[len(w.effects)-1]
	}
	fx := must(create)
	if !w.state.Marked() || len(fx.Memberships) != messages.MarkedMembers || fx.Memberships[0].Unmarked {
		t.Fatalf("a group of %d: marked %t, %d intervals", len(w.state.Members()), w.state.Marked(), len(fx.Memberships))
	}
	fx = must(changeFrame(&messages.ChangeGroup{ClientId: "1", Add: []string{"zoe"}}))
	if w.state.Marked() || len(fx.Memberships) != messages.MarkedMembers+1 {
		t.Fatalf("a group of %d: marked %t, %d intervals", len(w.state.Members()), w.state.Marked(), len(fx.Memberships))
	}
	for u, rows := range w.intervals {
		if len(rows) != 1 || !rows[0].Unmarked {
			t.Errorf("%s: %v", u, rows)
		}
	}
	fx = must(changeFrame(&messages.ChangeGroup{ClientId: "2", Remove: members[:40]}))
	if i := fx.Memberships[0]; w.state.Marked() || !i.Unmarked || i.Ended != 3 || i.Joined != 1 {
		t.Errorf("after a removal: marked %t, %v", w.state.Marked(), i)
	}
	if err := w.restart(); err != nil {
		t.Fatal(err)
	}
	fx = must(changeFrame(&messages.ChangeGroup{ClientId: "3", Add: []string{"yan"}}))
	if w.state.Marked() || len(fx.Memberships) != 1 || !fx.Memberships[0].Unmarked {
		t.Errorf("after a restart: marked %t, %v", w.state.Marked(), fx.Memberships)
	}
}

// The members that are handed out stay as they were.
func TestMembersAreNotChangedInPlace(t *testing.T) {
	w := matrixWorld(t)
	members := w.state.Members()
	before := slices.Clone(members)
	for i, c := range []*messages.ChangeGroup{{Add: []string{"abe", "zoe"}}, {Remove: []string{"adm"}}, {Leave: true}} {
		c.ClientId = fmt.Sprint("m", i)
		if _, f := w.do("own", about(changeFrame(c), w.state.id)); f != nil {
			t.Fatal(f)
		}
	}
	if !slices.Equal(members, before) || slices.Equal(members, w.state.Members()) {
		t.Errorf("the members were %v, then %v, and are %v", before, members, w.state.Members())
	}
}

// A retraction that was decided after a target was looked up still counts.
func TestLookUpsGoStale(t *testing.T) {
	w := newWorld("d:ana~bo")
	for _, frame := range []*messages.ClientFrame{textFrame("1", "hi"), retractFrame("2", 1)} {
		if _, f := w.do("ana", about(frame, w.state.id)); f != nil {
			t.Fatal(f)
		}
	}
	stale := Known{Target: &Target{Seq: 1, Author: "ana", At: w.now, Countable: true}}
	for _, frame := range []*messages.ClientFrame{editFrame("3", 1, "ho"), retractFrame("4", 1), reactFrame("5", 1, "+1")} {
		c := Command{User: "ana", Frame: about(frame, w.state.id)}
		if d, f := w.state.Decide(c, stale, w.limits, w.now); f == nil || f.Code != messages.CodeConflict {
			t.Errorf("%v: %v, %v", frame, d.Entries, f)
		}
	}
	for i := range 10 * rememberedRetractions {
		w.state.withdraw(messages.Seq(i))
	}
	if n := len(w.state.withdrawn); n > rememberedRetractions || w.state.withdrawn[n-1] != 10*rememberedRetractions-1 {
		t.Errorf("%d retractions remembered", n)
	}
}

// What a client adds to a frame beyond the fields of its command does not get
// into the log.
func TestEntriesHoldOnlyKnownFields(t *testing.T) {
	w := newWorld("d:ana~bo")
	w.uploads["m"] = true
	frame := &messages.ClientFrame{}
	extra := []byte{0xfa, 0x07, 3, 'x', 'y', 'z'} // field 127
	for _, f := range []*messages.ClientFrame{textFrame("1", "hi"), mediaFrame("2", "m", "hi"), editFrame("3", 1, "ho"), reactFrame("4", 1, "+1"), retractFrame("5", 1)} {
		send := f.GetSend()
		send.Conversation = string(w.state.id)
		content := send.ProtoReflect()
		inner := content.Get(content.WhichOneof(content.Descriptor().Oneofs().ByName("content"))).Message()
		inner.SetUnknown(extra)
		frame = f
		if _, f := w.do("ana", frame); f != nil {
			t.Fatal(f)
		}
	}
	for _, e := range w.log {
		b, err := proto.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "xyz") {
			t.Errorf("%v carries an unknown field", e)
		}
		if m := e.GetMedia(); m != nil && m.Size != 7 {
			t.Errorf("the client's own figures got into the log: %v", m)
		}
	}
}

func TestRestoreWantsItsSnapshot(t *testing.T) {
	w := matrixWorld(t)
	head, snapshot := w.state.Head(), w.state.Snapshot()
	snapshot.StateSeq--
	for _, s := range []*messages.Snapshot{nil, snapshot} {
		if _, err := Restore(w.state.id, head, s); err == nil {
			t.Errorf("restored at %v from %v", head, s)
		}
	}
}

func TestApplyTakesTheNextEntryOnly(t *testing.T) {
	for _, seq := range []uint64{0, 1, 3} {
		s := New("d:ana~bo")
		s.Apply(&messages.Entry{Seq: 1, Kind: &messages.Entry_Text{Text: &messages.Text{Body: "hi"}}})
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("entry %d was applied after 1", seq)
				}
			}()
			s.Apply(&messages.Entry{Seq: seq})
		}()
	}
}

func TestConversationOf(t *testing.T) {
	send := func(conversation, user string) *messages.ClientFrame {
		return sendFrame(&messages.Send{Conversation: conversation, User: user})
	}
	create := createFrame(&messages.CreateGroup{ClientId: "c"})
	for _, c := range []struct {
		frame *messages.ClientFrame
		want  messages.ConversationID
		code  string
	}{
		{send("", "bo"), "d:ana~bo", ""},
		{send("", "abe"), "d:abe~ana", ""},
		{send("", "ana"), "", messages.CodeInvalid},
		{send("x", "ana"), "x", ""},
		{send("d:ana~cy", "bo"), "d:ana~cy", ""},
		{send("", ""), "", ""},
		{create, messages.NewGroup("ana", "c"), ""},
		{about(changeFrame(&messages.ChangeGroup{}), "g:x"), "g:x", ""},
		{otherFrame("ping", 0), "", messages.CodeInvalid},
		{&messages.ClientFrame{}, "", messages.CodeInvalid},
		{nil, "", messages.CodeInvalid},
	} {
		id, f := ConversationOf("ana", c.frame)
		if id != c.want || (f != nil) != (c.code != "") || f != nil && f.Code != c.code {
			t.Errorf("%v: %q, %v", c.frame, id, f)
		}
	}
	for _, name := range otherCommands {
		if id, f := ConversationOf("ana", about(otherFrame(name, 0), "d:ana~bo")); id != "d:ana~bo" || f != nil {
			t.Errorf("%s: %q, %v", name, id, f)
		}
	}
}

// A creation that reaches another group's state finds nothing there.
func TestCreationBelongsToItsGroup(t *testing.T) {
	s := New(messages.NewGroup("ana", "c"))
	create := createFrame(&messages.CreateGroup{ClientId: "c", Name: "team"})
	for _, c := range []struct {
		user  messages.UserID
		state *State
		ok    bool
	}{{"ana", s, true}, {"bo", s, false}, {"ana", New("d:ana~bo"), false}, {"ana", New("nonsense"), false}} {
		_, f := c.state.Decide(Command{User: c.user, Frame: create}, Known{}, messages.DefaultLimits(), 1)
		if c.ok != (f == nil) || f != nil && f.Code != messages.CodeNotFound {
			t.Errorf("%s in %s: %v", c.user, c.state.id, f)
		}
	}
}

func TestNeeds(t *testing.T) {
	direct, open := New("d:ana~bo"), New("d:ana~bo")
	open.Apply(&messages.Entry{Seq: 1, Kind: &messages.Entry_Text{Text: &messages.Text{Body: "hi"}}})
	group := New("g:" + messages.ConversationID(strings.Repeat("a", 32)))
	var crowd []string
	for i := range messages.MaxMembers + 1 {
		crowd = append(crowd, fmt.Sprint(i))
	}
	for _, c := range []struct {
		name  string
		state *State
		c     Command
		want  Needs
	}{
		{"first", direct, Command{User: "ana", Frame: textFrame("c", "hi")}, Needs{ID: "c", Blocks: true, Users: []messages.UserID{"bo"}}},
		{"second", open, Command{User: "bo", Frame: textFrame("c", "hi")}, Needs{ID: "c", Blocks: true}},
		{"stranger", open, Command{User: "cy", Frame: textFrame("c", "hi")}, Needs{}},
		{"over", open, Command{User: "ana", Frame: textFrame("c", "hi"), RetryAfter: 1}, Needs{}},
		{"no id", group, Command{User: "ana", Frame: textFrame("", "hi")}, Needs{}},
		{"edit", group, Command{User: "ana", Frame: editFrame("c", 7, "hi")}, Needs{ID: "c", Target: 7}},
		{"retract", group, Command{User: "ana", Frame: retractFrame("c", 7)}, Needs{ID: "c", Target: 7}},
		{"reaction", group, Command{User: "ana", Frame: reactFrame("c", 7, "+1")}, Needs{ID: "c", Target: 7}},
		{"media", group, Command{User: "ana", Frame: mediaFrame("c", "m", "")}, Needs{ID: "c", Media: "m"}},
		{"typing", open, Command{User: "ana", Frame: otherFrame("typing", 0)}, Needs{Blocks: true}},
		{"typing in a group", group, Command{User: "ana", Frame: otherFrame("typing", 0)}, Needs{}},
		{"history", open, Command{User: "ana", Frame: otherFrame("history", 0)}, Needs{}},
		{"create", group, Command{User: "ana", Frame: createFrame(&messages.CreateGroup{ClientId: "c", Members: []string{"cy", "Bo", "bo", "cy"}})},
			Needs{Users: []messages.UserID{"bo", "cy"}}},
		{"add", group, Command{User: "ana", Frame: changeFrame(&messages.ChangeGroup{ClientId: "c", Add: []string{"cy"}, Remove: []string{"bo"}})},
			Needs{ID: "c", Users: []messages.UserID{"cy"}}},
		{"crowd", group, Command{User: "ana", Frame: createFrame(&messages.CreateGroup{ClientId: "c", Members: crowd})}, Needs{}},
	} {
		if got := c.state.Needs(c.c); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %+v, expected %+v", c.name, got, c.want)
		}
	}
}

func TestGroupNames(t *testing.T) {
	for length, ok := range map[int]bool{1: true, messages.MaxName: true, messages.MaxName + 1: false} {
		w, name := matrixWorld(t), strings.Repeat("n", length)
		if _, f := w.do("own", about(changeFrame(&messages.ChangeGroup{ClientId: "x", Name: name}), w.state.id)); ok != (f == nil) {
			t.Errorf("renamed to %d bytes: %v", length, f)
		}
	}
	for length, ok := range map[int]bool{0: false, 1: true, messages.MaxName: true, messages.MaxName + 1: false} {
		w, name := newWorld(messages.NewGroup("ana", "g")), strings.Repeat("n", length)
		if _, f := w.do("ana", createFrame(&messages.CreateGroup{ClientId: "g", Name: name})); ok != (f == nil) {
			t.Errorf("created with a name of %d bytes: %v", length, f)
		}
	}
}

func TestInvalidFields(t *testing.T) {
	both := otherFrame("history", 3)
	both.GetHistory().After = 1
	for _, frame := range []*messages.ClientFrame{
		both,
		textFrame("", "hi"), textFrame("a b", "hi"), textFrame(strings.Repeat("c", 65), "hi"),
		mediaFrame("c", "", "hi"), reactFrame("c", 4, strings.Repeat("+", messages.MaxEmoji+1)),
		sendFrame(&messages.Send{ClientId: "c"}),
		sendFrame(&messages.Send{ClientId: "c", Content: &messages.Send_Text{}}),
		changeFrame(&messages.ChangeGroup{Name: "n"}),
		{}, nil, otherFrame("ping", 0),
		{Command: &messages.ClientFrame_Hello{Hello: &messages.Hello{}}},
	} {
		w := matrixWorld(t)
		if frame != nil {
			about(frame, w.state.id)
		}
		if _, f := w.do("own", frame); f == nil || f.Code != messages.CodeInvalid {
			t.Errorf("%v: %v", frame, f)
		}
	}
	create := createFrame(&messages.CreateGroup{ClientId: "a b", Name: "team"})
	if _, f := newWorld(messages.NewGroup("ana", "a b")).do("ana", create); f == nil || f.Code != messages.CodeInvalid {
		t.Errorf("created by a bad client id: %v", f)
	}
}

func TestPageLimit(t *testing.T) {
	limits := messages.DefaultLimits()
	for asked, want := range map[uint32]int{0: 100, 1: 1, 100: 100, 101: 100, 1 << 31: 100} {
		if got := PageLimit(asked, limits); got != want {
			t.Errorf("asked for %d: %d", asked, got)
		}
	}
}

// Only the last authors are remembered; what is older is said to be missing.
func TestReceiptsForget(t *testing.T) {
	var r Receipts
	authors := []messages.UserID{"ana", "bo"}
	const head = 3000
	for seq := messages.Seq(101); seq <= head; seq++ {
		r.Wrote(seq, authors[seq%2])
	}
	r.Wrote(50, "cy")
	if n := len(r.runs); n > rememberedRuns {
		t.Fatalf("%d runs remembered", n)
	}
	first := r.runs[0].first
	for _, c := range []struct{ delivered, after, upTo messages.Seq }{
		{10, 0, 10}, {2000, 10, 2000}, {first + 4, 2000, first - 1}, {head, 0, 0},
	} {
		m, _ := r.Move("cy", c.delivered, 0, head)
		after, upTo := r.Missing(m)
		if c.upTo != 0 && (after != c.after || upTo != c.upTo) || c.upTo == 0 && after != upTo {
			t.Errorf("up to %d: %d–%d are missing", c.delivered, after+1, upTo)
		}
		known := m.Now.Delivered >= first
		if found := r.Authors(m); known != (len(found) == 2) {
			t.Errorf("up to %d: told to %v", c.delivered, found)
		}
	}
	r.Wrote(head+10, "dee")
	if len(r.runs) != 1 || r.runs[0].first != head+10 {
		t.Errorf("after a gap %v is remembered", r.runs)
	}
}

// Where only a part of the log is recalled, nothing that it does not show is
// taken for the author's own.
func TestRecallOfAPart(t *testing.T) {
	w := newWorld("d:ana~bo")
	for i, u := range []messages.UserID{"bo", "ana", "ana", "bo", "ana", "ana"} {
		if _, f := w.do(u, about(textFrame(fmt.Sprint(i), "hi"), w.state.id)); f != nil {
			t.Fatal(f)
		}
	}
	for recalled, want := range []messages.Seq{6, 5, 4, 4, 4, 4, 4} {
		if err := w.restart(); err != nil {
			t.Fatal(err)
		}
		w.state.Recall(w.log[6-recalled:])
		fx := w.state.Apply(&messages.Entry{Seq: 7, From: "ana", Kind: &messages.Entry_Text{Text: &messages.Text{Body: "hi"}}})
		if fx.OthersBefore != want {
			t.Errorf("with %d recalled: others before %d, expected %d", recalled, fx.OthersBefore, want)
		}
		w.state.head.Seq, w.state.head.Countable = 6, 6
	}
}

func FuzzDecide(f *testing.F) {
	for _, frame := range []*messages.ClientFrame{
		textFrame("c", "hi"), mediaFrame("c", "m", ""), editFrame("c", 4, "ho"), retractFrame("c", 4), reactFrame("c", 4, "+1"),
		changeFrame(&messages.ChangeGroup{ClientId: "c", Add: []string{"new"}, Remove: []string{"mem"}, Promote: []string{"mem2"}, Demote: []string{"adm"}, Name: "n", Leave: true}),
		createFrame(&messages.CreateGroup{ClientId: "g", Name: "team"}),
	} {
		b, err := proto.Marshal(frame)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint8(0))
		f.Add([]byte(protojson.Format(frame)), uint8(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, user uint8) {
		frame := &messages.ClientFrame{}
		if proto.Unmarshal(b, frame) != nil && protojson.Unmarshal(b, frame) != nil {
			return
		}
		users := []messages.UserID{"own", "adm", "mem", "old", "out", "ana", ""}
		u := users[int(user)%len(users)]
		_, _ = ConversationOf(u, frame)
		for _, w := range []*world{matrixWorld(t), newWorld("d:ana~own"), newWorld("x"), newWorld("")} {
			decideAnything(t, w, u, about(frame, w.state.id))
			decideAnything(t, w, u, frame)
		}
	})
}

// decideAnything checks what holds of any frame: no panic, nothing for those
// who are no members, and entries that can be stored and applied.
func decideAnything(t *testing.T, w *world, u messages.UserID, frame *messages.ClientFrame) {
	before := w.state.Head()
	_, member := w.state.Member(u)
	d, f := w.do(u, frame)
	if f != nil && len(d.Entries) > 0 {
		t.Fatalf("refused and done: %v", f)
	}
	if f == nil && !member && frame.GetCreateGroup() == nil {
		t.Fatalf("%s is no member and was answered", u)
	}
	for i, e := range d.Entries {
		if e.Seq != uint64(before.Seq)+uint64(i)+1 || e.From != string(u) || (e.ClientId != "") != (i == len(d.Entries)-1) {
			t.Fatalf("entry %d of %d: %v", i, len(d.Entries), e)
		}
		if _, err := proto.Marshal(e); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkSend(b *testing.B) {
	limits, frame := messages.DefaultLimits(), about(textFrame("client-id-0000001", strings.Repeat("x", 128)), "d:ana~bo")
	s := New("d:ana~bo")
	c := Command{User: "ana", Frame: frame}
	b.ReportAllocs()
	for b.Loop() {
		_ = s.Needs(c)
		d, f := s.Decide(c, Known{}, limits, 1)
		if f != nil {
			b.Fatal(f)
		}
		s.Apply(d.Entries[0])
	}
}

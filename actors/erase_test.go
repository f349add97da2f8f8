package actors_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/actors"
	"github.com/troupe-chat/troupe/cluster"
	"github.com/troupe-chat/troupe/internal/crew"
	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
	"github.com/troupe-chat/troupe/persistence/faulty"
	"github.com/troupe-chat/troupe/persistence/memory"
	"github.com/troupe-chat/troupe/persistence/pebble"
)

// stage is a node's actors on a real store, with the tests as its clients.
type stage struct {
	*testing.T
	dir   string
	disk  *pebble.Store
	store *faulty.Store
	env   *actors.Env
	node  *cluster.Node

	mu      sync.Mutex
	tokens  uint64                                // guarded by mu
	answers map[uint64]chan *messages.ServerFrame // guarded by mu
}

func newStage(t *testing.T, users ...messages.UserID) *stage {
	s := &stage{T: t, dir: t.TempDir(), answers: map[uint64]chan *messages.ServerFrame{}}
	s.open()
	t.Cleanup(s.close)
	for _, u := range users {
		s.check(s.store.CreateAccount(t.Context(), persistence.Account{User: u}))
	}
	return s
}

func (s *stage) open() {
	s.Helper()
	log := slog.New(slog.DiscardHandler)
	disk, err := pebble.Open(s.dir, pebble.Options{Logger: log})
	s.check(err)
	s.disk, s.store = disk, faulty.Wrap(disk)
	s.env = &actors.Env{
		Node: "one", Store: s.store, Presence: memory.NewPresence(), Gateways: s, Routes: actors.NewRoutes(),
		Limits: messages.DefaultLimits(), Pool: crew.New(8, 8), Now: time.Now, Log: log, Metrics: &actors.Metrics{},
	}
	s.node, err = cluster.Start(s.Context(), cluster.Config{Name: "one", Logger: log, Kinds: []cluster.Kind{
		{Name: messages.ActorConversation, New: func(id string) cluster.Behaviour { return actors.NewConversation(s.env, id) }},
		{Name: messages.ActorGroup, New: func(id string) cluster.Behaviour { return actors.NewGroup(s.env, id) }},
	}})
	s.check(err)
	s.env.Cluster = s.node
}

func (s *stage) close() {
	s.Helper()
	s.check(s.node.Stop(context.Background()))
	s.env.Pool.Close()
	s.check(s.store.Close())
}

func (s *stage) check(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// Tell is the gateway's part of a command: its answer goes to who waits.
func (s *stage) Tell(_ string, m proto.Message) {
	a, ok := m.(*messages.Answer)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[a.Token] <- a.Frame
}

// Connection finds none: the tests publish their own.
func (s *stage) Connection(string, uint64) (actors.Connection, bool) { return nil, false }

// ask gives a user's command to a conversation and returns the answer.
func (s *stage) ask(u messages.UserID, c messages.ConversationID, frame *messages.ClientFrame) *messages.ServerFrame {
	s.Helper()
	answer := make(chan *messages.ServerFrame, 1)
	s.mu.Lock()
	s.tokens++
	token := s.tokens
	s.answers[token] = answer
	s.mu.Unlock()
	s.check(s.node.Tell(c.ActorKind(), string(c), &messages.Command{
		Origin: &messages.Origin{Node: "one", User: string(u), Device: "d", Token: token}, Frame: frame, RemainingMs: 60_000,
	}))
	return <-answer
}

// must is ask for what is not refused.
func (s *stage) must(u messages.UserID, c messages.ConversationID, frame *messages.ClientFrame) *messages.ServerFrame {
	s.Helper()
	f := s.ask(u, c, frame)
	if e := f.GetError(); e != nil {
		s.Fatalf("%s: %s: %s", u, e.Code, e.Message)
	}
	return f
}

func (s *stage) say(u messages.UserID, c messages.ConversationID, n int) {
	s.Helper()
	for i := range n {
		s.must(u, c, sending(&messages.Send{
			Conversation: string(c), ClientId: fmt.Sprint("erase-", i+1),
			Content: &messages.Send_Text{Text: &messages.Text{Body: bodyOf(u)}},
		}))
	}
}

func bodyOf(u messages.UserID) string { return "said by " + string(u) }

func sending(send *messages.Send) *messages.ClientFrame {
	return &messages.ClientFrame{Command: &messages.ClientFrame_Send{Send: send}}
}

func (s *stage) group(owner messages.UserID, members ...string) messages.ConversationID {
	s.Helper()
	s.must(owner, messages.NewGroup(owner, "g"), &messages.ClientFrame{Command: &messages.ClientFrame_CreateGroup{
		CreateGroup: &messages.CreateGroup{ClientId: "g", Name: "team", Members: members},
	}})
	return messages.NewGroup(owner, "g")
}

func (s *stage) change(by messages.UserID, c messages.ConversationID, change *messages.ChangeGroup) {
	s.Helper()
	change.Conversation, change.ClientId = string(c), "c"
	s.must(by, c, &messages.ClientFrame{Command: &messages.ClientFrame_ChangeGroup{ChangeGroup: change}})
}

// erase asks until the conversation finds nothing of u any more.
func (s *stage) erase(u messages.UserID, c messages.ConversationID) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	_, err := s.node.Request(ctx, c.ActorKind(), string(c), &messages.Erase{User: string(u)})
	s.check(err)
}

// log is the whole log as it is served.
func (s *stage) log(c messages.ConversationID) []*messages.Entry {
	s.Helper()
	rows, err := s.store.Read(s.Context(), c, persistence.Range{Limit: 10_000})
	s.check(err)
	out := make([]*messages.Entry, len(rows))
	for i, row := range rows {
		out[i] = &messages.Entry{}
		s.check(proto.Unmarshal(row.Entry, out[i]))
	}
	return out
}

// retractions counts those by u, and checks that no entry is retracted twice
// and no body of u's is served.
func (s *stage) retractions(u messages.UserID, c messages.ConversationID) int {
	s.Helper()
	retracted := map[uint64]bool{}
	for _, e := range s.log(c) {
		if r := e.GetRetract(); r != nil && e.From == string(u) {
			if retracted[r.Seq] {
				s.Errorf("entry %d is retracted twice", r.Seq)
			}
			retracted[r.Seq] = true
		}
	}
	return len(retracted)
}

// bare checks that nothing that u wrote is served any more, to a new device
// that reads the log and to who asks for history.
func (s *stage) bare(u, other messages.UserID, c messages.ConversationID) {
	s.Helper()
	check := func(how string, entries []*messages.Entry) {
		for _, e := range entries {
			text := e.GetText().GetBody() + e.GetEdit().GetBody() + e.GetMedia().GetCaption()
			if e.From == string(u) && text != "" {
				s.Errorf("%s: entry %d is served with %q", how, e.Seq, text)
			}
		}
	}
	check("log", s.log(c))
	before := uint64(0)
	for more := true; more; {
		page := s.must(other, c, &messages.ClientFrame{Command: &messages.ClientFrame_History{
			History: &messages.History{Conversation: string(c), Before: before},
		}}).GetPage()
		check("history", page.Entries)
		if more = page.More; more {
			before = page.Entries[0].Seq
		}
	}
}

// ear is a connection that remembers what it was told.
type ear struct {
	mu      sync.Mutex
	entries []*messages.Entry // guarded by mu
}

func (*ear) ID() uint64                   { return 1 }
func (*ear) InFlight() int                { return 0 }
func (*ear) Notify(*messages.ServerFrame) {}

func (e *ear) Hint(h *messages.Hint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, encoded := range h.Entries {
		e.entries = append(e.entries, encoded.Entry)
	}
}

func (e *ear) retractions() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, entry := range e.entries {
		if entry.GetRetract() != nil {
			n++
		}
	}
	return n
}

func TestEraseDirect(t *testing.T) {
	const c = messages.ConversationID("d:ana~bo")
	s := newStage(t, "ana", "bo")
	s.say("ana", c, 150)
	s.say("bo", c, 1)
	s.must("ana", c, sending(&messages.Send{
		Conversation: string(c), ClientId: "edit", Content: &messages.Send_Edit{Edit: &messages.Edit{Seq: 3, Body: "said better"}},
	}))
	s.must("ana", c, sending(&messages.Send{
		Conversation: string(c), ClientId: "own", Content: &messages.Send_Retract{Retract: &messages.Retract{Seq: 1}},
	}))
	s.check(s.store.SetBlock(t.Context(), "bo", "ana", true))
	hears := &ear{}
	s.env.Routes.Publish("bo", []actors.Connection{hears})

	s.erase("ana", c)
	s.bare("ana", "bo", c)
	if n := s.retractions("ana", c); n != 150 {
		t.Errorf("%d retractions, want 150", n)
	}
	if n := hears.retractions(); n != 149 {
		t.Errorf("bo was told of %d retractions, want 149", n)
	}
	if e := s.log(c)[150]; e.GetText().GetBody() != bodyOf("bo") {
		t.Errorf("bo's text is served as %v", e)
	}
	late := s.ask("ana", c, sending(&messages.Send{
		Conversation: string(c), ClientId: "late", Content: &messages.Send_Text{Text: &messages.Text{Body: "late"}},
	}))
	if code := late.GetError().GetCode(); code != messages.CodeUnauthenticated {
		t.Errorf("a deleted user's text is answered %q", code)
	}
	head := len(s.log(c))
	s.erase("ana", c)
	if again := len(s.log(c)); again != head {
		t.Errorf("erasing again wrote %d entries", again-head)
	}
}

func TestEraseGroup(t *testing.T) {
	s := newStage(t, "ana", "bo", "cy")
	c := s.group("ana", "bo", "cy")
	s.say("ana", c, 3)
	s.erase("ana", c)
	s.bare("ana", "bo", c)
	group := s.must("bo", c, &messages.ClientFrame{Command: &messages.ClientFrame_Group{Group: &messages.GroupQuery{Conversation: string(c)}}}).GetGroup()
	if len(group.Members) != 2 || group.Members[0].Role != "owner" {
		t.Errorf("the group is left with %v", group.Members)
	}
	for _, m := range s.intervals("ana", c) {
		if m.Ended == 0 {
			t.Error("the deleted user is still a member")
		}
	}
}

func (s *stage) intervals(u messages.UserID, c messages.ConversationID) []persistence.Membership {
	s.Helper()
	ms, err := s.store.Membership(s.Context(), u, c)
	s.check(err)
	return ms
}

func TestEraseFormerMember(t *testing.T) {
	s := newStage(t, "ana", "bo", "cy")
	c := s.group("ana", "bo", "cy")
	s.say("bo", c, 2)
	s.change("ana", c, &messages.ChangeGroup{Remove: []string{"bo"}})
	s.erase("bo", c)
	s.bare("bo", "ana", c)
	if n := s.retractions("bo", c); n != 2 {
		t.Errorf("%d retractions, want 2", n)
	}
}

// The process ends when the first batch is durable and nothing else is.
func TestEraseResumesAfterCrash(t *testing.T) {
	const c = messages.ConversationID("d:ana~bo")
	s := newStage(t, "ana", "bo")
	s.say("ana", c, 150)
	first, refused := true, make(chan struct{}, 1)
	s.store.Randomly(func(op faulty.Op) faulty.Fault {
		if op != faulty.Append {
			return faulty.None
		}
		if first {
			first = false
			return faulty.None
		}
		select {
		case refused <- struct{}{}:
		default:
		}
		return faulty.Refused
	})
	s.check(s.node.Tell(c.ActorKind(), string(c), &messages.Erase{User: "ana"}))
	<-refused
	s.close()
	s.open()
	if n := s.retractions("ana", c); n != 64 {
		t.Errorf("%d retractions before the crash, want one batch of 64", n)
	}
	s.erase("ana", c)
	s.bare("ana", "bo", c)
	if n := s.retractions("ana", c); n != 150 {
		t.Errorf("%d retractions, want 150", n)
	}
}

// Nothing is lost and nothing doubled where appends fail as they may.
func TestEraseWithFaults(t *testing.T) {
	s := newStage(t, "ana", "bo")
	c := s.group("ana", "bo")
	s.say("ana", c, 150)
	s.store.Fail(faulty.Append, 1, faulty.Refused)
	s.store.Fail(faulty.Append, 2, faulty.Unheard)
	s.store.Fail(faulty.Append, 4, faulty.Lost)
	s.store.Fail(faulty.Know, 2, faulty.Refused)
	s.store.Fail(faulty.Read, 3, faulty.Refused)
	s.erase("ana", c)
	s.bare("ana", "bo", c)
	if n := s.retractions("ana", c); n != 150 {
		t.Errorf("%d retractions, want 150", n)
	}
}

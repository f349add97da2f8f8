//go:build linux

package load

import (
	"cmp"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

// fake is a server in memory, made with the generated types only, that can be
// made to break its promises.
type fake struct {
	// spoil, where set, turns a frame to a user into those that are sent.
	spoil func(user string, f *messages.ServerFrame) []*messages.ServerFrame
	// window bounds the entries in flight to a device that catches up.
	window int
	// refuse, where set, says whether a send is refused.
	refuse func(user string, s *messages.Send) *messages.Failure

	mu    sync.Mutex
	conns map[string]*websocket.Conn
	talks map[string]*fakeTalk
	queue map[string]*fakeQueue // of devices that catch up, by user
}

// fakeQueue is what waits for a device, and what it has not acknowledged.
type fakeQueue struct{ waiting, flight []*messages.Entry }

type fakeTalk struct {
	members []string
	log     []*messages.Entry
}

// start returns the WebSocket URL of the fake, which lives as long as t.
func (s *fake) start(t *testing.T) string {
	t.Helper()
	s.conns, s.talks, s.queue = map[string]*websocket.Conn{}, map[string]*fakeTalk{}, map[string]*fakeQueue{}
	h := httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(h.Close)
	return "ws" + strings.TrimPrefix(h.URL, "http")
}

func (s *fake) serve(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{Subprotocols: []string{Subprotocol}}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer ws.Close()
	user := ""
	for {
		_, b, err := ws.ReadMessage()
		if err != nil {
			return
		}
		var batch messages.ClientBatch
		if proto.Unmarshal(b, &batch) != nil {
			return
		}
		s.mu.Lock()
		for _, f := range batch.Frames {
			if h := f.GetHello(); h != nil {
				user = h.Token
				s.conns[user] = ws
			}
			s.command(user, f)
		}
		s.mu.Unlock()
	}
}

func (s *fake) command(user string, f *messages.ClientFrame) {
	switch c := f.Command.(type) {
	case *messages.ClientFrame_Hello:
		s.tell(user, &messages.ServerFrame{Event: &messages.ServerFrame_Welcome{Welcome: &messages.Welcome{User: user}}})
		if c.Hello.Start != "head" {
			s.replay(user)
		}
	case *messages.ClientFrame_CreateGroup:
		s.create(user, f.Id, c.CreateGroup)
	case *messages.ClientFrame_Ack:
		s.ack(user, c.Ack.Positions)
	case *messages.ClientFrame_Send:
		if s.refuse != nil {
			if failure := s.refuse(user, c.Send); failure != nil {
				s.tell(user, failure.Frame(f.Id))
				return
			}
		}
		s.send(user, f.Id, c.Send)
	}
}

func (s *fake) create(user string, re uint32, g *messages.CreateGroup) {
	id := string(messages.NewGroup(messages.UserID(user), messages.ClientID(g.ClientId)))
	s.talks[id] = &fakeTalk{members: g.Members}
	s.append(id, "", &messages.Entry{From: user, Kind: &messages.Entry_Event{Event: &messages.Event{Kind: "created", By: user}}})
	s.tell(user, &messages.ServerFrame{Re: re, Event: &messages.ServerFrame_Group{Group: &messages.Group{Conversation: id, Head: 1}}})
}

func (s *fake) send(user string, re uint32, c *messages.Send) {
	id := c.Conversation
	if c.User != "" {
		id = string(messages.Direct(messages.UserID(user), messages.UserID(c.User)))
		if s.talks[id] == nil {
			s.talks[id] = &fakeTalk{members: []string{user, c.User}}
		}
	}
	e := s.append(id, user, &messages.Entry{From: user, ClientId: c.ClientId, Kind: &messages.Entry_Text{Text: c.GetText()}})
	s.tell(user, &messages.ServerFrame{Re: re, Event: &messages.ServerFrame_Sent{
		Sent: &messages.Sent{Conversation: id, Seq: e.Seq, ClientId: c.ClientId},
	}})
}

// append adds to a log and delivers to all members but one.
func (s *fake) append(id, except string, e *messages.Entry) *messages.Entry {
	t := s.talks[id]
	e.Conversation, e.Seq = id, uint64(len(t.log)+1)
	t.log = append(t.log, e)
	for _, m := range t.members {
		if m != except {
			s.tell(m, deliver(e))
		}
	}
	return e
}

func (s *fake) replay(user string) {
	q := &fakeQueue{}
	s.queue[user] = q
	for _, t := range s.talks {
		if slices.Contains(t.members, user) {
			q.waiting = append(q.waiting, t.log...)
		}
	}
	// In turn, as a server would: no conversation fills the window alone.
	slices.SortStableFunc(q.waiting, func(a, b *messages.Entry) int { return cmp.Compare(a.Seq, b.Seq) })
	s.more(user)
}

func (s *fake) ack(user string, positions []*messages.Position) {
	q := s.queue[user]
	if q == nil {
		return
	}
	q.flight = slices.DeleteFunc(q.flight, func(e *messages.Entry) bool {
		return slices.ContainsFunc(positions, func(p *messages.Position) bool {
			return p.Conversation == e.Conversation && e.Seq <= p.Seq
		})
	})
	s.more(user)
}

// more delivers what the window takes.
func (s *fake) more(user string) {
	q := s.queue[user]
	n := min(len(q.waiting), 50, s.window-len(q.flight))
	for ; n > 0; n = min(len(q.waiting), 50, s.window-len(q.flight)) {
		s.tell(user, deliver(q.waiting[:n]...))
		q.flight = append(q.flight, q.waiting[:n]...)
		q.waiting = q.waiting[n:]
	}
}

func deliver(entries ...*messages.Entry) *messages.ServerFrame {
	return &messages.ServerFrame{Event: &messages.ServerFrame_Deliver{Deliver: &messages.Deliver{Entries: entries}}}
}

// tell writes to a user; mu is held, so writes to a connection take turns.
func (s *fake) tell(user string, f *messages.ServerFrame) {
	frames := []*messages.ServerFrame{f}
	if s.spoil != nil {
		frames = s.spoil(user, f)
	}
	ws := s.conns[user]
	if ws == nil || len(frames) == 0 {
		return
	}
	b, err := proto.Marshal(&messages.ServerBatch{Frames: frames})
	if err == nil {
		err = ws.WriteMessage(websocket.BinaryMessage, b)
	}
	if err != nil {
		delete(s.conns, user)
	}
}

package relay

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

type user struct {
	t  *testing.T
	ws *websocket.Conn
	in []*messages.ServerFrame
}

func open(t *testing.T) (*Server, string, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "db")
	s, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s.Handler())
	t.Cleanup(h.Close)
	return s, dir, "ws" + strings.TrimPrefix(h.URL, "http") + "/v1/ws"
}

func connect(t *testing.T, url, name string) *user {
	t.Helper()
	d := websocket.Dialer{Subprotocols: []string{"troupe.v1.proto"}}
	ws, _, err := d.Dial(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.Close() })
	u := &user{t: t, ws: ws}
	u.say(&messages.ClientFrame{Command: &messages.ClientFrame_Hello{Hello: &messages.Hello{Token: name, Device: "d"}}})
	if w := u.next().GetWelcome(); w.GetUser() != name {
		t.Fatalf("welcome %v", w)
	}
	return u
}

func (u *user) say(frames ...*messages.ClientFrame) {
	u.t.Helper()
	b, err := proto.Marshal(&messages.ClientBatch{Frames: frames})
	if err == nil {
		err = u.ws.WriteMessage(websocket.BinaryMessage, b)
	}
	if err != nil {
		u.t.Fatal(err)
	}
}

// next returns the next frame, however the server batched them.
func (u *user) next() *messages.ServerFrame {
	u.t.Helper()
	for len(u.in) == 0 {
		_, b, err := u.ws.ReadMessage()
		if err != nil {
			u.t.Fatal(err)
		}
		var batch messages.ServerBatch
		if err := proto.Unmarshal(b, &batch); err != nil {
			u.t.Fatal(err)
		}
		u.in = batch.Frames
	}
	f := u.in[0]
	u.in = u.in[1:]
	return f
}

func text(id uint32, to, body string) *messages.ClientFrame {
	return &messages.ClientFrame{Id: id, Command: &messages.ClientFrame_Send{Send: &messages.Send{
		User: to, ClientId: fmt.Sprint("c", id), Content: &messages.Send_Text{Text: &messages.Text{Body: body}},
	}}}
}

func TestASendIsAnsweredDeliveredAndOnDisk(t *testing.T) {
	s, dir, url := open(t)
	ana, bo := connect(t, url, "ana"), connect(t, url, "bo")
	ana.say(text(1, "bo", "hi"), text(2, "bo", "there"))
	for i := uint64(1); i <= 2; i++ {
		f := ana.next()
		sent := f.GetSent()
		if uint64(f.Re) != i || sent.GetSeq() != i || sent.ClientId != fmt.Sprint("c", i) || sent.Conversation != "d:ana~bo" {
			t.Fatalf("answer %d: %v", i, f)
		}
		e := bo.next().GetDeliver().GetEntries()[0]
		if e.Seq != i || e.From != "ana" || e.Conversation != "d:ana~bo" || e.GetText().GetBody() != []string{"hi", "there"}[i-1] {
			t.Fatalf("entry %d: %v", i, e)
		}
	}
	bo.say(text(3, "ana", "hello"))
	if seq := bo.next().GetSent().GetSeq(); seq != 3 {
		t.Fatalf("the other side's is %d, want 3", seq)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := rows(t, dir); n != 3 {
		t.Fatalf("%d rows, want 3", n)
	}
}

// rows returns how many entries a database holds, in dense order.
func rows(t *testing.T, dir string) int {
	t.Helper()
	db, err := pebble.Open(dir, &pebble.Options{Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	it, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	n := 0
	for it.First(); it.Valid(); it.Next() {
		n++
		var e messages.Entry
		if err := proto.Unmarshal(it.Value(), &e); err != nil {
			t.Fatal(err)
		}
		if seq := binary.BigEndian.Uint64(it.Key()[len(it.Key())-8:]); seq != uint64(n) || e.Seq != seq {
			t.Fatalf("row %d is %d", n, seq)
		}
	}
	return n
}

func TestASendToOneWhoIsAwayIsAnswered(t *testing.T) {
	s, _, url := open(t)
	defer s.Close()
	ana := connect(t, url, "ana")
	ana.say(text(1, "bo", "hi"))
	if seq := ana.next().GetSent().GetSeq(); seq != 1 {
		t.Fatalf("seq %d", seq)
	}
}

func TestNobodySpeaksBeforeHello(t *testing.T) {
	s, _, url := open(t)
	defer s.Close()
	d := websocket.Dialer{Subprotocols: []string{"troupe.v1.proto"}}
	ws, _, err := d.Dial(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	u := &user{t: t, ws: ws}
	u.say(text(1, "bo", "hi"))
	if _, _, err := ws.ReadMessage(); err == nil {
		t.Fatal("it was answered")
	}
}

func TestQueueHandsOverEverythingInOrder(t *testing.T) {
	q := newQueue[int]()
	go func() {
		defer q.close()
		for i := range 1000 {
			q.put(i)
		}
	}()
	want := 0
	var items []int
	for {
		items = q.takeAll(items)
		if len(items) == 0 {
			break
		}
		for _, i := range items {
			if i != want {
				t.Fatalf("%d, want %d", i, want)
			}
			want++
		}
	}
	if want != 1000 {
		t.Fatalf("%d items", want)
	}
}

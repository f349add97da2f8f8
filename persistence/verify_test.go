package persistence

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

// walked is a store of one conversation, as a Walker shows it.
type walked struct {
	rows    []Row
	appends []AppendID
	dedup   []Dedup
	members []MemberCursor
	device  Position
}

const walkedC = messages.ConversationID("g:c")

func (w *walked) Conversations(_ context.Context, f func(messages.ConversationID) error) error {
	return f(walkedC)
}

func (w *walked) Scan(_ context.Context, _ messages.ConversationID, f func(Row, AppendID) error) error {
	for i, r := range w.rows {
		if err := f(r, w.appends[i]); err != nil {
			return err
		}
	}
	return nil
}

func (w *walked) ScanDedup(_ context.Context, _ messages.ConversationID, f func(Dedup) error) error {
	for _, d := range w.dedup {
		if err := f(d); err != nil {
			return err
		}
	}
	return nil
}

func (w *walked) ScanMembers(_ context.Context, _ messages.ConversationID, f func(MemberCursor) error) error {
	for _, m := range w.members {
		if err := f(m); err != nil {
			return err
		}
	}
	return nil
}

func (w *walked) ScanDevices(_ context.Context, f func(DeviceKey, Position) error) error {
	return f(DeviceKey{User: "ana"}, w.device)
}

func (w *walked) Heads(_ context.Context, cs []messages.ConversationID) ([]Head, error) {
	heads := make([]Head, len(cs))
	for i := range heads {
		heads[i].Seq = messages.Seq(len(w.rows))
	}
	return heads, nil
}

// entry changes one row's entry.
func (w *walked) entry(i int, change func(*messages.Entry)) {
	e := &messages.Entry{}
	if err := proto.Unmarshal(w.rows[i].Entry, e); err != nil {
		panic(err)
	}
	change(e)
	w.rows[i].Entry, _ = proto.Marshal(e)
}

// sound returns a store in which all is as it must be: an event, then texts.
func sound() *walked {
	w := &walked{
		members: []MemberCursor{{User: "bo", Delivered: 4, Read: 3}},
		device:  Position{Conversation: walkedC, Seq: 4},
	}
	for i := range uint64(4) {
		e := &messages.Entry{Conversation: string(walkedC), Seq: i + 1, From: "ana", At: 10, ClientId: string(rune('a' + i))}
		e.Kind = &messages.Entry_Text{Text: &messages.Text{Body: "x"}}
		if i == 0 {
			e.ClientId, e.Kind = "", &messages.Entry_Event{Event: &messages.Event{Kind: "created"}}
		} else {
			w.dedup = append(w.dedup, Dedup{Author: "ana", ClientID: messages.ClientID(e.ClientId), Seq: messages.Seq(i + 1), At: 10})
		}
		b, _ := proto.Marshal(e)
		w.rows = append(w.rows, Row{Seq: messages.Seq(i + 1), At: 10, Entry: b, Countable: i, StateSeq: 1})
		w.appends = append(w.appends, AppendID{byte(i)})
	}
	return w
}

func TestVerifySound(t *testing.T) {
	r, err := Verify(t.Context(), sound())
	if err != nil || len(r.Findings) != 0 {
		t.Fatalf("%+v (%v)", r, err)
	}
	r.Findings = nil
	if got := [4]int{r.Conversations, r.Entries, r.IDs, r.Cursors}; got != [4]int{1, 4, 3, 2} {
		t.Errorf("the figures are %v", got)
	}
}

// Every kind of damage is found, and nothing else.
func TestVerifyFinds(t *testing.T) {
	for _, c := range []struct {
		want   string
		damage func(*walked)
	}{
		{"follows entry 2", func(w *walked) {
			w.rows[2].Seq = 4
			w.rows = w.rows[:3]
			w.entry(2, func(e *messages.Entry) { e.Seq = 4; e.ClientId = "d" })
			w.dedup = append(w.dedup[:1], w.dedup[2])
		}},
		{"older than one before it", func(w *walked) { w.rows[2].At = 9 }},
		{"says that it is entry 7", func(w *walked) { w.entry(3, func(e *messages.Entry) { e.Seq = 7 }) }},
		{"says that it is entry 2 of g:x", func(w *walked) { w.entry(1, func(e *messages.Entry) { e.Conversation = "g:x" }) }},
		{"is no entry", func(w *walked) { w.rows[0].Entry = []byte{0xff} }},
		{"counts 9 texts and media, not 3", func(w *walked) { w.rows[3].Countable = 9 }},
		{"names 0 as the last change", func(w *walked) { w.rows[3].StateSeq = 0 }},
		{"names 2 as the last change", func(w *walked) { w.rows[1].StateSeq = 2; w.rows[2].StateSeq = 2; w.rows[3].StateSeq = 2 }},
		{"repeats a client id of ana", func(w *walked) { w.entry(3, func(e *messages.Entry) { e.ClientId = "b" }); w.dedup = w.dedup[:2] }},
		{"is used for entry 3 too", func(w *walked) { w.dedup = append(w.dedup, Dedup{Author: "ana", ClientID: "c", Seq: 2, At: 10}) }},
		{"is not the entry of ana", func(w *walked) { w.dedup[1].ClientID = "z" }},
		{"cursor of bo is at 5", func(w *walked) { w.members[0].Read = 5 }},
		{"cursor of a device is at 5", func(w *walked) { w.device.Seq = 5 }},
	} {
		t.Run(c.want, func(t *testing.T) {
			w := sound()
			c.damage(w)
			r, err := Verify(t.Context(), w)
			if err != nil || len(r.Findings) == 0 {
				t.Fatalf("nothing is found (%v)", err)
			}
			found := false
			for _, f := range r.Findings {
				found = found || strings.Contains(f.String(), c.want)
			}
			if !found {
				t.Errorf("found: %v", r.Findings)
			}
		})
	}
}

// The events of one command share its client id, and an id may be used again
// when it is forgotten.
func TestVerifyAllowsWhatIsRight(t *testing.T) {
	w := sound()
	w.entry(3, func(e *messages.Entry) { e.ClientId = "b" })
	w.rows[3].At = 10 + messages.DedupFor.Milliseconds()
	w.dedup = []Dedup{
		{Author: "ana", ClientID: "b", Seq: 2, At: 10},
		{Author: "ana", ClientID: "b", Seq: 4, At: w.rows[3].At},
	}
	if r, err := Verify(t.Context(), w); err != nil || len(r.Findings) != 0 {
		t.Errorf("found: %v (%v)", r.Findings, err)
	}
}

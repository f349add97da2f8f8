package wire

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/troupe-chat/troupe/messages"
)

func decodeClient(t require, b []byte) *messages.ClientFrame {
	var batch messages.ClientBatch
	if err := proto.Unmarshal(b, &batch); err != nil {
		t.Fatalf("the batch does not decode: %v", err)
	}
	if len(batch.Frames) != 1 {
		t.Fatalf("%d frames, want 1", len(batch.Frames))
	}
	return batch.Frames[0]
}

func decodeServer(t require, b []byte) *messages.ServerFrame {
	var batch messages.ServerBatch
	if err := proto.Unmarshal(b, &batch); err != nil {
		t.Fatalf("the batch does not decode: %v", err)
	}
	if len(batch.Frames) != 1 {
		t.Fatalf("%d frames, want 1", len(batch.Frames))
	}
	return batch.Frames[0]
}

type require interface {
	Fatalf(format string, args ...any)
}

func TestSendIsWhatTheSchemaSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.Uint32().Draw(t, "id")
		user := rapid.StringMatching(`[a-z]{1,64}`).Draw(t, "user")
		clientID := rapid.StringMatching(`[!-~]{1,64}`).Draw(t, "client id")
		body := rapid.StringN(0, 300, -1).Draw(t, "body")

		b := AppendSend(nil, id, "", user, []byte(clientID), []byte(body))
		got := decodeClient(t, b)
		want := &messages.ClientFrame{Id: id, Command: &messages.ClientFrame_Send{Send: &messages.Send{
			User: user, ClientId: clientID,
			Content: &messages.Send_Text{Text: &messages.Text{Body: body}},
		}}}
		if !proto.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}

		f := Walk(b)
		f.Next()
		frame, err := ParseFrame(f.Bytes)
		if err != nil || frame.ID != id || frame.Kind != CommandSend {
			t.Fatalf("frame %v, %v", frame, err)
		}
		send, err := ParseSend(frame.Body)
		if err != nil || string(send.User) != user || string(send.ClientID) != clientID {
			t.Fatalf("send %v, %v", send, err)
		}
	})
}

func TestAckIsWhatTheSchemaSays(t *testing.T) {
	got := decodeClient(t, AppendAck(nil, []Position{{"d:ana~bo", 1 << 40}, {"d:ana~cy", 3}}))
	want := &messages.ClientFrame{Command: &messages.ClientFrame_Ack{Ack: &messages.Ack{
		Positions: []*messages.Position{{Conversation: "d:ana~bo", Seq: 1 << 40}, {Conversation: "d:ana~cy", Seq: 3}},
	}}}
	if !proto.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func TestSentGoesBothWays(t *testing.T) {
	sent := Sent{Conversation: []byte("d:ana~bo"), ClientID: []byte("c1"), Seq: 300, At: 1700000000000}
	got := decodeServer(t, AppendSent(nil, 9, sent))
	want := &messages.ServerFrame{Re: 9, Event: &messages.ServerFrame_Sent{Sent: &messages.Sent{
		Conversation: "d:ana~bo", Seq: 300, ClientId: "c1", At: 1700000000000,
	}}}
	if !proto.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}

	b, _ := proto.Marshal(&messages.Sent{Conversation: "d:ana~bo", Seq: 300, ClientId: "c1", At: 7, Duplicate: true})
	back, err := ParseSent(b)
	if err != nil || string(back.ClientID) != "c1" || back.Seq != 300 || back.At != 7 || !back.Duplicate {
		t.Fatalf("got %+v, %v", back, err)
	}
}

func TestDeliverIsWhatTheSchemaSays(t *testing.T) {
	text, _ := proto.Marshal(&messages.Text{Body: "hi"})
	entry := AppendEntryHead(nil, "d:ana~bo", 7)
	entry = AppendEntryTail(entry, "ana", []byte("c1"), 5, text)
	got := decodeServer(t, AppendDeliver(nil, entry))
	want := &messages.ServerFrame{Event: &messages.ServerFrame_Deliver{Deliver: &messages.Deliver{
		Entries: []*messages.Entry{{
			Conversation: "d:ana~bo", Seq: 7, From: "ana", ClientId: "c1", At: 5,
			Kind: &messages.Entry_Text{Text: &messages.Text{Body: "hi"}},
		}},
	}}}
	if !proto.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	e, err := ParseEntry(entry)
	if err != nil || string(e.Conversation) != "d:ana~bo" || string(e.From) != "ana" || string(e.ClientID) != "c1" || e.Seq != 7 {
		t.Fatalf("got %+v, %v", e, err)
	}
}

func TestMalformedBytesAreAnError(t *testing.T) {
	for name, b := range map[string][]byte{
		"cut tag":        {0x80},
		"cut varint":     {0x08, 0xff},
		"length too big": {0x0a, 0x05, 1, 2},
		"group":          {0x0b},
		"cut fixed64":    {0x09, 1, 2, 3},
	} {
		if _, err := ParseEntry(b); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v, want ErrFormat", name, err)
		}
	}
}

func FuzzFields(f *testing.F) {
	f.Add([]byte{0x0a, 0x01, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		w := Walk(b)
		for w.Next() {
			if len(w.Bytes) > len(b) {
				t.Fatal("a field longer than its message")
			}
		}
	})
}

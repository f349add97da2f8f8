package gateway

import (
	"testing"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

// FuzzClientMessage reads what clients send, in both subprotocols. What is
// taken for a frame can be written and read again.
func FuzzClientMessage(f *testing.F) {
	for _, seed := range []string{
		``, ` `, `null`, `[]`, `[null]`, `{}`, `{"id":1}`, `{"id":-1,"ping":{}}`, `{"id":7,"nope":{}}`,
		`{"id":1,"hello":{"token":"t","device":"d","positions":[{"conversation":"d:a~b","seq":"7"}]}}`,
		`[{"send":{"user":"bob","client_id":"c","text":{"body":"\ud83d\ude00"}}},{"ping":{}}]`,
		`{"ack":{"positions":[{"seq":18446744073709551615}]}}`, `{"ack":{"positions":[{"seq":1e3}]}}`,
		"{\"id\":1,\"send\":{\"text\":{\"body\":\"\xff\"}}}",
	} {
		f.Add([]byte(seed), true)
	}
	batch, err := proto.Marshal(&messages.ClientBatch{Frames: []*messages.ClientFrame{
		{Id: 1, Command: &messages.ClientFrame_Ping{Ping: &messages.Ping{}}}, {Id: 2},
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(batch, false)
	f.Add(batch[:len(batch)-1], false)
	f.Fuzz(func(t *testing.T, b []byte, text bool) {
		var c codec = protoCodec{}
		kind := websocket.BinaryMessage
		if text {
			c, kind = jsonCodec{}, websocket.TextMessage
		}
		frames, err := c.decode(kind, b)
		if err != nil {
			return
		}
		for _, frame := range frames {
			encoded, err := proto.Marshal(frame)
			if err != nil {
				t.Fatalf("a frame that was read can't be written: %v", err)
			}
			if err := proto.Unmarshal(encoded, &messages.ClientFrame{}); err != nil {
				t.Fatalf("a frame that was written can't be read: %v", err)
			}
		}
		if other, err := c.decode(3-kind, b); err == nil {
			t.Fatalf("a message of the wrong type gave %d frames", len(other))
		}
	})
}

func TestSentByHandIsTheSame(t *testing.T) {
	for _, s := range []*messages.Sent{
		{},
		{Conversation: "d:ana~bob", Seq: 1, ClientId: "c", At: 1795427690036},
		{Conversation: "d:ana~bob", Seq: 1 << 40, ClientId: "c", At: 1, Duplicate: true},
	} {
		for _, re := range []uint32{0, 1, 300, 1 << 31} {
			f := &messages.ServerFrame{Re: re, Event: &messages.ServerFrame_Sent{Sent: s}}
			var batch messages.ServerBatch
			if err := proto.Unmarshal(protoCodec{}.sent(nil, re, s), &batch); err != nil {
				t.Fatal(err)
			}
			if len(batch.Frames) != 1 || !proto.Equal(batch.Frames[0], f) {
				t.Errorf("wrote %v for %v", &batch, f)
			}
		}
	}
}

package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

// codec is one of the two encodings of troupe.v1.
type codec struct {
	subprotocol string
	messageType int
	// frame encodes one frame; batch makes a WebSocket message of frames;
	// overhead is what a batch adds to each frame, at most.
	frame    func(*messages.ClientFrame) ([]byte, error)
	batch    func([][]byte) []byte
	decode   func([]byte) ([]*messages.ServerFrame, error)
	overhead int
}

var binaryCodec = codec{
	subprotocol: "troupe.v1.proto",
	messageType: websocket.BinaryMessage,
	frame:       func(f *messages.ClientFrame) ([]byte, error) { return proto.Marshal(f) },
	batch:       binaryBatch,
	decode:      decodeBinary,
	overhead:    8,
}

var jsonCodec = codec{
	subprotocol: "troupe.v1.json",
	messageType: websocket.TextMessage,
	frame:       func(f *messages.ClientFrame) ([]byte, error) { return protojson.Marshal(f) },
	batch:       jsonBatch,
	decode:      decodeJSON,
	overhead:    2,
}

// binaryBatch writes a ClientBatch around frames that are encoded already.
func binaryBatch(frames [][]byte) []byte {
	var b []byte
	for _, f := range frames {
		b = protowire.AppendTag(b, 1, protowire.BytesType)
		b = protowire.AppendBytes(b, f)
	}
	return b
}

func jsonBatch(frames [][]byte) []byte {
	return append(append([]byte{'['}, bytes.Join(frames, []byte{','})...), ']')
}

func decodeBinary(b []byte) ([]*messages.ServerFrame, error) {
	batch := &messages.ServerBatch{}
	if err := proto.Unmarshal(b, batch); err != nil {
		return nil, fmt.Errorf("decoding a message of the server: %w", err)
	}
	return batch.Frames, nil
}

func decodeJSON(b []byte) ([]*messages.ServerFrame, error) {
	raw := []json.RawMessage{b}
	if b = bytes.TrimSpace(b); len(b) > 0 && b[0] == '[' {
		raw = nil
		if err := json.Unmarshal(b, &raw); err != nil {
			return nil, fmt.Errorf("decoding a message of the server: %w", err)
		}
	}
	frames := make([]*messages.ServerFrame, len(raw))
	for i := range raw {
		frames[i] = &messages.ServerFrame{}
		if err := lenient.Unmarshal(raw[i], frames[i]); err != nil {
			return nil, fmt.Errorf("decoding a frame of the server: %w", err)
		}
	}
	return frames, nil
}

var lenient = protojson.UnmarshalOptions{DiscardUnknown: true}

var errMalformed = errors.New("the server sent an entry without a conversation or a seq")

// wellFormed checks what the rest of the package relies on.
func wellFormed(d *messages.Deliver) error {
	for _, e := range d.Entries {
		if e.GetConversation() == "" || e.GetSeq() == 0 {
			return errMalformed
		}
	}
	return nil
}

package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/gorilla/websocket"

	"github.com/troupe-chat/troupe/messages"
)

// The subprotocols.
const (
	ProtocolProto = "troupe.v1.proto"
	ProtocolJSON  = "troupe.v1.json"
)

// errBadFrame says that a WebSocket message is not of its subprotocol at all.
var errBadFrame = errors.New("not a message of this subprotocol")

// codec is one subprotocol: how frames are read and written.
type codec interface {
	name() string
	messageType() int
	// decode returns the frames of one WebSocket message. A frame that is no
	// command of the schema comes back without one.
	decode(kind int, b []byte) ([]*messages.ClientFrame, error)
	// frame appends f as one frame of a batch.
	frame(buf []byte, f *messages.ServerFrame) []byte
	// sent is frame for the one that is written most.
	sent(buf []byte, re uint32, s *messages.Sent) []byte
	// entry appends e as one element of a deliver frame's entries.
	entry(buf []byte, e *messages.Encoded) []byte
	// deliver appends a deliver frame of entries made by entry.
	deliver(buf, entries []byte, starts []*messages.Position, backlog bool) []byte
	// batch returns frames made by frame and deliver as one WebSocket message,
	// in buf or as they are.
	batch(buf []byte, frames []byte, ends []int) []byte
}

func codecOf(protocol string) codec {
	if protocol == ProtocolProto {
		return protoCodec{}
	}
	return jsonCodec{}
}

// ---------------------------------------------------------------- protobuf

type protoCodec struct{}

const (
	fieldFrames  = protowire.Number(1) // ServerBatch.frames
	fieldRe      = protowire.Number(1) // ServerFrame.re
	fieldSent    = protowire.Number(3) // ServerFrame.sent
	fieldDeliver = protowire.Number(4) // ServerFrame.deliver
	fieldEntries = protowire.Number(1) // Deliver.entries
	fieldBacklog = protowire.Number(2) // Deliver.backlog
	fieldStarts  = protowire.Number(3) // Deliver.starts
)

func (protoCodec) name() string     { return ProtocolProto }
func (protoCodec) messageType() int { return websocket.BinaryMessage }

func (protoCodec) decode(kind int, b []byte) ([]*messages.ClientFrame, error) {
	if kind != websocket.BinaryMessage {
		return nil, errBadFrame
	}
	var batch messages.ClientBatch
	if proto.Unmarshal(b, &batch) != nil {
		return nil, errBadFrame
	}
	return batch.Frames, nil
}

func (protoCodec) frame(buf []byte, f *messages.ServerFrame) []byte {
	buf = protowire.AppendTag(buf, fieldFrames, protowire.BytesType)
	buf = protowire.AppendVarint(buf, uint64(proto.Size(f)))
	out, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(buf, f)
	if err != nil {
		// Only invalid UTF-8 fails, and no string gets here unchecked.
		return protowire.AppendVarint(buf[:len(buf)-protowire.SizeVarint(uint64(proto.Size(f)))], 0)
	}
	return out
}

// sent is written by hand: it is half of what a busy server writes.
func (protoCodec) sent(buf []byte, re uint32, s *messages.Sent) []byte {
	size := sizeOfSent(s)
	frame := protowire.SizeTag(fieldSent) + protowire.SizeBytes(size)
	if re != 0 {
		frame += protowire.SizeTag(fieldRe) + protowire.SizeVarint(uint64(re))
	}
	buf = protowire.AppendTag(buf, fieldFrames, protowire.BytesType)
	buf = protowire.AppendVarint(buf, uint64(frame))
	buf = appendNumber(buf, fieldRe, uint64(re))
	buf = protowire.AppendTag(buf, fieldSent, protowire.BytesType)
	buf = protowire.AppendVarint(buf, uint64(size))
	buf = appendText(buf, 1, s.Conversation)
	buf = appendNumber(buf, 2, s.Seq)
	buf = appendText(buf, 3, s.ClientId)
	buf = appendNumber(buf, 4, uint64(s.At))
	return appendNumber(buf, 5, protowire.EncodeBool(s.Duplicate))
}

func sizeOfSent(s *messages.Sent) int {
	return sizeOfText(s.Conversation) + sizeOfNumber(s.Seq) + sizeOfText(s.ClientId) +
		sizeOfNumber(uint64(s.At)) + sizeOfNumber(protowire.EncodeBool(s.Duplicate))
}

// The fields of Sent have tags of one byte, and are left out at zero.

func sizeOfText(s string) int {
	if s == "" {
		return 0
	}
	return 1 + protowire.SizeBytes(len(s))
}

func sizeOfNumber(n uint64) int {
	if n == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(n)
}

func appendText(buf []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return buf
	}
	return protowire.AppendString(protowire.AppendTag(buf, field, protowire.BytesType), s)
}

func appendNumber(buf []byte, field protowire.Number, n uint64) []byte {
	if n == 0 {
		return buf
	}
	return protowire.AppendVarint(protowire.AppendTag(buf, field, protowire.VarintType), n)
}

func (protoCodec) entry(buf []byte, e *messages.Encoded) []byte {
	buf = protowire.AppendTag(buf, fieldEntries, protowire.BytesType)
	return protowire.AppendBytes(buf, e.Proto())
}

func (protoCodec) deliver(buf, entries []byte, starts []*messages.Position, backlog bool) []byte {
	var tail []byte
	if backlog {
		tail = protowire.AppendTag(tail, fieldBacklog, protowire.VarintType)
		tail = protowire.AppendVarint(tail, 1)
	}
	for _, s := range starts {
		tail = protowire.AppendTag(tail, fieldStarts, protowire.BytesType)
		tail = protowire.AppendVarint(tail, uint64(proto.Size(s)))
		tail, _ = proto.MarshalOptions{}.MarshalAppend(tail, s)
	}
	size := len(entries) + len(tail)
	buf = protowire.AppendTag(buf, fieldFrames, protowire.BytesType)
	buf = protowire.AppendVarint(buf, uint64(protowire.SizeTag(fieldDeliver)+protowire.SizeBytes(size)))
	buf = protowire.AppendTag(buf, fieldDeliver, protowire.BytesType)
	buf = protowire.AppendVarint(buf, uint64(size))
	buf = append(buf, entries...)
	return append(buf, tail...)
}

func (protoCodec) batch(_, frames []byte, _ []int) []byte { return frames }

// ---------------------------------------------------------------- JSON

type jsonCodec struct{}

func (jsonCodec) name() string     { return ProtocolJSON }
func (jsonCodec) messageType() int { return websocket.TextMessage }

func (jsonCodec) decode(kind int, b []byte) ([]*messages.ClientFrame, error) {
	if kind != websocket.TextMessage || !utf8.Valid(b) || !json.Valid(b) {
		return nil, errBadFrame
	}
	b = bytes.TrimSpace(b)
	if b[0] != '[' {
		return []*messages.ClientFrame{decodeFrame(b)}, nil
	}
	var raw []json.RawMessage
	if json.Unmarshal(b, &raw) != nil {
		return nil, errBadFrame
	}
	frames := make([]*messages.ClientFrame, len(raw))
	for i, r := range raw {
		frames[i] = decodeFrame(r)
	}
	return frames, nil
}

// decodeFrame reads one frame. One that does not fit the schema keeps its id,
// so that the client knows which of its commands was invalid.
func decodeFrame(b []byte) *messages.ClientFrame {
	f := &messages.ClientFrame{}
	if (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, f) == nil {
		return f
	}
	var id struct {
		ID uint32 `json:"id"`
	}
	_ = json.Unmarshal(b, &id) // an unusable id is none
	return &messages.ClientFrame{Id: id.ID}
}

func (jsonCodec) frame(buf []byte, f *messages.ServerFrame) []byte {
	return append(buf, messages.CompactJSON(f)...)
}

func (c jsonCodec) sent(buf []byte, re uint32, s *messages.Sent) []byte {
	return c.frame(buf, &messages.ServerFrame{Re: re, Event: &messages.ServerFrame_Sent{Sent: s}})
}

func (jsonCodec) entry(buf []byte, e *messages.Encoded) []byte {
	if len(buf) > 0 {
		buf = append(buf, ',')
	}
	return append(buf, e.JSON()...)
}

func (jsonCodec) deliver(buf, entries []byte, starts []*messages.Position, backlog bool) []byte {
	buf = append(buf, `{"deliver":{"entries":[`...)
	buf = append(buf, entries...)
	buf = append(buf, ']')
	if backlog {
		buf = append(buf, `,"backlog":true`...)
	}
	for i, s := range starts {
		if i == 0 {
			buf = append(buf, `,"starts":[`...)
		} else {
			buf = append(buf, ',')
		}
		buf = append(buf, messages.CompactJSON(s)...)
	}
	if len(starts) > 0 {
		buf = append(buf, ']')
	}
	return append(buf, '}', '}')
}

func (jsonCodec) batch(buf, frames []byte, ends []int) []byte {
	if len(ends) == 1 {
		return append(buf, frames...)
	}
	start := 0
	sep := byte('[')
	for _, end := range ends {
		buf = append(buf, sep)
		buf = append(buf, frames[start:end]...)
		start, sep = end, ','
	}
	return append(buf, ']')
}

// Package wire reads and writes the frames of troupe.v1.proto that make up
// nearly all traffic, by walking protobuf fields in place. A load generator
// shares its machine with the server it measures, so what it spends on a
// message is taken from the server.
//
// Byte slices that a parser returns are parts of its input.
package wire

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

// Number is the number of a protobuf field.
type Number = protowire.Number

// Events of a ServerFrame.
const (
	EventWelcome Number = 2
	EventSent    Number = 3
	EventDeliver Number = 4
	EventReceipt Number = 6
	EventGroup   Number = 11
	EventError   Number = 16
)

// Commands of a ClientFrame.
const (
	CommandHello Number = 2
	CommandSend  Number = 3
	CommandAck   Number = 4
)

// ErrFormat says that bytes are not the protobuf message they should be.
var ErrFormat = errors.New("malformed protobuf")

// Fields walks the fields of one message: Next moves to the next field, whose
// number, and value by its wire type, are then in Num, Int and Bytes.
type Fields struct {
	Num   Number
	Int   uint64
	Bytes []byte

	rest []byte
	err  error
}

// Walk returns a walk over the message b.
func Walk(b []byte) Fields { return Fields{rest: b} }

// Next moves to the next field. It returns false at the end and at the first
// field that is malformed; Err tells which.
func (f *Fields) Next() bool {
	if len(f.rest) == 0 || f.err != nil {
		return false
	}
	tag, ok := f.varint()
	if !ok {
		return false
	}
	f.Num, f.Int, f.Bytes = Number(tag>>3), 0, nil
	return f.value(protowire.Type(tag & 7))
}

// Err returns ErrFormat where the walk ended before the message did.
func (f *Fields) Err() error { return f.err }

func (f *Fields) value(t protowire.Type) bool {
	switch t {
	case protowire.VarintType:
		v, ok := f.varint()
		f.Int = v
		return ok
	case protowire.BytesType:
		n, ok := f.varint()
		return ok && f.take(n)
	case protowire.Fixed64Type:
		return f.take(8)
	case protowire.Fixed32Type:
		return f.take(4)
	}
	return f.fail()
}

func (f *Fields) take(n uint64) bool {
	if n > uint64(len(f.rest)) {
		return f.fail()
	}
	f.Bytes, f.rest = f.rest[:n], f.rest[n:]
	return true
}

func (f *Fields) varint() (uint64, bool) {
	if len(f.rest) > 0 && f.rest[0] < 0x80 {
		v := uint64(f.rest[0])
		f.rest = f.rest[1:]
		return v, true
	}
	v, n := protowire.ConsumeVarint(f.rest)
	if n < 0 {
		return 0, f.fail()
	}
	f.rest = f.rest[n:]
	return v, true
}

func (f *Fields) fail() bool {
	f.err = ErrFormat
	return false
}

// Frame is one ClientFrame or ServerFrame: its id or re, which command or
// event it is, and the encoded message of that.
type Frame struct {
	ID   uint32
	Kind Number
	Body []byte
}

// ParseFrame reads a ClientFrame or a ServerFrame.
func ParseFrame(b []byte) (Frame, error) {
	var fr Frame
	f := Walk(b)
	for f.Next() {
		if f.Num == 1 {
			fr.ID = uint32(f.Int)
		} else {
			fr.Kind, fr.Body = f.Num, f.Bytes
		}
	}
	return fr, f.Err()
}

// Sent is a sent frame.
type Sent struct {
	Conversation, ClientID []byte
	Seq                    uint64
	At                     int64 // ms
	Duplicate              bool
}

// ParseSent reads a messages.Sent.
func ParseSent(b []byte) (Sent, error) {
	var s Sent
	f := Walk(b)
	for f.Next() {
		switch f.Num {
		case 1:
			s.Conversation = f.Bytes
		case 2:
			s.Seq = f.Int
		case 3:
			s.ClientID = f.Bytes
		case 4:
			s.At = int64(f.Int)
		case 5:
			s.Duplicate = f.Int != 0
		}
	}
	return s, f.Err()
}

// Entry is an entry of a deliver frame, without its content.
type Entry struct {
	Conversation, From, ClientID []byte
	Seq                          uint64
}

// ParseEntry reads a messages.Entry.
func ParseEntry(b []byte) (Entry, error) {
	var e Entry
	f := Walk(b)
	for f.Next() {
		switch f.Num {
		case 1:
			e.Conversation = f.Bytes
		case 2:
			e.Seq = f.Int
		case 3:
			e.From = f.Bytes
		case 4:
			e.ClientID = f.Bytes
		}
	}
	return e, f.Err()
}

// Send is a send of a text to a user.
type Send struct {
	User, ClientID []byte
	Text           []byte // an encoded messages.Text
}

// ParseSend reads a messages.Send.
func ParseSend(b []byte) (Send, error) {
	var s Send
	f := Walk(b)
	for f.Next() {
		switch f.Num {
		case 2:
			s.User = f.Bytes
		case 3:
			s.ClientID = f.Bytes
		case 5:
			s.Text = f.Bytes
		}
	}
	return s, f.Err()
}

// AppendSend appends a send of a text to a ClientBatch. Exactly one of
// conversation and user is not empty.
func AppendSend(dst []byte, id uint32, conversation, user string, clientID, body []byte) []byte {
	text := sizeBytes(1, len(body))
	send := sizeString(1, conversation) + sizeString(2, user) + sizeBytes(3, len(clientID)) + sizeBytes(5, text)
	frame := sizeInt(1, uint64(id)) + sizeBytes(int(CommandSend), send)
	dst = appendHeader(dst, 1, frame)
	dst = appendInt(dst, 1, uint64(id))
	dst = appendHeader(dst, CommandSend, send)
	dst = appendString(dst, 1, conversation)
	dst = appendString(dst, 2, user)
	dst = appendHeader(dst, 3, len(clientID))
	dst = append(dst, clientID...)
	dst = appendHeader(dst, 5, text)
	dst = appendHeader(dst, 1, len(body))
	return append(dst, body...)
}

// Position is a seq in a conversation.
type Position struct {
	Conversation string
	Seq          uint64
}

func (p Position) size() int {
	return sizeString(1, p.Conversation) + sizeInt(2, p.Seq)
}

// AppendAck appends an ack to a ClientBatch.
func AppendAck(dst []byte, positions []Position) []byte {
	ack := 0
	for _, p := range positions {
		ack += sizeBytes(1, p.size())
	}
	dst = appendHeader(dst, 1, sizeBytes(int(CommandAck), ack))
	dst = appendHeader(dst, CommandAck, ack)
	for _, p := range positions {
		dst = appendHeader(dst, 1, p.size())
		dst = appendString(dst, 1, p.Conversation)
		dst = appendInt(dst, 2, p.Seq)
	}
	return dst
}

// AppendSent appends a sent frame to a ServerBatch.
func AppendSent(dst []byte, re uint32, s Sent) []byte {
	sent := sizeBytes(1, len(s.Conversation)) + sizeInt(2, s.Seq) + sizeBytes(3, len(s.ClientID)) + sizeInt(4, uint64(s.At))
	frame := sizeInt(1, uint64(re)) + sizeBytes(int(EventSent), sent)
	dst = appendHeader(dst, 1, frame)
	dst = appendInt(dst, 1, uint64(re))
	dst = appendHeader(dst, EventSent, sent)
	dst = appendHeader(dst, 1, len(s.Conversation))
	dst = append(dst, s.Conversation...)
	dst = appendInt(dst, 2, s.Seq)
	dst = appendHeader(dst, 3, len(s.ClientID))
	dst = append(dst, s.ClientID...)
	return appendInt(dst, 4, uint64(s.At))
}

// AppendDeliver appends a deliver frame of one encoded entry to a ServerBatch.
func AppendDeliver(dst, entry []byte) []byte {
	deliver := sizeBytes(1, len(entry))
	dst = appendHeader(dst, 1, sizeBytes(int(EventDeliver), deliver))
	dst = appendHeader(dst, EventDeliver, deliver)
	dst = appendHeader(dst, 1, len(entry))
	return append(dst, entry...)
}

// AppendEntryTail appends the fields of an entry that are known before it has
// its place: author, client id, time and an encoded messages.Text.
func AppendEntryTail(dst []byte, from string, clientID []byte, at int64, text []byte) []byte {
	dst = appendString(dst, 3, from)
	dst = appendHeader(dst, 4, len(clientID))
	dst = append(dst, clientID...)
	dst = appendInt(dst, 5, uint64(at))
	dst = appendHeader(dst, 7, len(text))
	return append(dst, text...)
}

// AppendEntryHead appends the place of an entry.
func AppendEntryHead(dst []byte, conversation string, seq uint64) []byte {
	return appendInt(appendString(dst, 1, conversation), 2, seq)
}

// AppendFrame appends any frame to the batch of its direction.
func AppendFrame[M *messages.ClientFrame | *messages.ServerFrame](dst []byte, frame M) ([]byte, error) {
	b, err := proto.Marshal(any(frame).(proto.Message))
	if err != nil {
		return dst, fmt.Errorf("encode a frame: %w", err)
	}
	return append(appendHeader(dst, 1, len(b)), b...), nil
}

func appendHeader(dst []byte, num Number, size int) []byte {
	dst = protowire.AppendTag(dst, num, protowire.BytesType)
	return protowire.AppendVarint(dst, uint64(size))
}

func appendString(dst []byte, num Number, s string) []byte {
	if s == "" {
		return dst
	}
	return append(appendHeader(dst, num, len(s)), s...)
}

func appendInt(dst []byte, num Number, v uint64) []byte {
	dst = protowire.AppendTag(dst, num, protowire.VarintType)
	return protowire.AppendVarint(dst, v)
}

func sizeBytes(num, n int) int { return protowire.SizeTag(Number(num)) + protowire.SizeBytes(n) }

func sizeInt(num int, v uint64) int {
	return protowire.SizeTag(Number(num)) + protowire.SizeVarint(v)
}

func sizeString(num int, s string) int {
	if s == "" {
		return 0
	}
	return sizeBytes(num, len(s))
}

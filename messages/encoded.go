package messages

import (
	"bytes"
	"encoding/json"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Encoded is an entry with its encodings, each made once however many devices
// get it. Safe for concurrent use; nobody changes what it returns.
type Encoded struct {
	Entry *Entry
	proto []byte
	once  sync.Once
	json  []byte
}

// Encode returns e with its binary encoding.
func Encode(e *Entry) (*Encoded, error) {
	b, err := proto.Marshal(e)
	if err != nil {
		return nil, err
	}
	return &Encoded{Entry: e, proto: b}, nil
}

// Decode returns the entry that b encodes.
func Decode(b []byte) (*Encoded, error) {
	e := &Entry{}
	if err := proto.Unmarshal(b, e); err != nil {
		return nil, err
	}
	return &Encoded{Entry: e, proto: b}, nil
}

// Proto returns the binary encoding.
func (e *Encoded) Proto() []byte { return e.proto }

// JSON returns the ProtoJSON encoding.
func (e *Encoded) JSON() []byte {
	e.once.Do(func() { e.json = CompactJSON(e.Entry) })
	return e.json
}

// CompactJSON returns the ProtoJSON of m, without white space.
func CompactJSON(m proto.Message) []byte {
	b, err := protojson.Marshal(m)
	if err != nil {
		// Only invalid UTF-8 and unset required fields fail; neither is
		// accepted from a client or made here.
		return []byte("{}")
	}
	var out bytes.Buffer
	if json.Compact(&out, b) != nil {
		return b
	}
	return out.Bytes()
}

// Hint tells the devices of users of durable entries First, First+1, … of one
// conversation. Immutable: many connections share one.
type Hint struct {
	Conversation ConversationID
	First        Seq
	Entries      []*Encoded
	Users        []UserID
}

package pebble

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// at is the time of every entry that these tests append.
const at = 1_790_000_000_000

// batchOf makes an append of texts of ana at first and on, each with a client
// id of its own.
func batchOf(c messages.ConversationID, first messages.Seq, bodies ...string) *persistence.Batch {
	b := &persistence.Batch{Conversation: c, ExpectHead: first - 1}
	binary.BigEndian.PutUint64(b.ID[:], uint64(first))
	copy(b.ID[8:], c[max(0, len(c)-8):])
	for i, body := range bodies {
		seq := first + messages.Seq(i)
		id := messages.ClientID(fmt.Sprint("id", seq))
		entry, err := proto.Marshal(&messages.Entry{
			Conversation: string(c), Seq: uint64(seq), From: "ana", ClientId: string(id), At: at,
			Kind: &messages.Entry_Text{Text: &messages.Text{Body: body}},
		})
		must(err)
		b.Rows = append(b.Rows, persistence.Row{Seq: seq, At: at, Entry: entry, Countable: uint64(seq)})
		b.Dedup = append(b.Dedup, persistence.Dedup{Author: "ana", ClientID: id, Seq: seq, Hash: 1, At: at})
	}
	return b
}

// appendNow appends b and waits for the outcome.
func appendNow(s *Store, b *persistence.Batch) error {
	return <-appending(s, b)
}

// appending appends b and returns where its outcome will be.
func appending(s *Store, b *persistence.Batch) <-chan error {
	answer := make(chan error, 1)
	s.Append(b, func(err error) { answer <- err })
	return answer
}

package history

import (
	"fmt"
	"hash/fnv"

	"github.com/troupe-chat/troupe/messages"
)

// EntryOf returns an entry as this package keeps it. What was edited or
// retracted is served with another content than was sent, and has no hash.
func EntryOf(e *messages.Entry) Entry {
	out := Entry{
		Conversation: messages.ConversationID(e.Conversation),
		Seq:          messages.Seq(e.Seq),
		Author:       messages.UserID(e.From),
		ClientID:     messages.ClientID(e.ClientId),
		At:           e.At,
		Event:        e.GetEvent(),
	}
	if e.EditedAt == 0 && e.RetractedAt == 0 {
		out.Hash = hash(e)
	}
	return out
}

// HashOf returns the hash that the entry of a send will have.
func HashOf(s *messages.Send) uint64 { return hash(s) }

// content is what a send and its entry have in common.
type content interface {
	GetReplyTo() uint64
	GetText() *messages.Text
	GetMedia() *messages.Media
	GetEdit() *messages.Edit
	GetRetract() *messages.Retract
	GetReaction() *messages.Reaction
}

// hash leaves out what the server adds to media.
func hash(c content) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %q %q %q", c.GetReplyTo(), c.GetText().GetBody(), c.GetMedia().GetMedia(), c.GetMedia().GetCaption())
	fmt.Fprintf(h, " %d %q %d", c.GetEdit().GetSeq(), c.GetEdit().GetBody(), c.GetRetract().GetSeq())
	fmt.Fprintf(h, " %d %q", c.GetReaction().GetSeq(), c.GetReaction().GetEmoji())
	return h.Sum64()
}

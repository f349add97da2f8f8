package rules

import (
	"slices"

	"github.com/troupe-chat/troupe/messages"
)

// ContentHash tells whether two commands with one client id are the same: it
// is a hash of the content, not of how the conversation was named nor of the
// client id. It is the same in every process and version, since it is stored.
// It does not resist an author who looks for a collision, and need not: such
// an author deceives only itself.
func ContentHash(c Command) uint64 {
	switch command := c.Frame.GetCommand().(type) {
	case *messages.ClientFrame_Send:
		return hashSend(command.Send)
	case *messages.ClientFrame_CreateGroup:
		return creationHash(creation(c.User, command.CreateGroup))
	case *messages.ClientFrame_ChangeGroup:
		return hashChange(command.ChangeGroup)
	}
	return 0
}

// What a hash begins with, so that two kinds of content with equal fields
// differ. Stored: never renumbered.
const (
	hashText     = 1
	hashMedia    = 2
	hashEdit     = 3
	hashRetract  = 4
	hashReaction = 5
	hashCreate   = 6
	hashMembers  = 7
)

func hashSend(send *messages.Send) uint64 {
	h := hasher(0)
	switch content := send.GetContent().(type) {
	case *messages.Send_Text:
		h = h.number(hashText).text(content.Text.GetBody())
	case *messages.Send_Media:
		h = h.number(hashMedia).text(content.Media.GetMedia()).text(content.Media.GetCaption())
	case *messages.Send_Edit:
		h = h.number(hashEdit).number(content.Edit.GetSeq()).text(content.Edit.GetBody())
	case *messages.Send_Retract:
		h = h.number(hashRetract).number(content.Retract.GetSeq())
	case *messages.Send_Reaction:
		h = h.number(hashReaction).number(content.Reaction.GetSeq()).text(content.Reaction.GetEmoji())
	}
	return uint64(h.number(send.GetReplyTo()))
}

// creationHash takes the event, not the command: entry 1 of a group tells its
// own hash.
func creationHash(created *messages.Event) uint64 {
	return uint64(hasher(0).number(hashCreate).texts(created.Users).text(created.Name).text(created.History))
}

func hashChange(change *messages.ChangeGroup) uint64 {
	h := hasher(0).number(hashMembers)
	for _, users := range [][]string{change.GetAdd(), change.GetRemove(), change.GetPromote(), change.GetDemote()} {
		h = h.texts(sortedSet(users))
	}
	h = h.text(change.GetName())
	if change.GetLeave() {
		h = h.number(1)
	}
	return uint64(h)
}

func sortedSet(users []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(users)))
}

// hasher is a hash in the making. Every text is preceded by its length and
// every list by its count, so that two different contents never hash the same
// sequence of numbers.
type hasher uint64

func (h hasher) number(n uint64) hasher {
	h = (h ^ hasher(n)) * 0x9e3779b97f4a7c15
	return (h ^ h>>32) * 0xd6e8feb86659fd93
}

// text takes s eight bytes at a time, little-endian, the last ones padded with
// zeros.
func (h hasher) text(s string) hasher {
	h = h.number(uint64(len(s)))
	for ; len(s) >= 8; s = s[8:] {
		h = h.number(uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56)
	}
	tail := uint64(0)
	for i := range len(s) {
		tail |= uint64(s[i]) << (8 * i)
	}
	return h.number(tail)
}

func (h hasher) texts(list []string) hasher {
	h = h.number(uint64(len(list)))
	for _, s := range list {
		h = h.text(s)
	}
	return h
}

package actors

import (
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/troupe-chat/troupe/messages"
)

// group is the virtual actor of a group: a conversation with membership and
// roles, which its rules know. It takes the same messages. What a group does
// otherwise is here: its receipts cost a frame to an author for each member, so
// those of a large group are told more rarely; the full picture is there on
// demand.
type group struct{ *conversation }

const (
	promptReceipts = 32 // members; a larger group's are told each
	rareReceipts   = 5 * time.Second
)

// NewGroup returns the behaviour of the group kind.
func NewGroup(env *Env, identity string) actor.Actor {
	return group{newConversation(env, identity, policy{receiptEvery: groupReceiptEvery})}
}

func groupReceiptEvery(members int) time.Duration {
	if members <= promptReceipts {
		return messages.ReceiptEvery
	}
	return rareReceipts
}

package rules

import (
	"slices"

	"github.com/troupe-chat/troupe/messages"
)

// decideErase judges what the server does in the name of a deleted user: it
// retracts a text or media of that user, or makes the user leave a group. It
// asks neither whether the user is a member still, nor for blocks and rates,
// nor for a client id: such an entry has none, so that no id that the user
// once took can stand in its way. What is done already is refused.
func (s *State) decideErase(c Command, k Known, at int64) (Decision, *messages.Failure) {
	if c.Frame.GetChangeGroup().GetLeave() {
		return s.decideEraseMember(c.User, at)
	}
	send := c.Frame.GetSend()
	if send.GetRetract() == nil {
		return Decision{}, errNoCommand()
	}
	if k.Target == nil || k.Target.Author != c.User || !k.Target.Countable {
		return Decision{}, errNoEntry()
	}
	if k.Target.Retracted || slices.Contains(s.withdrawn, k.Target.Seq) {
		return Decision{}, errRetracted()
	}
	return Decision{Entries: s.entry(c.User, send, k, at)}, nil
}

func (s *State) decideEraseMember(u messages.UserID, at int64) (Decision, *messages.Failure) {
	if _, member := s.Member(u); !member || s.direct {
		return Decision{}, errNoConversation()
	}
	d := &draft{state: s.clone(), by: u, at: at}
	d.leave()
	return Decision{Entries: d.entries}, nil
}

package client

import (
	"crypto/rand"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

// Target is where an entry goes: a conversation, or a user, whose direct
// conversation the server opens where there is none yet.
type Target struct {
	Conversation messages.ConversationID
	User         messages.UserID
}

// ToUser is the direct conversation with u.
func ToUser(u messages.UserID) Target { return Target{User: u} }

// In is the conversation c.
func In(c messages.ConversationID) Target { return Target{Conversation: c} }

func (t Target) send() *messages.Send {
	return &messages.Send{Conversation: string(t.Conversation), User: string(t.User)}
}

// Text is a text for t.
func Text(t Target, body string) *messages.Send {
	s := t.send()
	s.Content = &messages.Send_Text{Text: &messages.Text{Body: body}}
	return s
}

// Media is a completed upload for t.
func Media(t Target, media, caption string) *messages.Send {
	s := t.send()
	s.Content = &messages.Send_Media{Media: &messages.Media{Media: media, Caption: caption}}
	return s
}

// Edit gives the text or media at seq another body.
func Edit(t Target, seq messages.Seq, body string) *messages.Send {
	s := t.send()
	s.Content = &messages.Send_Edit{Edit: &messages.Edit{Seq: uint64(seq), Body: body}}
	return s
}

// Retract takes the entry at seq back.
func Retract(t Target, seq messages.Seq) *messages.Send {
	s := t.send()
	s.Content = &messages.Send_Retract{Retract: &messages.Retract{Seq: uint64(seq)}}
	return s
}

// React sets one's reaction to the entry at seq; empty removes it.
func React(t Target, seq messages.Seq, emoji string) *messages.Send {
	s := t.send()
	s.Content = &messages.Send_Reaction{Reaction: &messages.Reaction{Seq: uint64(seq), Emoji: emoji}}
	return s
}

// Send queues s and returns at once. A missing client id is made up. The error
// says that nothing was queued: the queue is full, or the Store failed.
//
// The entry is on its way until the server takes it, or refuses it for a
// reason that time does not change. Refusals that do pass are waited out.
func (c *Client) Send(s *messages.Send) (*Outgoing, error) {
	if s.Conversation == "" && s.User == "" {
		return nil, messages.Fail(messages.CodeInvalid, "a send needs a conversation or a user")
	}
	if s.ClientId == "" {
		s = proto.CloneOf(s)
		s.ClientId = NewID()
	}
	return c.outbox.add(s)
}

// Unsent returns what is queued or under way, oldest first: at first, what an
// earlier process left in the Store.
func (c *Client) Unsent() []*Outgoing { return c.outbox.waiting() }

// NewID returns a random client id.
func NewID() string { return rand.Text() }

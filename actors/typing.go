package actors

import (
	"time"

	"github.com/troupe-chat/troupe/messages"
)

// typing is the part of a conversation that knows who is writing: what is not
// renewed ends by itself.
type typing struct {
	until map[messages.UserID]time.Time
	due   bool // a typingDue is on its way
}

type typingDue struct{}

func (t *typing) empty() bool { return len(t.until) == 0 }

// setTyping tells the other members that a user is writing, or no longer.
func (c *conversation) setTyping(u messages.UserID, active bool) {
	_, was := c.typing.until[u]
	if !active {
		if was {
			delete(c.typing.until, u)
			c.tellTyping(u, false)
		}
		return
	}
	if c.typing.until == nil {
		c.typing.until = map[messages.UserID]time.Time{}
	}
	c.typing.until[u] = c.env.Now().Add(messages.TypingFor)
	c.tellTyping(u, true)
	c.awaitTyping(messages.TypingFor)
}

func (c *conversation) awaitTyping(wait time.Duration) {
	if c.typing.due {
		return
	}
	c.typing.due = true
	time.AfterFunc(wait, func() { c.self(&typingDue{}) })
}

func (c *conversation) typingDue() {
	c.typing.due = false
	now := c.env.Now()
	var next time.Duration
	for u, until := range c.typing.until {
		left := until.Sub(now)
		if left <= 0 {
			delete(c.typing.until, u)
			c.tellTyping(u, false)
		} else if next == 0 || left < next {
			next = left
		}
	}
	if next > 0 {
		c.awaitTyping(next)
	}
}

func (c *conversation) tellTyping(u messages.UserID, active bool) {
	if c.state == nil {
		return
	}
	for _, member := range c.state.Members() {
		if member != u {
			c.env.Routes.Notify(member, &messages.ServerFrame{Event: &messages.ServerFrame_Typing{
				Typing: &messages.Typing{Conversation: string(c.id), User: string(u), Active: active},
			}})
		}
	}
}

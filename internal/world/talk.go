package world

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/troupe-chat/troupe/messages"
)

// Do is the command that carries m: a Hello, a Send, a Read and so on.
func Do(m proto.Message) *messages.ClientFrame {
	f := (&messages.ClientFrame{}).ProtoReflect()
	commands := f.Descriptor().Oneofs().ByName("command").Fields()
	for i := range commands.Len() {
		if field := commands.Get(i); field.Message() == m.ProtoReflect().Descriptor() {
			f.Set(field, protoreflect.ValueOfMessage(m.ProtoReflect()))
		}
	}
	return f.Interface().(*messages.ClientFrame)
}

// Text is the command that sends a text.
func Text(to, clientID, body string) *messages.ClientFrame {
	s := &messages.Send{ClientId: clientID, Content: &messages.Send_Text{Text: &messages.Text{Body: body}}}
	return Send(to, s)
}

// Send is the command that sends s to a user, or to a conversation.
func Send(to string, s *messages.Send) *messages.ClientFrame {
	if messages.ConversationID(to).Kind() == "" {
		s.User = to
	} else {
		s.Conversation = to
	}
	return Do(s)
}

// Says sends a text to a user or a conversation, by a client id of its own,
// and returns its answer.
func (c *Client) Says(to, body string) *messages.Sent {
	c.w.t.Helper()
	f := c.Ask(Text(to, c.freshID(), body))
	if f.GetSent() == nil {
		c.w.t.Fatalf("%s said %q to %s: %v", c.User, body, to, f)
	}
	return f.GetSent()
}

func (c *Client) freshID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprintf("%s-%d", c.Name, c.nextID+1)
}

// SaysMany sends n texts, several under way at a time, and waits until all are
// answered with sent.
func (c *Client) SaysMany(to, prefix string, n int) {
	c.w.t.Helper()
	const underWay = 16
	ids := make([]uint32, 0, n)
	for i := range n {
		ids = append(ids, c.Post(Text(to, fmt.Sprintf("%s-%d", prefix, i), fmt.Sprintf("%s %d", prefix, i))))
		if i >= underWay {
			c.mustBeSent(ids[i-underWay])
		}
	}
	for _, id := range ids[max(0, n-underWay):] {
		c.mustBeSent(id)
	}
}

func (c *Client) mustBeSent(id uint32) {
	c.w.t.Helper()
	if f := c.Answer(id); f.GetSent() == nil {
		c.w.t.Fatalf("%s sent, and was answered %v", c.User, f)
	}
}

// Sees waits for an entry with that body and returns it.
func (c *Client) Sees(body string) *messages.Entry {
	c.w.t.Helper()
	var found *messages.Entry
	c.Await(fmt.Sprintf("%q", body), func(f *messages.ServerFrame) bool {
		i := slices.IndexFunc(f.GetDeliver().GetEntries(), func(e *messages.Entry) bool { return e.GetText().GetBody() == body })
		if i >= 0 {
			found = f.GetDeliver().Entries[i]
		}
		return i >= 0
	})
	return found
}

// Entries returns the entries that deliver frames brought on this connection.
func (c *Client) Entries() []*messages.Entry {
	var out []*messages.Entry
	for _, f := range c.Frames() {
		out = append(out, f.GetDeliver().GetEntries()...)
	}
	return out
}

// Bodies returns the texts that deliver frames brought on this connection.
func (c *Client) Bodies() []string {
	var out []string
	for _, e := range c.Entries() {
		if t := e.GetText(); t != nil {
			out = append(out, t.Body)
		}
	}
	return out
}

// History asks for a page.
func (c *Client) History(h *messages.History) *messages.Page {
	c.w.t.Helper()
	f := c.Ask(Do(h))
	if f.GetPage() == nil {
		c.w.t.Fatalf("%s asked for a page: %v", c.User, f)
	}
	return f.GetPage()
}

// List asks for the first page of the list of conversations.
func (c *Client) List() []*messages.Conversation {
	c.w.t.Helper()
	f := c.Ask(Do(&messages.Conversations{}))
	if f.GetConversationList() == nil {
		c.w.t.Fatalf("%s asked for the list: %v", c.User, f)
	}
	return f.GetConversationList().Conversations
}

// Makes creates a group and returns its id.
func (c *Client) Makes(name, history string, members ...string) string {
	c.w.t.Helper()
	c.w.Users(members...)
	f := c.Ask(Do(&messages.CreateGroup{
		ClientId: "make-" + name, Name: name, Members: members, History: history,
	}))
	if f.GetGroup() == nil {
		c.w.t.Fatalf("%s made %s: %v", c.User, name, f)
	}
	c.w.meet(messages.ConversationID(f.GetGroup().Conversation))
	return f.GetGroup().Conversation
}

// Changes changes a group, by a client id of its own, and returns it.
func (c *Client) Changes(group string, change *messages.ChangeGroup) *messages.Group {
	c.w.t.Helper()
	change.Conversation, change.ClientId = group, c.freshID()
	f := c.Ask(Do(change))
	if f.GetGroup() == nil {
		c.w.t.Fatalf("%s changed %s: %v", c.User, group, f)
	}
	return f.GetGroup()
}

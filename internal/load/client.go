//go:build linux

package load

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/internal/load/wire"
	"github.com/troupe-chat/troupe/messages"
)

// client is one device. Owned by its loop once it is connected.
type client struct {
	w      *worker
	user   string
	device string
	start  string // of hello
	conn   *conn

	// opened is called once, with nil at welcome.
	opened func(error)
	// asked, where set, gets the answer to the one command that is no send.
	asked func(*messages.ServerFrame, error)

	current *member // of the last entry, nearly always the next one's too
	members map[string]*member

	unacked int       // entries delivered since the last ack
	owed    []*member // where they were
	acks    []wire.Position
}

// open makes a client of a socket and says hello.
func (c *client) open(fd int, token string) {
	conn, err := c.w.loop.add(fd, c)
	if err != nil {
		c.opened(err)
		return
	}
	c.conn = conn
	c.command(&messages.ClientFrame{Command: &messages.ClientFrame_Hello{Hello: &messages.Hello{
		Token: token, Device: c.device, Client: "troupe-load/1", Start: c.start,
	}}})
}

// command sends a frame that is not one of the hot ones.
func (c *client) command(f *messages.ClientFrame) {
	b, err := wire.AppendFrame(c.conn.batch, f)
	if err != nil {
		c.conn.fail(err)
		return
	}
	c.conn.batch = b
	c.conn.appended()
}

// gone reports whether the client has no connection any more.
func (c *client) gone() bool { return c.conn == nil || c.conn.gone }

func (c *client) joins(m *member) {
	if c.members == nil {
		c.members = make(map[string]*member)
	}
	c.members[m.room.id] = m
	c.current = m
}

// at returns the client's place in a conversation, or nil.
func (c *client) at(conversation []byte) *member {
	if c.current != nil && c.current.room.id == string(conversation) {
		return c.current
	}
	if m := c.members[string(conversation)]; m != nil {
		c.current = m
		return m
	}
	return nil
}

// ended is called by the connection.
func (c *client) ended(err error) {
	if c.opened != nil {
		c.welcomed(fmt.Errorf("%s was not welcomed: %w", c.user, err))
		return
	}
	c.w.lostClient(c, err)
}

func (c *client) welcomed(err error) {
	if c.opened != nil {
		c.opened(err)
		c.opened = nil
	}
}

// frame is called by the connection.
func (c *client) frame(f wire.Frame) error {
	switch f.Kind {
	case wire.EventSent:
		return c.sent(f.Body)
	case wire.EventDeliver:
		return c.deliver(f.Body)
	case wire.EventReceipt:
		return c.receipt(f.Body)
	case wire.EventWelcome:
		c.welcomed(nil)
	case wire.EventError:
		return c.refused(f)
	case wire.EventGroup:
		return c.group(f)
	}
	return nil
}

func (c *client) sent(body []byte) error {
	s, err := wire.ParseSent(body)
	if err != nil {
		return err
	}
	st, ours := parseStamp(s.ClientID)
	if m := c.at(s.Conversation); m != nil && ours && st.run == c.w.run {
		m.sent(s, st)
	}
	return nil
}

func (c *client) deliver(body []byte) error {
	f := wire.Walk(body)
	for f.Next() {
		if f.Num != 1 {
			continue
		}
		e, err := wire.ParseEntry(f.Bytes)
		if err != nil {
			return err
		}
		c.entry(e)
	}
	return f.Err()
}

func (c *client) entry(e wire.Entry) {
	if m := c.at(e.Conversation); m != nil {
		m.delivered(e)
		c.w.arrived(m)
		return
	}
	// Not under load, and still it must not fill the window.
	c.conn.batch = wire.AppendAck(c.conn.batch, []wire.Position{{Conversation: string(e.Conversation), Seq: e.Seq}})
	c.conn.appended()
}

// owes notes that an entry at m waits for an acknowledgement.
func (c *client) owes(m *member) {
	c.unacked++
	if !m.owing {
		m.owing = true
		c.owed = append(c.owed, m)
	}
}

// read is called by the connection.
func (c *client) read() {
	if c.unacked >= c.w.cfg.AckEvery {
		c.ack()
	}
}

// ack acknowledges all that the device has, wherever it is.
func (c *client) ack() {
	if c.unacked == 0 || c.gone() {
		return
	}
	c.acks = c.acks[:0]
	for _, m := range c.owed {
		m.owing = false
		c.acks = append(c.acks, wire.Position{Conversation: m.room.id, Seq: m.last})
	}
	c.unacked, c.owed = 0, c.owed[:0]
	c.conn.batch = wire.AppendAck(c.conn.batch, c.acks)
	c.conn.appended()
}

func (c *client) receipt(body []byte) error {
	var r messages.Receipt
	if err := proto.Unmarshal(body, &r); err != nil {
		return fmt.Errorf("decode a receipt: %w", err)
	}
	if m := c.at([]byte(r.Conversation)); m != nil {
		m.moved(r.User, receipt{r.Delivered, r.Read})
	}
	return nil
}

func (c *client) group(f wire.Frame) error {
	var g messages.Group
	if err := proto.Unmarshal(f.Body, &g); err != nil {
		return fmt.Errorf("decode a group: %w", err)
	}
	c.answer(&messages.ServerFrame{Re: f.ID, Event: &messages.ServerFrame_Group{Group: &g}}, nil)
	return nil
}

func (c *client) refused(f wire.Frame) error {
	var e messages.Error
	if err := proto.Unmarshal(f.Body, &e); err != nil {
		return fmt.Errorf("decode an error: %w", err)
	}
	failure := messages.Later(e.Code, time.Duration(e.RetryAfterMs)*time.Millisecond, e.Message)
	switch {
	case c.opened != nil:
		c.welcomed(fmt.Errorf("%s was not welcomed: %w", c.user, failure))
	case c.asked != nil:
		c.answer(nil, failure)
	case c.current != nil && f.ID != 0:
		c.w.refused(c.current, failure)
	}
	return nil
}

func (c *client) answer(f *messages.ServerFrame, err error) {
	if c.asked != nil {
		c.asked(f, err)
		c.asked = nil
	}
}

// createGroup makes a group of the room's members, this client being its
// owner; done gets its id.
func (c *client) createGroup(r *room, clientID string, done func(error)) {
	users := make([]string, len(r.members))
	for i, m := range r.members {
		users[i] = m.c.user
	}
	c.asked = func(f *messages.ServerFrame, err error) {
		if err != nil {
			done(fmt.Errorf("create a group of %d: %w", len(users), err))
			return
		}
		r.named(f.GetGroup().GetConversation())
		done(nil)
	}
	c.command(&messages.ClientFrame{Id: 1, Command: &messages.ClientFrame_CreateGroup{CreateGroup: &messages.CreateGroup{
		ClientId: clientID, Name: "load", Members: users,
	}}})
}

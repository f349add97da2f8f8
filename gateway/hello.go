package gateway

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

// helloState is what the first hello asked for, until it is answered.
type helloState struct {
	re        uint32
	head      bool
	positions []*messages.Position
}

// beforeHello handles the frames of a connection that nobody has vouched for.
func (c *conn) beforeHello(f *messages.ClientFrame) {
	h := f.GetHello()
	if h == nil {
		c.refuse(f.Id, errHelloFirst, messages.CloseUnauthenticated)
		return
	}
	if err := validHello(h); err != nil {
		c.reply(f.Id, err.Frame(0))
		return
	}
	who, err := c.authenticate(h.Token)
	if err != nil {
		c.refuse(f.Id, err, closeFor(err))
		return
	}
	c.user, c.device = who.User, messages.DeviceID(h.Device)
	limits := c.srv.cfg.Limits
	if wait := c.allow("connect:", int(limits.Connects), seconds(limits.ConnectSeconds)); wait > 0 {
		refusal := messages.Later(messages.CodeRateLimited, wait, "too many connects; come back later")
		c.refuse(f.Id, refusal, messages.CloseRateLimited)
		return
	}
	c.attach(f.Id, h, who)
}

func closeFor(err *messages.Failure) int {
	if err.Code == messages.CodeUnauthenticated || err.Code == messages.CodeForbidden {
		return messages.CloseUnauthenticated
	}
	return messages.CloseOverloaded
}

func validHello(h *messages.Hello) *messages.Failure {
	switch {
	case !messages.DeviceID(h.Device).Valid():
		return messages.Fail(messages.CodeInvalid, "device: 1 to 64 printable characters")
	case len(h.Client) > messages.MaxName:
		return messages.Fail(messages.CodeInvalid, "client: at most %d bytes", messages.MaxName)
	case h.Start != "" && h.Start != "head":
		return messages.Fail(messages.CodeInvalid, `start: "head" or nothing`)
	case len(h.Positions) > messages.MaxPositions:
		return messages.Fail(messages.CodeInvalid, "positions: at most %d in one hello; say hello again with the rest", messages.MaxPositions)
	}
	return nil
}

func (c *conn) authenticate(token string) (Identity, *messages.Failure) {
	ctx, cancel := context.WithTimeout(c.srv.ctx, messages.CommandTimeout)
	defer cancel()
	who, err := c.srv.cfg.Auth.Authenticate(ctx, token)
	if err == nil {
		return who, nil
	}
	failure := messages.FailureOf(err)
	if failure.Code == messages.CodeInternal {
		c.srv.cfg.Logger.Warn("judging a token", "connection", c.id, "error", err)
		failure = messages.Later(messages.CodeUnavailable, time.Second, "tokens can't be judged now; come back later")
	}
	return Identity{}, failure
}

// refuse answers with an error and closes the connection.
func (c *conn) refuse(re uint32, err *messages.Failure, code int) {
	c.reply(re, err.Frame(0))
	c.close(code, err.Message)
}

// attach joins the connection to its user's session.
func (c *conn) attach(re uint32, h *messages.Hello, who Identity) {
	c.mu.Lock()
	if c.phase == phaseClosed {
		c.mu.Unlock()
		return
	}
	c.phase = phaseAttaching
	c.client = h.Client
	c.expires = instantOf(who.Expires)
	c.tokenID = who.TokenID
	c.hello = &helloState{re: re, head: h.Start == "head", positions: h.Positions}
	m := c.attachment()
	c.mu.Unlock()
	if c.srv.tell(messages.ActorSession, string(c.user), m) != nil {
		c.refuse(re, errNoAnswer, messages.CloseOverloaded)
	}
}

// attachment is the Attach of this connection. Called with mu held.
func (c *conn) attachment() *messages.Attach {
	return &messages.Attach{
		Origin: c.origin(0), Number: c.number, Protocol: c.out.codec.name(),
		Client: c.client, Since: int64(c.since), TokenId: c.tokenID,
	}
}

// attached takes the session's answer to attach.
func (c *conn) attached(m *messages.Attached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Error != nil {
		c.attachRefused(m)
		return
	}
	switch c.phase {
	case phaseAttaching:
		c.number, c.session = m.Number, m.Session
		c.delivery.open(m.Incarnation, c.srv.cfg.Limits)
		c.catchUp(true)
	case phaseLive:
		if m.Session != c.session {
			c.session = m.Session
			c.catchUp(false)
		}
	case phaseClosed:
		// The session learns of the end after it has learned of the beginning.
		c.number = m.Number
		_ = c.srv.tell(messages.ActorSession, string(c.user), &messages.Detach{Origin: c.origin(0), Number: m.Number})
	}
}

func (c *conn) attachRefused(m *messages.Attached) {
	if c.phase == phaseAttaching {
		c.out.frame(&messages.ServerFrame{Re: c.hello.re, Event: &messages.ServerFrame_Error{Error: m.Error}})
	}
	c.closeLocked(int(m.Close), m.Error.Message)
}

// catchUp asks the inbox what can be waiting: everything since the device was
// last caught up at hello, what the last days brought later on. Called with mu
// held.
func (c *conn) catchUp(first bool) {
	m := &messages.CatchUp{Origin: c.origin(0), Incarnation: c.delivery.incarnation, Recheck: !first}
	if c.hello != nil {
		m.Head, m.Positions = c.hello.head, c.hello.positions
	}
	_ = c.srv.tell(messages.ActorInbox, string(c.user), m)
}

// news takes the inbox's answer.
func (c *conn) news(m *messages.News) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase == phaseClosed || c.phase == phaseNew {
		return
	}
	if m.Error != nil {
		if c.phase == phaseAttaching {
			c.out.frame(&messages.ServerFrame{Re: c.hello.re, Event: &messages.ServerFrame_Error{Error: m.Error}})
			c.closeLocked(messages.CloseOverloaded, m.Error.Message)
		}
		return
	}
	if c.phase == phaseAttaching {
		c.welcome(len(m.Items))
		c.phase = phaseLive
		c.hello = nil
		c.release()
		c.delivery.begin(c, m)
		return
	}
	c.delivery.recheck(c, m)
}

// welcome answers hello. Called with mu held.
func (c *conn) welcome(backlog int) {
	c.out.frame(&messages.ServerFrame{Re: c.hello.re, Event: &messages.ServerFrame_Welcome{Welcome: &messages.Welcome{
		User:             string(c.user),
		Device:           string(c.device),
		Session:          newSessionID(),
		ServerTime:       c.srv.cfg.Now().UnixMilli(),
		HeartbeatSeconds: uint32(heartbeat / time.Second),
		Limits:           proto.CloneOf(c.srv.cfg.Limits),
		Backlog:          uint32(backlog),
	}}})
	c.wake()
}

// newSessionID names one connection's time on the server, for logs.
func newSessionID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// renew handles a later hello: a new token, or further positions.
func (c *conn) renew(re uint32, h *messages.Hello) {
	if err := validHello(h); err != nil {
		c.reply(re, err.Frame(0))
		return
	}
	who, err := c.authenticate(h.Token)
	switch {
	case err != nil:
		c.refuse(re, err, closeFor(err))
		return
	case who.User != c.user || messages.DeviceID(h.Device) != c.device:
		c.reply(re, messages.Fail(messages.CodeInvalid, "a connection belongs to one user and device: open another").Frame(0))
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != phaseLive {
		return
	}
	c.expires, c.tokenID = instantOf(who.Expires), who.TokenID
	c.hello = &helloState{re: re, positions: h.Positions}
	c.owed++
	c.owedCost += smallAnswer
	c.out.answers++
	c.out.cost += smallAnswer
	c.welcome(0)
	if len(h.Positions) > 0 {
		c.catchUp(false)
	}
	c.hello = nil
	_ = c.srv.tell(messages.ActorSession, string(c.user), c.attachment())
}

// reattach joins the connection to a new activation of its session.
func (c *conn) reattach() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase == phaseLive {
		_ = c.srv.tell(messages.ActorSession, string(c.user), c.attachment())
	}
}

package gateway

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/actors/rules"
	"github.com/troupe-chat/troupe/messages"
)

// What an answer may take of a connection's maxPending before it is known.
const (
	smallAnswer = 1 << 10
	largeAnswer = messages.MaxServerMessage
)

var (
	errNoCommand   = messages.Fail(messages.CodeInvalid, "the frame has no command that this server knows")
	errNoSuch      = messages.Fail(messages.CodeNotFound, "no such conversation")
	errNoAnswer    = messages.Later(messages.CodeUnavailable, time.Second, "no answer in time; try again with the same client_id")
	errNodeBusy    = messages.Later(messages.CodeOverloaded, 200*time.Millisecond, "this node has too much to store; try again")
	errHelloFirst  = messages.Fail(messages.CodeUnauthenticated, "say hello with a token first")
	errNoMediaHere = messages.Later(messages.CodeUnavailable, time.Hour, "media is not built yet")
)

// command handles one frame from the client, on the goroutine that reads.
func (c *conn) command(f *messages.ClientFrame) {
	if !c.live() {
		c.beforeHello(f)
		return
	}
	switch cmd := f.Command.(type) {
	case nil:
		c.reply(f.Id, errNoCommand.Frame(0))
	case *messages.ClientFrame_Hello:
		c.renew(f.Id, cmd.Hello)
	case *messages.ClientFrame_Ping:
		c.reply(f.Id, &messages.ServerFrame{Event: &messages.ServerFrame_Pong{Pong: &messages.Pong{}}})
	case *messages.ClientFrame_Ack:
		c.ack(cmd.Ack)
	case *messages.ClientFrame_Send:
		c.send(f, cmd.Send)
	case *messages.ClientFrame_Watch, *messages.ClientFrame_Block, *messages.ClientFrame_Unblock, *messages.ClientFrame_Profile:
		c.ask(f, messages.ActorSession, string(c.user), smallAnswer)
	case *messages.ClientFrame_Conversations:
		c.ask(f, messages.ActorInbox, string(c.user), largeAnswer)
	default:
		c.askConversation(f)
	}
}

// live reports whether hello has been answered.
func (c *conn) live() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.phase == phaseLive
}

// askConversation hands a command to the actor of a conversation. What can be
// told from the id alone needs no actor.
func (c *conn) askConversation(f *messages.ClientFrame) {
	id, kind, failure := c.target(f)
	if failure != nil {
		c.reply(f.Id, failure.Frame(0))
		return
	}
	cost := smallAnswer
	switch f.Command.(type) {
	case *messages.ClientFrame_History, *messages.ClientFrame_Receipts,
		*messages.ClientFrame_Group, *messages.ClientFrame_CreateGroup, *messages.ClientFrame_ChangeGroup:
		cost = largeAnswer
	case *messages.ClientFrame_Typing:
		wait := c.allow("typing:", int(c.srv.cfg.Limits.Typings), seconds(c.srv.cfg.Limits.TypingSeconds))
		c.tellCommand(f, kind, string(id), 0, wait)
		return
	}
	c.ask(f, kind, string(id), cost)
}

// target returns the conversation that a command names, and the kind of its
// actor, if it can be one of this user's. A group's members only its actor
// knows.
func (c *conn) target(f *messages.ClientFrame) (messages.ConversationID, string, *messages.Failure) {
	id, failure := rules.ConversationOf(c.user, f)
	if failure != nil {
		return "", "", failure
	}
	switch id.Kind() {
	case messages.KindDirect:
		if _, ok := id.Peer(c.user); ok {
			return id, messages.ActorConversation, nil
		}
	case messages.KindGroup:
		return id, messages.ActorGroup, nil
	}
	return "", "", errNoSuch
}

// send hands a send to its conversation, if this node can take one more.
func (c *conn) send(f *messages.ClientFrame, s *messages.Send) {
	id, kind, failure := c.target(f)
	if failure != nil {
		c.reply(f.Id, failure.Frame(0))
		return
	}
	if s.GetMedia() != nil {
		c.reply(f.Id, errNoMediaHere.Frame(0))
		return
	}
	size := proto.Size(s)
	if !c.srv.admit(size) {
		c.refused(f.Id, errNodeBusy)
		return
	}
	wait := c.allow("send:", int(c.srv.cfg.Limits.Sends), seconds(c.srv.cfg.Limits.SendSeconds))
	token := c.expect(call{
		re: f.Id, cost: smallAnswer, bytes: size,
		conversation: id, clientID: messages.ClientID(s.ClientId),
	})
	c.tellCommand(f, kind, string(id), token, wait)
}

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }

// allow counts one attempt of this user and returns how long it must wait, or
// 0. A limiter that can't be reached limits nothing.
func (c *conn) allow(what string, limit int, window time.Duration) time.Duration {
	if limit == 0 {
		return 0
	}
	ctx, cancel := context.WithTimeout(c.srv.ctx, time.Second)
	defer cancel()
	wait, err := c.srv.cfg.Limiter.Allow(ctx, what+string(c.user), limit, window, c.srv.cfg.Now())
	if err != nil {
		return 0
	}
	return wait
}

// ask hands a command to an actor and expects its answer.
func (c *conn) ask(f *messages.ClientFrame, kind, identity string, cost int) {
	token := c.expect(call{re: f.Id, cost: cost})
	c.tellCommand(f, kind, identity, token, 0)
}

func (c *conn) tellCommand(f *messages.ClientFrame, kind, identity string, token uint64, wait time.Duration) {
	err := c.srv.tell(kind, identity, &messages.Command{
		Origin: c.origin(token), Frame: f,
		RemainingMs:  uint32(messages.CommandTimeout.Milliseconds()),
		RetryAfterMs: (wait + time.Millisecond - 1).Milliseconds(),
	})
	if err != nil && token != 0 {
		c.answered(token, errNoAnswer.Frame(0))
	}
}

// expect notes a command whose answer is owed and returns its token.
func (c *conn) expect(call call) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token++
	call.token = c.token
	call.deadline = c.srv.now().add(messages.CommandTimeout + time.Second)
	c.calls = append(c.calls, call)
	c.owed++
	c.owedCost += call.cost
	return call.token
}

// settle takes the call out of those without an answer. Called with mu held.
func (c *conn) settle(match func(*call) bool) (call, bool) {
	for i := range c.calls {
		if !match(&c.calls[i]) {
			continue
		}
		found := c.calls[i]
		c.calls = append(c.calls[:i], c.calls[i+1:]...)
		if len(c.calls) == 0 {
			c.calls = nil
		}
		c.srv.done(found)
		return found, true
	}
	return call{}, false
}

// answered takes the answer of an actor.
func (c *conn) answered(token uint64, f *messages.ServerFrame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if token == 0 {
		c.unasked(f)
		return
	}
	done, ok := c.settle(func(x *call) bool { return x.token == token })
	if !ok || c.phase == phaseClosed {
		return
	}
	if sent := f.GetSent(); sent != nil {
		c.refusals = 0
		c.placeSent(done, sent)
		return
	}
	c.countRefusal(f.GetError())
	c.answer(done, f)
	c.delivery.unblock(c, done.conversation)
}

// unasked writes an error about a command that has no answer.
func (c *conn) unasked(f *messages.ServerFrame) {
	if c.phase == phaseLive && f.GetError() != nil {
		c.countRefusal(f.GetError())
		c.push(f)
	}
}

// answer writes the answer of a settled call. Called with mu held.
func (c *conn) answer(done call, f *messages.ServerFrame) {
	f.Re = done.re
	c.out.frame(f)
	c.out.answers++
	c.out.cost += done.cost
	c.wake()
}

// reply answers a command that needed no actor.
func (c *conn) reply(re uint32, f *messages.ServerFrame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase == phaseClosed {
		return
	}
	c.owed++
	c.owedCost += smallAnswer
	c.answer(call{re: re, cost: smallAnswer}, f)
}

func (c *conn) refused(re uint32, f *messages.Failure) {
	c.mu.Lock()
	c.countRefusal(f.Proto())
	c.mu.Unlock()
	c.reply(re, f.Frame(0))
}

// maxRefusals is how many refused commands in a row end a connection.
const maxRefusals = 1000

func (c *conn) countRefusal(e *messages.Error) {
	if code := e.GetCode(); code != messages.CodeRateLimited && code != messages.CodeOverloaded {
		return
	}
	c.srv.Metrics.Refused.Add(1)
	if c.refusals++; c.refusals >= maxRefusals {
		c.closeLocked(messages.CloseRateLimited, "too many refused commands")
	}
}

// expireCalls answers what no actor has answered in time. Called with mu held.
func (c *conn) expireCalls(now instant) {
	for len(c.calls) > 0 && now > c.calls[0].deadline {
		first := c.calls[0].token
		done, _ := c.settle(func(x *call) bool { return x.token == first })
		c.answer(done, errNoAnswer.Frame(0))
		c.delivery.unblock(c, done.conversation)
	}
}

// admit counts a send towards what this node takes on, if there is room.
func (s *Server) admit(size int) bool {
	n, b := s.appends.Add(1), s.bytes.Add(int64(size))
	if n <= maxAppends && b <= maxAppendBytes {
		return true
	}
	s.appends.Add(-1)
	s.bytes.Add(-int64(size))
	return false
}

func (s *Server) done(c call) {
	if c.bytes > 0 {
		s.appends.Add(-1)
		s.bytes.Add(-int64(c.bytes))
	}
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	pcluster "github.com/asynkron/protoactor-go/cluster"
	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

// How long a request takes at most, and one attempt of it, and the pause
// before the next: each between its least and its most, by chance.
const (
	requestTimeout = 5 * time.Second
	attemptLeast   = 500 * time.Millisecond
	attemptMost    = time.Second
	backOffLeast   = 25 * time.Millisecond
	backOffMost    = 400 * time.Millisecond
)

// Request tells m to kind/identity and waits for what it gives to
// ctx.Respond. An attempt that is not answered is made again, to wherever the
// identity is by then, so m may arrive more than once: until ctx is over, or 5
// seconds where it has no deadline. A *messages.Error as the answer, also of
// an activation that panicked on m, becomes a *messages.Failure; nil as the
// answer is ErrBadReply. Never call it within Receive.
func (n *Node) Request(ctx context.Context, kind, identity string, m proto.Message) (proto.Message, error) {
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestTimeout)
		defer cancel()
	}
	r := n.expect()
	defer r.forget()
	for pause := 2 * backOffLeast; ; pause = min(2*pause, backOffMost) {
		answer, err := r.attempt(ctx, kind, identity, m)
		if !errors.Is(err, errAgain) {
			return answer, err
		}
		if !wait(ctx, between(backOffLeast, pause)) {
			return nil, fmt.Errorf("requesting %s of %s: %w: %w", name(m), kind, ErrNoReply, ctx.Err())
		}
	}
}

// errAgain: an attempt was not answered.
var errAgain = errors.New("not answered")

// reply is the process that one request is answered to.
type reply struct {
	node    *Node
	pid     *actor.PID
	answers chan any // holds the first
}

// replyPrefix begins the process ids of replies.
const replyPrefix = "reply/"

func (n *Node) expect() *reply {
	r := &reply{node: n, answers: make(chan any, 1)}
	r.pid, _ = n.system.ProcessRegistry.Add(r, replyPrefix+n.system.ProcessRegistry.NextId())
	return r
}

func (r *reply) forget() { r.node.system.ProcessRegistry.Remove(r.pid) }

// SendUserMessage implements protoactor's Process. Answers after the first
// are dropped.
func (r *reply) SendUserMessage(_ *actor.PID, m any) {
	r.offer(checkedReply(actor.UnwrapEnvelopeMessage(m)))
}

func (r *reply) offer(answer any) {
	select {
	case r.answers <- answer:
	default:
	}
}

// SendSystemMessage implements protoactor's Process: there is nothing to
// watch or stop.
func (r *reply) SendSystemMessage(*actor.PID, any) {}

// Stop implements protoactor's Process.
func (r *reply) Stop(*actor.PID) {}

// badReply stands for an answer that is none.
var badReply = messages.Fail(messages.CodeInternal, "%s", ErrBadReply).Proto()

// checkedReply returns m, or badReply where it is nil or no protobuf message.
func checkedReply(m any) any {
	if _, dead := m.(*actor.DeadLetterResponse); dead {
		return m
	}
	if p, ok := m.(proto.Message); !ok || !p.ProtoReflect().IsValid() {
		return badReply
	}
	return m
}

func (r *reply) attempt(ctx context.Context, kind, identity string, m proto.Message) (proto.Message, error) {
	err := r.node.Tell(kind, identity, &actor.MessageEnvelope{Message: m, Sender: r.pid})
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(between(attemptLeast, attemptMost))
	defer timer.Stop()
	select {
	case answer := <-r.answers:
		return r.judge(kind, answer)
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil, errAgain
}

func (r *reply) judge(kind string, answer any) (proto.Message, error) {
	switch answer := answer.(type) {
	case *actor.DeadLetterResponse:
		return nil, errAgain
	case *messages.Error:
		if answer.GetMessage() == badReply.GetMessage() {
			r.node.log.Error("a request was answered with no message", "kind", kind)
			return nil, fmt.Errorf("%s: %w", kind, ErrBadReply)
		}
		return nil, messages.Later(answer.GetCode(), time.Duration(answer.GetRetryAfterMs())*time.Millisecond, answer.GetMessage())
	case proto.Message:
		return answer, nil
	}
	return nil, fmt.Errorf("%s: %w", kind, ErrBadReply)
}

// replyOf returns the waiting request that env answers, or nil.
func (n *Node) replyOf(env *messages.Envelope) *reply {
	if env.GetKind() != "" || !strings.HasPrefix(env.GetIdentity(), replyPrefix) {
		return nil
	}
	process, _ := n.system.ProcessRegistry.GetLocal(env.GetIdentity())
	r, _ := process.(*reply)
	return r
}

// answerFailed tells whoever waits for the answer to m that there will be none.
func (n *Node) answerFailed(m any) {
	sender := actor.UnwrapEnvelopeSender(m)
	if sender != nil && strings.HasPrefix(sender.GetId(), replyPrefix) {
		n.system.Root.Send(sender, messages.FailureOf(errFailed).Proto())
	}
}

var errFailed = errors.New("the activation failed")

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func between(least, most time.Duration) time.Duration {
	return least + rand.N(most-least+1)
}

func name(m proto.Message) string { return string(m.ProtoReflect().Descriptor().Name()) }

// asking is protoactor's cluster context on this node's Tell and Request.
type asking struct{ node *Node }

// Request implements protoactor's Context.
func (a asking) Request(identity, kind string, m any, options ...pcluster.GrainCallOption) (any, error) {
	p, ok := m.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%w: %T", ErrLocalOnly, m)
	}
	ctx, cancel := context.WithTimeout(context.Background(), a.timeout(options))
	defer cancel()
	return a.node.Request(ctx, kind, identity, p)
}

// RequestFuture implements protoactor's Context, with one attempt.
func (a asking) RequestFuture(identity, kind string, m any, options ...pcluster.GrainCallOption) (*actor.Future, error) {
	future := actor.NewFuture(a.node.system, a.timeout(options))
	err := a.node.Tell(kind, identity, &actor.MessageEnvelope{Message: m, Sender: future.PID()})
	if err != nil {
		return nil, err
	}
	return future, nil
}

// timeout reads the options into a config of this call only: protoactor's own
// context keeps the first caller's for everyone.
func (a asking) timeout(options []pcluster.GrainCallOption) time.Duration {
	config := pcluster.NewGrainCallOptions(a.node.cluster)
	for _, set := range options {
		set(config)
	}
	return config.Timeout
}

package cluster

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/remote"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

const (
	// ingress is the process id that everything from node to node is sent to:
	// what it is for, the envelope says.
	ingress = "troupe"
	// envelopeVersion is of the way envelopes are meant.
	envelopeVersion = 1
	// linkQueue is how many messages wait for a slow or absent member.
	linkQueue = 4096
	// linkBatch is how many messages travel together at most.
	linkBatch = 256
	// redialMost is the longest pause before a lost link is tried again.
	redialMost = 2 * time.Second
)

// send hands m to kind/identity on another member, with the sender's PID where
// m carries one. It may be lost on the way: what matters is answered.
func (n *Node) send(to Member, kind, identity string, m any) error {
	if to.Address == "" || n.address == "" {
		return fmt.Errorf("%w: %q has no link to here", ErrUnknownNode, to.Name)
	}
	_, body, sender := actor.UnwrapEnvelope(m)
	env, err := seal(kind, identity, body)
	if err != nil {
		return err
	}
	return n.links.post(to.Address, env, sender)
}

// seal puts m into an envelope for the target.
func seal(kind, identity string, m any) (*messages.Envelope, error) {
	p, ok := m.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%w: %T", ErrLocalOnly, m)
	}
	body, err := proto.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encoding %T: %w", m, err)
	}
	return &messages.Envelope{
		Version: envelopeVersion, Kind: kind, Identity: identity,
		Type: string(p.ProtoReflect().Descriptor().FullName()), Body: body,
	}, nil
}

// links are the ways to other members, opened at the first message.
type links struct {
	node *Node
	wg   sync.WaitGroup

	mu     sync.Mutex
	m      map[string]*link // by address; guarded by mu
	closed bool             // guarded by mu
}

// link takes messages to one member. Its goroutine ends with cancel.
type link struct {
	node    *Node
	address string
	queue   chan outgoing
	cancel  context.CancelFunc
}

// outgoing is one message on its way.
type outgoing struct {
	env    *messages.Envelope
	sender *actor.PID
}

// post queues a message and never blocks.
func (s *links) post(address string, env *messages.Envelope, sender *actor.PID) error {
	l := s.to(address)
	if l == nil {
		return ErrStopped
	}
	select {
	case l.queue <- outgoing{env, sender}:
		return nil
	default:
		return fmt.Errorf("%w: %s", ErrLinkFull, address)
	}
}

// to returns the link to address, or nil once links are closed.
func (s *links) to(address string) *link {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	if l := s.m[address]; l != nil {
		return l
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &link{node: s.node, address: address, queue: make(chan outgoing, linkQueue), cancel: cancel}
	s.m[address] = l
	s.wg.Go(func() { l.run(ctx) })
	return l
}

// hangUp ends the link to a member that is gone.
func (s *links) hangUp(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.m[address]; l != nil {
		l.cancel()
		delete(s.m, address)
	}
}

// close ends every link and waits for them.
func (s *links) close() {
	s.mu.Lock()
	s.closed = true
	for _, l := range s.m {
		l.cancel()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (l *link) run(ctx context.Context) {
	for pause := 2 * backOffLeast; ; pause = min(2*pause, redialMost) {
		began := time.Now()
		err := l.session(ctx)
		if ctx.Err() != nil {
			return
		}
		l.node.log.Warn("a link to a member is down", "address", l.address, "error", err)
		if time.Since(began) > redialMost {
			pause = 2 * backOffLeast
		}
		if !wait(ctx, between(backOffLeast, pause)) {
			return
		}
	}
}

// session opens the link and writes to it until either fails.
func (l *link) session(ctx context.Context) error {
	conn, err := grpc.NewClient(l.address, l.node.dialOptions()...)
	if err != nil {
		return fmt.Errorf("dialling: %w", err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := remote.NewRemotingClient(conn).Receive(ctx)
	if err != nil {
		return fmt.Errorf("opening the stream: %w", err)
	}
	var reader sync.WaitGroup
	defer reader.Wait()
	defer cancel(nil)
	reader.Go(func() { cancel(untilEnd(stream)) })
	return l.write(ctx, stream)
}

// untilEnd reads a stream that nothing is said on until it ends.
func untilEnd(stream remote.Remoting_ReceiveClient) error {
	for {
		if _, err := stream.Recv(); err != nil {
			return fmt.Errorf("reading: %w", err)
		}
	}
}

// write sends what is queued, all that waits at once, until ctx is over.
func (l *link) write(ctx context.Context, stream remote.Remoting_ReceiveClient) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case first := <-l.queue:
			b, err := pack(l.waiting(first))
			if err != nil {
				return err
			}
			if err := stream.Send(b); err != nil {
				return fmt.Errorf("sending: %w", err)
			}
		}
	}
}

// waiting returns first and what is queued behind it.
func (l *link) waiting(first outgoing) []outgoing {
	list := []outgoing{first}
	for len(list) < linkBatch {
		select {
		case o := <-l.queue:
			list = append(list, o)
		default:
			return list
		}
	}
	return list
}

// pack makes one message on protoactor's wire.
func pack(list []outgoing) (*remote.RemoteMessage, error) {
	b := &remote.MessageBatch{
		TypeNames: []string{envelopeName},
		Targets:   []*actor.PID{{Id: ingress}},
		Envelopes: make([]*remote.MessageEnvelope, 0, len(list)),
	}
	for _, o := range list {
		data, err := proto.Marshal(o.env)
		if err != nil {
			return nil, fmt.Errorf("encoding an envelope: %w", err)
		}
		e := &remote.MessageEnvelope{MessageData: data}
		if o.sender != nil {
			b.Senders = append(b.Senders, &actor.PID{Address: o.sender.GetAddress(), Id: o.sender.GetId()})
			e.Sender = int32(len(b.Senders))
		}
		b.Envelopes = append(b.Envelopes, e)
	}
	return &remote.RemoteMessage{MessageType: &remote.RemoteMessage_MessageBatch{MessageBatch: b}}, nil
}

// resolve finds the process behind a PID of another node: a caller that waits
// for an answer. Nothing else is reached by its PID from afar.
func (n *Node) resolve(pid *actor.PID) (actor.Process, bool) {
	if !strings.HasPrefix(pid.GetId(), replyPrefix) {
		return nil, false
	}
	return &remoteReply{n}, true
}

// remoteReply answers a caller on another node.
type remoteReply struct{ node *Node }

// SendUserMessage implements protoactor's Process.
func (r *remoteReply) SendUserMessage(pid *actor.PID, m any) {
	env, err := seal("", pid.GetId(), checkedReply(actor.UnwrapEnvelopeMessage(m)))
	if err == nil {
		err = r.node.links.post(pid.GetAddress(), env, nil)
	}
	if err != nil {
		r.node.log.Warn("an answer was not sent", "message", fmt.Sprintf("%T", m), "error", err)
	}
}

// SendSystemMessage implements protoactor's Process: callers get answers only.
func (*remoteReply) SendSystemMessage(*actor.PID, any) {}

// Stop implements protoactor's Process: nobody stops a caller.
func (*remoteReply) Stop(*actor.PID) {}

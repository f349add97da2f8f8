package cluster

import (
	"context"
	"testing"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/remote"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

// attacker speaks protoactor's protocol to a node's actors' port.
type attacker struct {
	t      *testing.T
	client remote.RemotingClient
	stream remote.Remoting_ReceiveClient
}

func attack(t *testing.T, n *Node) *attacker {
	t.Helper()
	conn, err := grpc.NewClient(n.Address(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	a := &attacker{t: t, client: remote.NewRemotingClient(conn)}
	a.connect()
	return a
}

func (a *attacker) connect() {
	stream, err := a.client.Receive(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	a.stream = stream
}

func (a *attacker) send(m *remote.RemoteMessage) {
	if err := a.stream.Send(m); err != nil {
		a.t.Fatal(err)
	}
}

func (a *attacker) sendBatch(b *remote.MessageBatch) {
	a.send(&remote.RemoteMessage{MessageType: &remote.RemoteMessage_MessageBatch{MessageBatch: b}})
}

// barrier returns once everything sent so far was handled: the answer to a
// connect request comes after it.
func (a *attacker) barrier() {
	a.t.Helper()
	a.send(&remote.RemoteMessage{MessageType: &remote.RemoteMessage_ConnectRequest{ConnectRequest: &remote.ConnectRequest{
		ConnectionType: &remote.ConnectRequest_ServerConnection{ServerConnection: &remote.ServerConnection{SystemId: "x", Address: "x"}},
	}}})
	if _, err := a.stream.Recv(); err != nil {
		a.t.Fatalf("the stream ended: %v", err)
	}
}

// batch makes a batch of one message for a process.
func batch(target string, m proto.Message) *remote.MessageBatch {
	body, _ := proto.Marshal(m)
	return &remote.MessageBatch{
		TypeNames: []string{string(m.ProtoReflect().Descriptor().FullName())},
		Targets:   []*actor.PID{{Id: target}},
		Senders:   []*actor.PID{{Address: "127.0.0.1:1", Id: "x"}},
		Envelopes: []*remote.MessageEnvelope{{MessageData: body}},
	}
}

func envelope(t *testing.T, kind, identity string, m proto.Message) *messages.Envelope {
	t.Helper()
	env, err := seal(kind, identity, m)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

// target is a node with a port, and a live activation that counts its texts.
func target(t *testing.T) (*Node, *collector[string], *actor.PID) {
	t.Helper()
	got := newCollector[string]()
	n := start(t, Config{Listen: "127.0.0.1:0", Kinds: []Kind{kindOf("echo", func(ctx actor.Context) {
		switch m := ctx.Message().(type) {
		case *messages.Text:
			got.add(m.Body)
		case *actor.Stopping:
			got.add("stopping")
		case *messages.Detach:
			ctx.Respond(&messages.Attached{})
		}
	})}})
	tell(t, n, "ana", &messages.Text{Body: "first"})
	got.wait(1)
	at, err := n.Locate("echo", "ana")
	if err != nil {
		t.Fatal(err)
	}
	return n, got, at.PID
}

func TestAttacksOnTheActorsPort(t *testing.T) {
	with := func(b *remote.MessageBatch, change func(*remote.MessageBatch, *remote.MessageEnvelope)) *remote.MessageBatch {
		change(b, b.Envelopes[0])
		return b
	}
	good := func(t *testing.T) *remote.MessageBatch {
		return batch(ingress, envelope(t, "echo", "ana", &messages.Text{Body: "forged"}))
	}
	for name, c := range map[string]struct {
		make func(t *testing.T, victim *actor.PID) *remote.MessageBatch
		why  Refusal
	}{
		"unknown type": {func(t *testing.T, _ *actor.PID) *remote.MessageBatch {
			return with(good(t), func(b *remote.MessageBatch, _ *remote.MessageEnvelope) { b.TypeNames[0] = "no.such.Type" })
		}, ForeignMessage},
		"another known type": {func(_ *testing.T, victim *actor.PID) *remote.MessageBatch {
			return batch(victim.Id, &messages.Text{Body: "forged"})
		}, ForeignMessage},
		"poison pill": {func(_ *testing.T, victim *actor.PID) *remote.MessageBatch {
			return batch(victim.Id, &actor.PoisonPill{})
		}, ForeignMessage},
		"stop": {func(_ *testing.T, victim *actor.PID) *remote.MessageBatch {
			return batch(victim.Id, &actor.Stop{})
		}, ForeignMessage},
		"watch": {func(_ *testing.T, victim *actor.PID) *remote.MessageBatch {
			return batch(victim.Id, &actor.Watch{Watcher: &actor.PID{Address: "127.0.0.1:1", Id: "x"}})
		}, ForeignMessage},
		"terminated": {func(_ *testing.T, victim *actor.PID) *remote.MessageBatch {
			return batch(victim.Id, &actor.Terminated{Who: victim})
		}, ForeignMessage},
		"spawn": {func(*testing.T, *actor.PID) *remote.MessageBatch {
			return batch("activator", &remote.ActorPidRequest{Kind: "no such kind"})
		}, ForeignMessage},
		"envelope to an actor": {func(t *testing.T, victim *actor.PID) *remote.MessageBatch {
			return with(good(t), func(b *remote.MessageBatch, _ *remote.MessageEnvelope) { b.Targets[0].Id = victim.Id })
		}, ForeignMessage},
		"another serializer": {func(t *testing.T, _ *actor.PID) *remote.MessageBatch {
			return with(good(t), func(_ *remote.MessageBatch, e *remote.MessageEnvelope) { e.SerializerId = 99 })
		}, ForeignMessage},
		"foreign sender": {func(t *testing.T, _ *actor.PID) *remote.MessageBatch {
			return with(good(t), func(_ *remote.MessageBatch, e *remote.MessageEnvelope) { e.Sender = 1 })
		}, ForeignMessage},
		"type index beyond": {func(t *testing.T, _ *actor.PID) *remote.MessageBatch {
			return with(good(t), func(_ *remote.MessageBatch, e *remote.MessageEnvelope) { e.TypeId = 7 })
		}, BadBatch},
		"target index below": {func(t *testing.T, _ *actor.PID) *remote.MessageBatch {
			return with(good(t), func(_ *remote.MessageBatch, e *remote.MessageEnvelope) { e.Target = -1 })
		}, BadBatch},
		"sender index beyond": {func(t *testing.T, _ *actor.PID) *remote.MessageBatch {
			return with(good(t), func(_ *remote.MessageBatch, e *remote.MessageEnvelope) { e.Sender = 9 })
		}, BadBatch},
		"no envelope inside": {func(t *testing.T, _ *actor.PID) *remote.MessageBatch {
			return with(good(t), func(_ *remote.MessageBatch, e *remote.MessageEnvelope) { e.MessageData = []byte{0xff} })
		}, BadEnvelope},
		"bad body": {func(t *testing.T, _ *actor.PID) *remote.MessageBatch {
			env := envelope(t, "echo", "ana", &messages.Text{})
			env.Body = []byte{0xff}
			return batch(ingress, env)
		}, BadEnvelope},
		"another version": {func(t *testing.T, _ *actor.PID) *remote.MessageBatch {
			env := envelope(t, "echo", "ana", &messages.Text{})
			env.Version = 99
			return batch(ingress, env)
		}, UnknownVersion},
		"a type of protoactor's inside": {func(t *testing.T, _ *actor.PID) *remote.MessageBatch {
			return batch(ingress, envelope(t, "echo", "ana", &actor.PoisonPill{}))
		}, UnknownType},
		"unknown type inside": {func(t *testing.T, _ *actor.PID) *remote.MessageBatch {
			env := envelope(t, "echo", "ana", &messages.Text{})
			env.Type = "troupe.v1.NoSuchType"
			return batch(ingress, env)
		}, UnknownType},
		"unknown kind": {func(t *testing.T, _ *actor.PID) *remote.MessageBatch {
			return batch(ingress, envelope(t, "nothing", "ana", &messages.Text{}))
		}, UnknownTarget},
		"answer to nobody": {func(t *testing.T, _ *actor.PID) *remote.MessageBatch {
			return batch(ingress, envelope(t, "", replyPrefix+"$1", &messages.Text{}))
		}, UnknownTarget},
		"answer to an actor": {func(t *testing.T, victim *actor.PID) *remote.MessageBatch {
			return batch(ingress, envelope(t, "", victim.Id, &messages.Text{}))
		}, UnknownTarget},
		"a service that panics": {func(t *testing.T, _ *actor.PID) *remote.MessageBatch {
			return batch(ingress, envelope(t, "fragile", "", &messages.Text{}))
		}, Panicked},
	} {
		t.Run(name, func(t *testing.T) {
			n, got, victim := target(t)
			n.Serve("fragile", func(proto.Message) { panic("on purpose") })
			a := attack(t, n)
			a.sendBatch(c.make(t, victim))
			a.barrier()
			if counts := n.Refusals(); counts[c.why] != 1 {
				t.Errorf("refusals: %v, want one %s", counts, c.why)
			}
			a.sendBatch(batch(ingress, envelope(t, "echo", "ana", &messages.Text{Body: "last"})))
			if all := got.wait(2); all[1] != "last" {
				t.Errorf("the victim noticed: %v", all)
			}
			if at, _ := n.Locate("echo", "ana"); !at.PID.Equal(victim) {
				t.Error("the victim has ended")
			}
		})
	}
}

func TestProcessesAreNotListed(t *testing.T) {
	n, _, _ := target(t)
	a := attack(t, n)
	ctx := context.Background()
	_, err := a.client.ListProcesses(ctx, &remote.ListProcessesRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("ListProcesses: %v", err)
	}
	_, err = a.client.GetProcessDiagnostics(ctx, &remote.GetProcessDiagnosticsRequest{Pid: &actor.PID{}})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("GetProcessDiagnostics: %v", err)
	}
	a.barrier()
}

func TestAPanicBehindTheActorsPortStaysThere(t *testing.T) {
	n := start(t, Config{})
	err := n.recoverStream(nil, nil, nil, func(any, grpc.ServerStream) error { panic("on purpose") })
	if status.Code(err) != codes.Internal {
		t.Errorf("stream: %v", err)
	}
	_, err = n.recoverUnary(t.Context(), nil, nil, func(context.Context, any) (any, error) { panic("on purpose") })
	if status.Code(err) != codes.Internal {
		t.Errorf("call: %v", err)
	}
}

func TestStrangeStreams(t *testing.T) {
	n, got, _ := target(t)
	a := attack(t, n)
	for _, m := range []*remote.RemoteMessage{
		{},
		{MessageType: &remote.RemoteMessage_ConnectRequest{}},
		{MessageType: &remote.RemoteMessage_ConnectRequest{ConnectRequest: &remote.ConnectRequest{}}},
		{MessageType: &remote.RemoteMessage_ConnectRequest{ConnectRequest: &remote.ConnectRequest{ConnectionType: &remote.ConnectRequest_ClientConnection{}}}},
		{MessageType: &remote.RemoteMessage_ConnectResponse{ConnectResponse: &remote.ConnectResponse{Blocked: true}}},
		{MessageType: &remote.RemoteMessage_DisconnectRequest{}},
		{MessageType: &remote.RemoteMessage_MessageBatch{}},
		{MessageType: &remote.RemoteMessage_MessageBatch{MessageBatch: &remote.MessageBatch{Envelopes: []*remote.MessageEnvelope{{}}}}},
	} {
		if err := a.stream.Send(m); err != nil {
			a.connect()
		}
	}
	a.connect()
	a.barrier()
	tell(t, n, "ana", &messages.Text{Body: "last"})
	got.wait(2)
}

// Streams that come and go while the node stops must not bring it down.
func TestStopWithPeersConnected(t *testing.T) {
	for range 5 {
		n, _, _ := target(t)
		a := attack(t, n)
		a.barrier()
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			for {
				stream, err := a.client.Receive(context.Background())
				if err != nil || stream.CloseSend() != nil {
					return
				}
				if _, err := stream.Recv(); status.Code(err) == codes.Unavailable {
					return
				}
			}
		}()
		stop(t, n)
		<-gone
	}
}

func TestAPortInUseIsAnError(t *testing.T) {
	n, _, _ := target(t)
	other, err := Start(t.Context(), Config{Name: "troupe-2", Listen: n.Address()})
	if err == nil {
		stop(t, other)
		t.Fatal("two nodes listen on one port")
	}
}

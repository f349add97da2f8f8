package cluster

import (
	"slices"
	"strings"
	"sync/atomic"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/remote"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/troupe-chat/troupe/messages"
)

// Refusal is why something that came to the actors' port was dropped.
type Refusal string

// The refusals.
const (
	BadBatch       Refusal = "bad_batch"       // an index points outside of its batch
	ForeignMessage Refusal = "foreign_message" // no Envelope, or not for the node as such
	BadEnvelope    Refusal = "bad_envelope"    // it or its body does not decode
	UnknownVersion Refusal = "unknown_version"
	UnknownType    Refusal = "unknown_type" // of the body
	UnknownTarget  Refusal = "unknown_target"
	NotOwner       Refusal = "not_owner" // by this node's view, or it is stopping
	Panicked       Refusal = "panicked"  // handling it did
)

// refusals counts by reason.
type refusals struct {
	badBatch, foreign, badEnvelope, version, unknownType, target, notOwner, panicked atomic.Uint64
}

func (r *refusals) of(why Refusal) *atomic.Uint64 {
	switch why {
	case BadBatch:
		return &r.badBatch
	case ForeignMessage:
		return &r.foreign
	case BadEnvelope:
		return &r.badEnvelope
	case UnknownVersion:
		return &r.version
	case UnknownType:
		return &r.unknownType
	case UnknownTarget:
		return &r.target
	case NotOwner:
		return &r.notOwner
	}
	return &r.panicked
}

// Refusals returns how much was dropped at the actors' port, by reason.
func (n *Node) Refusals() map[Refusal]uint64 {
	counts := map[Refusal]uint64{}
	for _, why := range []Refusal{
		BadBatch, ForeignMessage, BadEnvelope, UnknownVersion, UnknownType, UnknownTarget, NotOwner, Panicked,
	} {
		counts[why] = n.refusals.of(why).Load()
	}
	return counts
}

func (n *Node) acceptBatch(b *remote.MessageBatch) {
	for _, e := range b.GetEnvelopes() {
		n.accept(b, e)
	}
}

// accept delivers one message of a batch, or counts why it does not. Nothing
// that a peer sends makes it fail.
func (n *Node) accept(b *remote.MessageBatch, e *remote.MessageEnvelope) {
	defer func() {
		if r := recover(); r != nil {
			n.refuse(Panicked, harmless(r))
		}
	}()
	env, sender, why := openBatch(b, e)
	switch {
	case why != "":
	case sender != nil && !n.mayAsk(sender):
		why = ForeignMessage
	default:
		why = n.deliver(env, sender)
	}
	if why != "" {
		n.refuse(why, env.GetType())
	}
}

func (n *Node) refuse(why Refusal, what string) {
	n.refusals.of(why).Add(1)
	n.log.Debug("refused at the actors' port", "reason", string(why), "type", what)
}

// openBatch finds the Envelope of e and its sender, who is nil where no answer
// is wanted.
func openBatch(b *remote.MessageBatch, e *remote.MessageEnvelope) (*messages.Envelope, *actor.PID, Refusal) {
	typeName, ok := at(b.GetTypeNames(), e.GetTypeId())
	target, ok2 := at(b.GetTargets(), e.GetTarget())
	var sender *actor.PID
	ok3 := true
	if e.GetSender() != 0 {
		sender, ok3 = at(b.GetSenders(), e.GetSender()-1)
	}
	if !ok || !ok2 || !ok3 {
		return nil, nil, BadBatch
	}
	if typeName != envelopeName || target.GetId() != ingress || e.GetSerializerId() != 0 {
		return nil, nil, ForeignMessage
	}
	env := &messages.Envelope{}
	if proto.Unmarshal(e.GetMessageData(), env) != nil {
		return nil, nil, BadEnvelope
	}
	return env, sender, ""
}

func at[T any](list []T, i int32) (item T, ok bool) {
	if i < 0 || int(i) >= len(list) {
		return item, false
	}
	return list[i], true
}

// mayAsk reports whether answers may go to sender: a waiting request of another
// member. Any other PID would let a peer speak through this node's actors.
func (n *Node) mayAsk(sender *actor.PID) bool {
	return strings.HasPrefix(sender.GetId(), replyPrefix) && sender.GetAddress() != n.address &&
		slices.ContainsFunc(n.placement.Load().members, func(m Member) bool { return m.Address == sender.GetAddress() })
}

// deliver hands a peer's envelope to its target on this node.
func (n *Node) deliver(env *messages.Envelope, sender *actor.PID) Refusal {
	if env.GetVersion() != envelopeVersion {
		return UnknownVersion
	}
	m, why := openBody(env)
	if why != "" {
		return why
	}
	if k := n.kinds[env.GetKind()]; k != nil {
		return deliverActor(k, env.GetIdentity(), m, sender)
	}
	if handler := n.services.of(env.GetKind()); handler != nil {
		handler(m)
		return ""
	}
	if r := n.replyOf(env); r != nil {
		r.SendUserMessage(nil, m)
		return ""
	}
	return UnknownTarget
}

func deliverActor(k *kind, identity string, m proto.Message, sender *actor.PID) Refusal {
	if k.tell(k.hash(identity), identity, addressed(m, sender)) != nil {
		return NotOwner
	}
	return ""
}

// addressed wraps m with whom to answer, where there is one.
func addressed(m any, sender *actor.PID) any {
	if sender == nil {
		return m
	}
	return &actor.MessageEnvelope{Message: m, Sender: sender}
}

// openBody decodes what env carries: a message of Troupe's own, or nothing.
func openBody(env *messages.Envelope) (proto.Message, Refusal) {
	if !strings.HasPrefix(env.GetType(), ownPackage) {
		return nil, UnknownType
	}
	t, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(env.GetType()))
	if err != nil {
		return nil, UnknownType
	}
	m := t.New().Interface()
	if proto.Unmarshal(env.GetBody(), m) != nil {
		return nil, BadEnvelope
	}
	return m, ""
}

var (
	envelopeName = string((&messages.Envelope{}).ProtoReflect().Descriptor().FullName())
	ownPackage   = string((&messages.Envelope{}).ProtoReflect().Descriptor().ParentFile().Package()) + "."
)

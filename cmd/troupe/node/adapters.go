package node

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/actors"
	"github.com/troupe-chat/troupe/gateway"
	"github.com/troupe-chat/troupe/gateway/accounts"
	"github.com/troupe-chat/troupe/messages"
)

// gateways is how actors reach gateways, and everyone reaches actors.
var _ actors.Gateways = (*reach)(nil)

// reach is the node as its parts see it.
type reach struct{ *Node }

// Tell hands a message to the gateway of a node.
func (r *reach) Tell(node string, m proto.Message) {
	if err := r.cluster.TellService(node, gatewayService, m); err != nil {
		r.log.Debug("telling a gateway", "node", node, "error", err)
	}
}

// Connection returns a live connection of this node.
func (r *reach) Connection(node string, id uint64) (actors.Connection, bool) {
	if node != r.cfg.Name {
		return nil, false
	}
	c, ok := r.gateway.Connection(id)
	return c, ok
}

// Tell hands a message to a virtual actor.
func (n *Node) Tell(kind, identity string, m any) error {
	return n.cluster.Tell(kind, identity, m)
}

// authenticator judges tokens for the gateway.
type authenticator struct{ service *accounts.Service }

func (a authenticator) Authenticate(ctx context.Context, token string) (gateway.Identity, error) {
	who, err := a.service.Verify(ctx, token)
	return gateway.Identity(who), err
}

// signOut closes the connections of a device, or of all.
func (n *Node) signOut(user messages.UserID, device messages.DeviceID, reason string) {
	err := n.cluster.Tell(messages.ActorSession, string(user), &messages.SignOut{
		User: string(user), Device: string(device), Reason: reason,
	})
	if err != nil {
		n.log.Warn("signing out", "user", user, "error", err)
	}
}

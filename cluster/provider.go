package cluster

import (
	"context"
	"fmt"
	"slices"

	pcluster "github.com/asynkron/protoactor-go/cluster"
)

// Member is a node of the cluster, as its provider knows it.
type Member struct {
	ID      string // of this run of the node: a restart has another
	Name    string // stable; what placement goes by
	Address string // "host:port" of its actors' port, or "" for none
	Kinds   []string
	Since   int64 // ms; when it started
}

// Provider knows who is in the cluster.
type Provider interface {
	// Join announces self and calls changed with all members, self among them
	// while it belongs: at least once before Join returns, then after every
	// change, one call at a time. A provider that can't reach what it asks
	// keeps the last members.
	Join(ctx context.Context, self Member, changed func([]Member)) error
	// Leave withdraws self. changed is not called once it has returned.
	Leave(ctx context.Context) error
}

// Single is the provider of a cluster of one.
type Single struct{}

// Join implements Provider.
func (Single) Join(_ context.Context, self Member, changed func([]Member)) error {
	changed([]Member{self})
	return nil
}

// Leave implements Provider.
func (Single) Leave(context.Context) error { return nil }

// join enters the cluster by the steps of protoactor's own start, without
// gossip and topics, whose messages the actors' port refuses, and without its
// pause of a second.
func (n *Node) join() error {
	n.cluster.IdentityLookup = n.cluster.Config.IdentityLookup
	n.cluster.IdentityLookup.Setup(n.cluster, n.self().Kinds, false)
	return n.cluster.Config.ClusterProvider.StartMember(n.cluster)
}

// provider lets protoactor's cluster start a Provider.
type provider struct {
	node *Node
	ctx  context.Context // of Start, for StartMember
}

// StartMember implements protoactor's ClusterProvider.
func (p *provider) StartMember(*pcluster.Cluster) error {
	return p.node.config.Provider.Join(p.ctx, p.node.self(), p.node.membersChanged)
}

// StartClient implements protoactor's ClusterProvider. Every node is a member.
func (p *provider) StartClient(*pcluster.Cluster) error {
	return fmt.Errorf("joining as a client: %w", ErrUnknownNode)
}

// Shutdown implements protoactor's ClusterProvider.
func (p *provider) Shutdown(bool) error {
	return p.node.config.Provider.Leave(context.Background())
}

func (n *Node) self() Member {
	kinds := make([]string, 0, len(n.kinds))
	for name := range n.kinds {
		kinds = append(kinds, name)
	}
	slices.Sort(kinds)
	return Member{
		ID: n.system.ID, Name: n.config.Name, Address: n.address,
		Kinds: kinds, Since: n.since.UnixMilli(),
	}
}

// membersChanged puts a new placement in force: first for what comes, then for
// the activations that it moves elsewhere, which end. Protoactor's member list
// is left out: it never takes a member back that was gone once.
func (n *Node) membersChanged(members []Member) {
	p := newPlacement(members, n.system.ID)
	old := n.placement.Swap(p)
	n.order(lostOrder, func(a *activation) bool { return !p.owns(a.kind.hash(a.identity)) })
	n.hangUp(old, p)
	n.log.Info("the members have changed", "members", len(members), "member", p.self >= 0)
}

// hangUp closes the links to members that are no more.
func (n *Node) hangUp(before, now *placement) {
	for _, m := range before.members {
		if !slices.ContainsFunc(now.members, func(o Member) bool { return o.Address == m.Address }) {
			n.links.hangUp(m.Address)
		}
	}
}

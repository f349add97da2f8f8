package cluster

import (
	"github.com/asynkron/protoactor-go/actor"
	pcluster "github.com/asynkron/protoactor-go/cluster"
)

// lookup is protoactor's way into the table: with it, what asks protoactor's
// cluster finds the same activations as what asks the node.
type lookup struct{ node *Node }

// Get returns the PID of the identity's activation here, activating it where
// this node owns it; nil where it does not, by its own view.
func (l *lookup) Get(ci *pcluster.ClusterIdentity) *actor.PID {
	k := l.node.kinds[ci.GetKind()]
	if k == nil {
		return nil
	}
	h := k.hash(ci.GetIdentity())
	if !l.node.placement.Load().owns(h) {
		return nil
	}
	return k.begin(h, ci.GetIdentity())
}

// begin returns the PID of the current life of identity, the first where there
// is none; nil while one is just beginning.
func (k *kind) begin(h uint64, identity string) *actor.PID {
	a, fresh, err := k.place(h, identity, nil)
	if err != nil {
		return nil
	}
	if fresh {
		a.live()
	}
	if life := a.life.Load(); life != nil {
		return life.pid()
	}
	return nil
}

// RemovePid implements protoactor's IdentityLookup. A life that ends leaves
// the table by itself.
func (l *lookup) RemovePid(*pcluster.ClusterIdentity, *actor.PID) {}

// Setup implements protoactor's IdentityLookup.
func (l *lookup) Setup(*pcluster.Cluster, []string, bool) {}

// Shutdown implements protoactor's IdentityLookup. Stop ends the activations.
func (l *lookup) Shutdown() {}

package cluster

// Activation returns the live activation of kind/identity on this node, or
// false. It never activates.
func (n *Node) Activation(kind, identity string) (Activation, bool) {
	k := n.kinds[kind]
	if k == nil {
		return Activation{}, false
	}
	a := k.find(k.hash(identity), identity)
	if a == nil {
		return Activation{}, false
	}
	l := a.life.Load()
	if l == nil {
		return Activation{}, false
	}
	return a.snapshot(l), true
}

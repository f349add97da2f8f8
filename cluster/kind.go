package cluster

import (
	"sync"
	"sync/atomic"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/cespare/xxhash/v2"
)

// Kind is a kind of virtual actor.
type Kind struct {
	Name string
	// New makes the behaviour of an identity. It runs on the activation's own
	// goroutine, at its first message; it does no I/O and never blocks.
	New func(identity string) Behaviour
}

// Behaviour handles the messages of one identity, one at a time. It gets
// *actor.Started first, then messages, *messages.Idle and *messages.Inspect,
// and at the end *actor.Stopping and *actor.Stopped. After a panic it gets
// nothing more.
type Behaviour = actor.Actor

// sectors is how many parts a kind's table has: as many senders and
// activations go on at once, and the idle wheel walks them one by one.
const sectors = 256

// kind is a Kind on this node, with the table of its activations.
type kind struct {
	node    *Node
	name    string
	make    func(identity string) Behaviour
	seed    uint64
	live    atomic.Int64 // activations in the table
	failed  atomic.Uint64
	sectors [sectors]sector
}

// sector is a part of a kind's table. No code of a behaviour runs under mu.
type sector struct {
	mu   sync.RWMutex
	m    map[string]*activation // guarded by mu
	peak int                    // of len(m) since m was made; guarded by mu
}

func newKind(n *Node, k Kind) *kind {
	return &kind{node: n, name: k.Name, make: k.New, seed: xxhash.Sum64String(k.Name)}
}

// hash places an identity, in the cluster and in the table. It is the same on
// every node.
func (k *kind) hash(identity string) uint64 {
	return finalise(xxhash.Sum64String(identity) ^ k.seed)
}

func (k *kind) sector(h uint64) *sector { return &k.sectors[h%sectors] }

// find returns the activation of identity, or nil. It may be released at any
// time; pushing to it tells.
func (k *kind) find(h uint64, identity string) *activation {
	s := k.sector(h)
	s.mu.RLock()
	a := s.m[identity]
	s.mu.RUnlock()
	return a
}

// tell queues m for identity, activating it where needed.
func (k *kind) tell(h uint64, identity string, m any) error {
	n := &node{msg: m}
	if a := k.find(h, identity); a != nil && a.push(n) {
		return nil
	}
	return k.activate(h, identity, n)
}

func (k *kind) activate(h uint64, identity string, n *node) error {
	a, fresh, err := k.place(h, identity, n)
	if fresh {
		a.live()
	}
	return err
}

// place puts n, where it is not nil, into the queue of identity's activation, a
// fresh one where there is none that takes it.
func (k *kind) place(h uint64, identity string, n *node) (a *activation, fresh bool, err error) {
	s := k.sector(h)
	s.mu.Lock()
	defer s.mu.Unlock()
	if a = s.m[identity]; a != nil && a.accepts(n) {
		return a, false, nil
	}
	if err := k.node.mayBegin(h); err != nil {
		return nil, false, err
	}
	a = &activation{kind: k, identity: identity}
	a.accepts(n)
	s.add(a)
	k.live.Add(1)
	return a, true, nil
}

// release takes a sealed activation out of the table, unless another has its
// place already.
func (k *kind) release(a *activation) {
	s := k.sector(k.hash(a.identity))
	s.mu.Lock()
	if s.m[a.identity] == a {
		s.remove(a)
	}
	s.mu.Unlock()
	if k.live.Add(-1) == 0 {
		k.node.quiet.wake()
	}
}

func (s *sector) add(a *activation) {
	if s.m == nil {
		s.m = map[string]*activation{}
	}
	s.m[a.identity] = a
	s.peak = max(s.peak, len(s.m))
}

// remove makes a new map once most of the old one is empty: a Go map keeps the
// memory of its largest time.
func (s *sector) remove(a *activation) {
	delete(s.m, a.identity)
	if s.peak < 64 || len(s.m) > s.peak/4 {
		return
	}
	m := make(map[string]*activation, len(s.m))
	for id, a := range s.m {
		m[id] = a
	}
	s.m, s.peak = m, len(m)
}

// each calls do for every activation of a sector, under its lock: do must be
// quick, and neither take nor leave the table.
func (s *sector) each(do func(*activation)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, a := range s.m {
		do(a)
	}
}

// each calls do for every activation, as sector.each does.
func (k *kind) each(do func(*activation)) {
	for i := range k.sectors {
		k.sectors[i].each(do)
	}
}

package cluster

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/troupe-chat/troupe/messages"
)

// Location says where an identity belongs and whether it is active here.
type Location struct {
	Kind, Identity string
	Partition      int
	Owner          string // name of the member that owns it; "" where there is none
	Active         bool   // on this node
	PID            *actor.PID
	Since          time.Time
}

// Activation is a live activation, as operators see it. Times are exact to a
// tenth of a second.
type Activation struct {
	Kind, Identity string
	Member         string  // name of its node
	Mailbox        int     // messages waiting
	Handled        uint64  // messages, by this identity since it was last released
	Rate           float64 // messages a second, over the last ten
	Since          time.Time
	Age            time.Duration
	LastMessage    string // its type; "" before the first
	LastAt         time.Time
	Failures       int
}

// Sort is an order of activations, the largest first.
type Sort string

// The orders.
const (
	ByMailbox Sort = "mailbox"
	ByRate    Sort = "rate"
	ByAge     Sort = "age"
)

// DefaultLimit is how many activations Activations returns where nothing else
// is asked.
const DefaultLimit = 100

// Filter chooses activations. The zero value: the DefaultLimit deepest
// mailboxes, of every kind.
type Filter struct {
	Kind  string // "": all
	Sort  Sort   // "": ByMailbox
	Limit int    // 0: DefaultLimit
}

// MemberInfo is a member, as this node sees it.
type MemberInfo struct {
	Member
	Self   bool
	Share  float64        // of the hash space
	Actors map[string]int // live activations by kind; of this node only
}

// Locate says where kind/identity belongs and whether it is active here. It
// never activates.
func (n *Node) Locate(kind, identity string) (Location, error) {
	k := n.kinds[kind]
	if k == nil {
		return Location{}, fmt.Errorf("%w: %q", ErrUnknownKind, kind)
	}
	h := k.hash(identity)
	at := Location{Kind: kind, Identity: identity, Partition: partitionOf(h)}
	if owner, ok := n.placement.Load().owner(h); ok {
		at.Owner = owner.Name
	}
	if l := k.current(h, identity); l != nil {
		at.Active, at.PID, at.Since = true, l.pid(), time.UnixMilli(l.since)
	}
	return at, nil
}

// current returns the current life of identity, or nil.
func (k *kind) current(h uint64, identity string) *life {
	if a := k.find(h, identity); a != nil {
		return a.life.Load()
	}
	return nil
}

// Counts returns the live activations by kind. It costs next to nothing.
func (n *Node) Counts() map[string]int {
	counts := make(map[string]int, len(n.kinds))
	for name, k := range n.kinds {
		counts[name] = int(k.live.Load())
	}
	return counts
}

// Failures returns how many activations have failed, by kind.
func (n *Node) Failures() map[string]uint64 {
	counts := make(map[string]uint64, len(n.kinds))
	for name, k := range n.kinds {
		counts[name] = k.failed.Load()
	}
	return counts
}

// Members returns the members by name.
func (n *Node) Members() []MemberInfo {
	p := n.placement.Load()
	shares := p.shares()
	infos := make([]MemberInfo, len(p.members))
	for i, m := range p.members {
		infos[i] = MemberInfo{Member: m, Self: i == p.self, Share: shares[i]}
		if infos[i].Self {
			infos[i].Actors = n.Counts()
		}
	}
	return infos
}

// Inspect asks a live activation for its state, by *messages.Inspect. Where
// the identity is not active here, or ends before it answers, the error is
// ErrNotActive: Inspect never activates.
func (n *Node) Inspect(ctx context.Context, kind, identity string) (any, error) {
	k := n.kinds[kind]
	if k == nil {
		return nil, fmt.Errorf("%w: %q", ErrUnknownKind, kind)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r := n.expect()
	defer r.forget()
	if !k.inspect(identity, r) {
		return nil, ErrNotActive
	}
	select {
	case answer := <-r.answers:
		return inspected(answer)
	case <-ctx.Done():
		return nil, fmt.Errorf("inspecting a %s: %w: %w", kind, ErrNoReply, ctx.Err())
	}
}

// inspectProbe asks a life for its state. It becomes a messages.Inspect when
// it is read, and is no message in the counts: looking keeps nobody alive.
type inspectProbe struct{ r *reply }

// state is what a behaviour gave to Inspect's Reply.
type state struct{ of any }

func (k *kind) inspect(identity string, r *reply) bool {
	h := k.hash(identity)
	a := k.find(h, identity)
	if a == nil {
		return false
	}
	l := a.life.Load()
	return l != nil && a.push(&node{msg: inspectProbe{r}, to: l})
}

func (p inspectProbe) message() any {
	return &actor.MessageEnvelope{
		Message: &messages.Inspect{Reply: func(v any) { p.r.offer(state{v}) }},
		Sender:  p.r.pid,
	}
}

func inspected(answer any) (any, error) {
	switch answer := answer.(type) {
	case state:
		return answer.of, nil
	case *actor.DeadLetterResponse:
		return nil, ErrNotActive
	}
	return nil, errFailed
}

// Activations returns what is live on this node, as filter chooses.
func (n *Node) Activations(filter Filter) []Activation {
	limit := filter.Limit
	if limit <= 0 {
		limit = DefaultLimit
	}
	var found []Activation
	for _, k := range n.kinds {
		if filter.Kind != "" && filter.Kind != k.name {
			continue
		}
		for i := range k.sectors {
			found = append(found, k.sectors[i].snapshot()...)
			if len(found) > 2*limit {
				found = largest(found, filter.Sort, limit)
			}
		}
	}
	return largest(found, filter.Sort, limit)
}

func (s *sector) snapshot() []Activation {
	var list []Activation
	s.each(func(a *activation) {
		if l := a.life.Load(); l != nil {
			list = append(list, a.snapshot(l))
		}
	})
	return list
}

func (a *activation) snapshot(l *life) Activation {
	n := a.kind.node
	now := n.clock.Load()
	s := Activation{
		Kind: a.kind.name, Identity: a.identity, Member: n.config.Name,
		Mailbox: max(int(a.depth.Load()), 0), Handled: a.handled.Load(),
		Rate: a.rate.perSecond(now), Failures: int(a.failures.Load()),
		Since: time.UnixMilli(l.since), Age: time.Duration(max(now-l.since, 0)) * time.Millisecond,
	}
	if t := a.lastType.Load(); t != nil {
		s.LastMessage, s.LastAt = t.name, time.UnixMilli(a.lastAt.Load())
	}
	return s
}

func largest(list []Activation, by Sort, limit int) []Activation {
	slices.SortFunc(list, func(a, b Activation) int {
		return cmp.Or(-compare(a, b, by), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Identity, b.Identity))
	})
	return list[:min(limit, len(list))]
}

func compare(a, b Activation, by Sort) int {
	switch by {
	case ByRate:
		return cmp.Compare(a.Rate, b.Rate)
	case ByAge:
		return cmp.Compare(a.Age, b.Age)
	}
	return cmp.Compare(a.Mailbox, b.Mailbox)
}

// typeNames keeps one messageType for each type of message.
type typeNames struct{ m sync.Map }

func (t *typeNames) of(of reflect.Type) *messageType {
	if known, ok := t.m.Load(of); ok {
		return known.(*messageType)
	}
	name := "nil"
	if of != nil {
		name = of.String()
	}
	known, _ := t.m.LoadOrStore(of, &messageType{of: of, name: name})
	return known.(*messageType)
}

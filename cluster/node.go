package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	pcluster "github.com/asynkron/protoactor-go/cluster"

	"github.com/troupe-chat/troupe/internal/crew"
	"google.golang.org/grpc"
)

// The errors of telling and asking.
var (
	// ErrUnknownKind: this node was given no such kind.
	ErrUnknownKind = errors.New("cluster: unknown actor kind")
	// ErrUnknownService: nothing was registered under that name.
	ErrUnknownService = errors.New("cluster: unknown service")
	// ErrUnknownNode: no member has that name.
	ErrUnknownNode = errors.New("cluster: unknown node")
	// ErrNoOwner: the cluster has no member that would own it.
	ErrNoOwner = errors.New("cluster: no member owns the identity")
	// ErrStopped: the node is stopping and begins nothing new.
	ErrStopped = errors.New("cluster: the node is stopping")
	// ErrNotActive: the identity has no activation here.
	ErrNotActive = errors.New("cluster: not active")
	// ErrNoReply: nothing answered in the time there was.
	ErrNoReply = errors.New("cluster: no reply")
	// ErrBadReply: what answered gave nil, or no protobuf message.
	ErrBadReply = errors.New("cluster: the reply is not a message")
	// ErrLinkFull: too much waits for that member already.
	ErrLinkFull = errors.New("cluster: the link is full")
	// ErrLocalOnly: the message is no protobuf message and stays on its node.
	ErrLocalOnly = errors.New("cluster: the message cannot leave its node")
)

// errMoved: the identity went to another member between two looks.
var errMoved = errors.New("cluster: the identity has moved")

// EndCause says why an activation ended.
type EndCause string

// The causes.
const (
	Passivated EndCause = "passivated" // it was idle and left
	Failed     EndCause = "failed"     // it panicked
	Stopped    EndCause = "stopped"    // it was stopped, or its node was
	Lost       EndCause = "lost"       // another member owns its identity now
)

// DefaultIdleAfter is when an activation is told that it is idle, where nothing
// else is configured.
const DefaultIdleAfter = 2 * time.Minute

// maxWorkers is how many activations handle messages at once. They never wait
// for anything, so a few goroutines do; it is more than a few so that one that
// waits all the same, against the rule, holds up nobody.
const maxWorkers = 64

// Config is what a node needs to know. Only Name is required.
type Config struct {
	Name string // stable over restarts, unique in the cluster; placement goes by it
	// Listen is the actors' port, "host:port"; "" has none. Beyond loopback
	// TLS must be set.
	Listen    string
	Advertise string // address that the other nodes use; "": as listened on
	// TLS, where it is not nil, secures the actors' port, both ways: it needs
	// a certificate, the authority that signs the other nodes' in RootCAs and
	// ClientCAs, and ClientAuth = RequireAndVerifyClientCert.
	TLS       *tls.Config
	Kinds     []Kind
	IdleAfter time.Duration // 0: DefaultIdleAfter
	Provider  Provider      // nil: Single
	Logger    *slog.Logger  // nil: slog.Default()
	Now       func() time.Time
	// OnEnded is told of every activation that ended, on its goroutine, before
	// the next one of the identity begins.
	OnEnded func(kind, identity string, cause EndCause)
}

// Node is a member of the cluster with the actors it runs. Every method may be
// called by any number of goroutines at once.
type Node struct {
	config  Config
	log     *slog.Logger
	now     func() time.Time
	system  *actor.ActorSystem
	cluster *pcluster.Cluster
	kinds   map[string]*kind // Immutable.
	wheel   *wheel
	crew    *crew.Crew // runs the activations that have messages
	since   time.Time
	address string

	clock     atomic.Int64 // ms; moves with the wheel
	lives     atomic.Uint64
	types     typeNames
	placement atomic.Pointer[placement]
	services  services
	refusals  refusals

	server  *grpc.Server // nil without a port
	serving sync.WaitGroup
	links   links

	stopping atomic.Bool // no activation begins any more
	quiet    quiet
	stop     sync.Once
	stopped  chan struct{}
	stopErr  error // set before stopped is closed
}

// Start joins the cluster and takes messages once it returns. ctx bounds the
// joining only; Stop ends the node.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	n := newNode(cfg)
	n.cluster = newCluster(ctx, n)
	if err := n.listen(); err != nil {
		return nil, err
	}
	if err := n.join(); err != nil {
		n.disconnect()
		n.system.Shutdown()
		return nil, fmt.Errorf("joining the cluster: %w", err)
	}
	go n.wheel.run()
	return n, nil
}

func (c *Config) validate() error {
	if c.Name == "" {
		return errors.New("cluster: Name: must not be empty")
	}
	if c.IdleAfter < 0 {
		return fmt.Errorf("cluster: IdleAfter: %v is negative", c.IdleAfter)
	}
	seen := map[string]bool{}
	for _, k := range c.Kinds {
		if k.Name == "" || k.New == nil || seen[k.Name] {
			return fmt.Errorf("cluster: Kinds: %q needs a name of its own and a New", k.Name)
		}
		seen[k.Name] = true
	}
	return c.validateListen()
}

func newNode(cfg Config) *Node {
	n := &Node{config: cfg, log: cfg.Logger, now: cfg.Now, stopped: make(chan struct{})}
	if n.log == nil {
		n.log = slog.Default()
	}
	if n.now == nil {
		n.now = time.Now
	}
	if n.config.IdleAfter == 0 {
		n.config.IdleAfter = DefaultIdleAfter
	}
	if n.config.Provider == nil {
		n.config.Provider = Single{}
	}
	n.since = n.now()
	n.clock.Store(n.since.UnixMilli())
	n.placement.Store(newPlacement(nil, ""))
	n.kinds = make(map[string]*kind, len(cfg.Kinds))
	for _, k := range cfg.Kinds {
		n.kinds[k.Name] = newKind(n, k)
	}
	n.links = links{node: n, m: map[string]*link{}}
	n.wheel = newWheel(n, n.config.IdleAfter)
	n.crew = crew.New(maxWorkers, maxWorkers)
	n.quiet.changed = make(chan struct{}, 1)
	n.system = newSystem(n.log)
	return n
}

// Name returns the node's stable name.
func (n *Node) Name() string { return n.config.Name }

// Address returns where other nodes reach this one, or "" where they can't.
func (n *Node) Address() string { return n.address }

// System returns protoactor's actor system.
func (n *Node) System() *actor.ActorSystem { return n.system }

// Root returns the context that sends from outside of any actor.
func (n *Node) Root() *actor.RootContext { return n.system.Root }

// Cluster returns protoactor's cluster, which runs on this node's lookup,
// provider and context.
func (n *Node) Cluster() *pcluster.Cluster { return n.cluster }

// Tell hands m to the virtual actor kind/identity, activating it where needed.
// It never blocks on I/O. The messages of one goroutine to one identity arrive
// in order, also across passivation, which loses none. m must not be changed
// afterwards.
func (n *Node) Tell(kind, identity string, m any) error {
	k := n.kinds[kind]
	if k == nil {
		return fmt.Errorf("%w: %q", ErrUnknownKind, kind)
	}
	h := k.hash(identity)
	for {
		p := n.placement.Load()
		if !p.owns(h) {
			return n.forward(p, h, k.name, identity, m)
		}
		if err := k.tell(h, identity, m); err != errMoved {
			return err
		}
	}
}

// mayBegin returns why this node may not begin an activation with the hash h,
// by its own view of the cluster. It is asked under the lock of h's sector: an
// activation is either refused, or in the table when those that have moved are
// looked for.
func (n *Node) mayBegin(h uint64) error {
	switch {
	case n.stopping.Load():
		return ErrStopped
	case !n.placement.Load().owns(h):
		return errMoved
	}
	return nil
}

// mayLive reports whether this node may begin a life of a.
func (n *Node) mayLive(a *activation) bool {
	return n.mayBegin(a.kind.hash(a.identity)) == nil
}

// forward sends m to the member that owns the identity: not this one.
func (n *Node) forward(p *placement, h uint64, kind, identity string, m any) error {
	owner, ok := p.owner(h)
	if !ok {
		return ErrNoOwner
	}
	return n.send(owner, kind, identity, m)
}

// reroute sends what was queued for a to its owner, who is not this node.
func (n *Node) reroute(p *placement, a *activation, letter *node) {
	if n.stopping.Load() || n.forward(p, a.kind.hash(a.identity), a.kind.name, a.identity, letter.msg) != nil {
		n.deadLetter(letter)
	}
}

// deadLetter publishes a message that nobody can have any more, and tells its
// sender.
func (n *Node) deadLetter(letter *node) {
	switch m := letter.msg.(type) {
	case idleProbe:
		return
	case inspectProbe:
		m.r.offer(&actor.DeadLetterResponse{})
		return
	}
	var to *actor.PID
	if letter.to != nil {
		to = letter.to.pid()
	}
	n.system.DeadLetter.SendUserMessage(to, letter.msg)
}

func (n *Node) ended(a *activation, cause EndCause) {
	if cause == Failed {
		a.kind.failed.Add(1)
	}
	if n.config.OnEnded != nil {
		n.config.OnEnded(a.kind.name, a.identity, cause)
	}
}

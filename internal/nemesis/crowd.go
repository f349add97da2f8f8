//go:build linux

package nemesis

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/troupe-chat/troupe/internal/history"
	"github.com/troupe-chat/troupe/messages"
)

// Tokens returns a token for a user. Called by many goroutines at once.
type Tokens func(ctx context.Context, user string) (string, error)

// Plan says what a device sends next, a send or a change of a group without its
// client id; nil: nothing now. It is called with the device's mutex held.
type Plan func(rng *rand.Rand) *messages.ClientFrame

// Crowd is the devices of many users on one server. Its methods may be called
// concurrently, but Add and Group not once Run was called.
type Crowd struct {
	Address string // HOST:PORT of the server's clients
	Tokens  Tokens
	Seed    uint64

	history *history.History
	devices []*Device
	groups  map[messages.ConversationID]messages.UserID // their owners
	running sync.WaitGroup
	sending atomic.Bool

	mu      sync.Mutex
	changed chan struct{}                    // guarded by mu: closed at the next event
	figures Figures                          // guarded by mu
	last    time.Time                        // guarded by mu: of the last acknowledgement
	talks   map[messages.ConversationID]bool // guarded by mu: those that were written to
	faults  []error                          // guarded by mu: what a device met that no server may do
	closes  map[int]int                      // guarded by mu: connections by the code that ended them
	changes map[changeKey]struct{}           // guarded by mu: acknowledged changes of groups
}

type changeKey struct {
	group messages.ConversationID
	by    messages.UserID
	id    messages.ClientID
}

// Figures is what happened in a run.
type Figures struct {
	Acknowledged int           // sends answered for the first time
	Delivered    int           // entries, each once a device
	Repeats      int           // entries delivered again, and answers to retries
	Changes      int           // changes of groups answered
	Connects     int           // welcomes
	Closings     int           // closing frames
	Away         time.Duration // the longest time without an acknowledgement while sending
}

func (f Figures) String() string {
	return fmt.Sprintf("acknowledged %d, delivered %d, repeats %d, group changes %d, connects %d, longest without service %v",
		f.Acknowledged, f.Delivered, f.Repeats, f.Changes, f.Connects, f.Away.Round(time.Millisecond))
}

// NewCrowd makes a crowd of nobody.
func NewCrowd(address string, tokens Tokens, seed uint64) *Crowd {
	return &Crowd{
		Address: address, Tokens: tokens, Seed: seed,
		history: history.New(),
		groups:  make(map[messages.ConversationID]messages.UserID),
		changed: make(chan struct{}),
		talks:   make(map[messages.ConversationID]bool),
		closes:  make(map[int]int),
		changes: make(map[changeKey]struct{}),
	}
}

// Add adds a device, which may have a plan. A forgetful one never says what it
// has: it gets again what the server does not know to be acknowledged.
func (c *Crowd) Add(user messages.UserID, id messages.DeviceID, forgetful bool, plan Plan) *Device {
	d := newDevice(c, user, id, rand.New(rand.NewPCG(c.Seed, uint64(len(c.devices)))))
	d.forgetful, d.plan = forgetful, plan
	c.devices = append(c.devices, d)
	return d
}

// Group tells of a group that its owner is going to make.
func (c *Crowd) Group(owner messages.UserID, id messages.ClientID) messages.ConversationID {
	group := messages.NewGroup(owner, id)
	c.groups[group], c.talks[group] = owner, true
	return group
}

// Run connects all devices and keeps them connected until ctx ends; what it
// returns waits for that.
func (c *Crowd) Run(ctx context.Context) (wait func()) {
	for _, d := range c.devices {
		c.running.Go(func() { d.run(ctx) })
	}
	return c.running.Wait
}

// Send makes the devices follow their plans.
func (c *Crowd) Send() {
	c.note(func() { c.last = time.Now() })
	c.sending.Store(true)
	for _, d := range c.devices {
		d.nudge()
	}
}

// Figures returns what has happened so far.
func (c *Crowd) Figures() Figures {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.figures
}

// ClosedWith returns how many connections ended with a close code.
func (c *Crowd) ClosedWith(code int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closes[code]
}

// Online returns how many devices are connected and welcomed.
func (c *Crowd) Online() (n int) {
	for _, d := range c.devices {
		if d.online() {
			n++
		}
	}
	return n
}

// note changes what is guarded by mu, and wakes who waits.
func (c *Crowd) note(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	close(c.changed)
	c.changed = make(chan struct{})
}

// acknowledged notes the first answer to a send.
func (c *Crowd) acknowledged() {
	c.note(func() {
		now := time.Now()
		if c.sending.Load() {
			c.figures.Away = max(c.figures.Away, now.Sub(c.last))
		}
		c.last = now
		c.figures.Acknowledged++
	})
}

// talked notes that a conversation is written to.
func (c *Crowd) talked(id messages.ConversationID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.talks[id] = true
}

func (c *Crowd) fault(format string, args ...any) {
	c.note(func() { c.faults = append(c.faults, fmt.Errorf(format, args...)) })
}

// Await waits until ok, which is asked again after every event.
func (c *Crowd) Await(ctx context.Context, what string, ok func() bool) error {
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if ok() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
		}
	}
}

// AwaitAcknowledged waits for n more acknowledgements.
func (c *Crowd) AwaitAcknowledged(ctx context.Context, n int) error {
	goal := c.Figures().Acknowledged + n
	return c.Await(ctx, fmt.Sprintf("%d acknowledgements", n), func() bool {
		return c.Figures().Acknowledged >= goal
	})
}

// AwaitOnline waits until every device is connected.
func (c *Crowd) AwaitOnline(ctx context.Context) error {
	return c.Await(ctx, "every device", func() bool { return c.Online() == len(c.devices) })
}

// Quiet stops sending and waits until all that was sent is answered. Its error
// names what is not.
func (c *Crowd) Quiet(ctx context.Context) error {
	c.sending.Store(false)
	err := c.Await(ctx, "answers to all that was sent", func() bool {
		return !slices.ContainsFunc(c.devices, (*Device).waits)
	})
	if err == nil {
		return nil
	}
	var open []string
	for _, d := range c.devices {
		open = append(open, d.open()...)
	}
	return fmt.Errorf("%w: %s", err, strings.Join(open, ", "))
}

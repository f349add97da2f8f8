//go:build linux

package load

import (
	"context"
	"fmt"
	"time"

	"github.com/troupe-chat/troupe/messages"
)

// DrainConfig says what waits for the device. Config's own scenario, its rate
// and its duration are not used.
type DrainConfig struct {
	Config
	Entries       int
	Conversations int // direct ones, each with an equal share
}

// drainInflight is how many sends each sender keeps unanswered while it fills
// its conversation.
const drainInflight = 16

// Drain has a device go offline, fills its conversations, and measures how
// long it takes from dialling again until it has the last entry, acknowledging
// as it goes. Errors are as for Run.
func Drain(ctx context.Context, cfg DrainConfig) (*Result, error) {
	cfg.Pairs, cfg.Groups, cfg.Idle, cfg.Rate, cfg.Loops = cfg.Conversations, 0, 0, 0, 1
	cfg.Duration = time.Second
	if err := cfg.prepare(); err != nil {
		return nil, err
	}
	if cfg.Entries < cfg.Conversations {
		return nil, fmt.Errorf("drain: Entries %d: at least one for each of %d Conversations", cfg.Entries, cfg.Conversations)
	}
	f, ctx, err := newFleet(ctx, &cfg.Config)
	if err != nil {
		return nil, err
	}
	defer f.close()
	d := &drain{fleet: f, quota: cfg.Entries / cfg.Conversations, done: make(chan error, 1)}
	d.plan()
	if err := f.connect(ctx, f.clients); err != nil {
		return nil, err
	}
	if err := d.fill(ctx); err != nil {
		return nil, fmt.Errorf("fill the conversations: %w", err)
	}
	took, err := d.catchUp(ctx)
	if err != nil {
		return nil, fmt.Errorf("catch up: %w", err)
	}
	return d.result(ctx, took)
}

// drain is the state of one Drain. Its counts are owned by the loop.
type drain struct {
	*fleet
	device *client
	quota  int // entries in each conversation
	done   chan error

	filled, arrived int // conversations, entries
	first, last     time.Duration
}

// plan makes a sender for each conversation, and the device that is in all.
func (d *drain) plan() {
	w := d.worker(0)
	d.device = d.client(w, "d", 0)
	for i := range d.cfg.Pairs {
		s := d.client(w, "s", i)
		id := messages.Direct(messages.UserID(s.user), messages.UserID(d.device.user))
		w.addRoom(newRoom(w, string(id), false, []*client{s, d.device}))
	}
	w.onAnswer, w.onArrived = d.answered, d.got
}

func (d *drain) total() int { return d.quota * d.cfg.Pairs }

// fill takes the device offline and has every sender send its share.
func (d *drain) fill(ctx context.Context) error {
	w := d.worker(0)
	w.loop.do(func() {
		d.device.conn.close()
		for _, r := range w.rooms {
			for range min(drainInflight, d.quota) {
				r.members[0].send(w.loop.now)
			}
		}
	})
	return collect(ctx, d.done, 1)
}

// answered follows a sent, or a refusal.
func (d *drain) answered(m *member) {
	if m.acks+m.inflight < d.quota {
		m.send(d.worker(0).loop.now)
	}
	if m.acks == d.quota && m.inflight == 0 {
		d.filled++
	}
	if d.filled == d.cfg.Pairs {
		d.done <- nil
	}
}

// catchUp dials as the device and returns how long everything took.
func (d *drain) catchUp(ctx context.Context) (time.Duration, error) {
	began := time.Since(d.epoch)
	d.device.start = ""
	if err := d.connect(ctx, []*client{d.device}); err != nil {
		return 0, err
	}
	if err := collect(ctx, d.done, 1); err != nil {
		return 0, err
	}
	d.first -= began
	return d.last - began, nil
}

// got follows an entry at the device's socket.
func (d *drain) got(*member) {
	now := d.worker(0).loop.now
	if d.arrived == 0 {
		d.first = now
	}
	if d.arrived++; d.arrived == d.total() {
		d.last = now
		d.done <- nil
	}
}

func (d *drain) result(ctx context.Context, took time.Duration) (*Result, error) {
	if err := d.settle(ctx, time.Since(d.epoch)+d.cfg.Settle); err != nil {
		return nil, err
	}
	res := &Result{Scenario: "drain", Clients: len(d.clients)}
	res.count(d.merged(), time.Second)
	res.Seconds = took.Seconds()
	res.Drain = &DrainResult{
		Entries:       d.total(),
		Conversations: d.cfg.Pairs,
		Seconds:       took.Seconds(),
		FirstSeconds:  d.first.Seconds(),
		EntriesPerS:   perSecond(int64(d.total()), took),
	}
	return res, nil
}

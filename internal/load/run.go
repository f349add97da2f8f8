//go:build linux

package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/troupe-chat/troupe/messages"
)

// startIn is how far ahead the first send is put, so that every loop knows of
// it in time.
const startIn = 20 * time.Millisecond

// fleet is the loops of a run and the clients on them. Its methods are called
// by the one goroutine that owns the run.
type fleet struct {
	cfg     *Config
	run     uint64
	epoch   time.Time
	dialer  *dialer
	workers []*worker
	clients []*client

	loops  sync.WaitGroup
	cancel context.CancelCauseFunc
}

// Run connects the clients of cfg, puts the load on, waits for what is under
// way and returns what was found. It leaves nothing running.
//
// An error means that there is no result: the configuration is wrong, the
// server could not be reached or refused a client, or ctx ended. Violations
// are no error; see Result.Correct.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	if err := cfg.prepare(); err != nil {
		return nil, err
	}
	f, ctx, err := newFleet(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	defer f.close()
	groups := f.plan()
	use, err := f.connectWatched(ctx)
	if err != nil {
		return nil, err
	}
	if err := f.createGroups(ctx, groups); err != nil {
		return nil, err
	}
	return f.load(ctx, use)
}

// newFleet starts the loops. The context it returns ends with the first loop
// that fails.
func newFleet(ctx context.Context, cfg *Config) (*fleet, context.Context, error) {
	f := &fleet{
		cfg:    cfg,
		run:    rand.Uint64N(1 << (6 * runDigits)),
		epoch:  time.Now(),
		dialer: &dialer{url: cfg.URL, sources: cfg.Sources},
	}
	ctx, f.cancel = context.WithCancelCause(ctx)
	for range cfg.Loops {
		w, err := newWorker(cfg, f.run, f.epoch)
		if err != nil {
			f.close()
			return nil, nil, err
		}
		f.workers = append(f.workers, w)
		f.loops.Go(func() {
			if err := w.loop.run(ctx); err != nil {
				f.cancel(err)
			}
		})
	}
	return f, ctx, nil
}

func (f *fleet) close() {
	f.cancel(nil)
	f.loops.Wait()
}

// plan makes the clients and their rooms, all of a room on one worker, and
// returns the groups.
func (f *fleet) plan() []*room {
	cfg := f.cfg
	for i := range cfg.Pairs {
		w := f.worker(i)
		cs := []*client{f.client(w, "p", 2*i), f.client(w, "p", 2*i+1)}
		id := messages.Direct(messages.UserID(cs[0].user), messages.UserID(cs[1].user))
		w.addRoom(newRoom(w, string(id), false, cs))
	}
	var groups []*room
	for i := range cfg.Groups {
		w := f.worker(i)
		cs := make([]*client, cfg.GroupSize)
		for j := range cs {
			cs[j] = f.client(w, "g", i*cfg.GroupSize+j)
		}
		r := newRoom(w, "", true, cs)
		w.addRoom(r)
		groups = append(groups, r)
	}
	for i := range cfg.Idle {
		f.client(f.worker(i), "i", i)
	}
	return groups
}

func (f *fleet) worker(i int) *worker { return f.workers[i%len(f.workers)] }

// client makes the i-th client of its kind. Its device is new in every run:
// what earlier runs left undelivered is not its business.
func (f *fleet) client(w *worker, kind string, i int) *client {
	c := &client{
		w:      w,
		user:   fmt.Sprintf("%s-%s%d", f.cfg.Prefix, kind, i),
		device: "load-" + string(appendDigits(nil, f.run, runDigits)),
		start:  "head",
	}
	f.clients = append(f.clients, c)
	return c
}

// connectWatched connects all clients and returns what memory they cost the
// server.
func (f *fleet) connectWatched(ctx context.Context) (ServerUse, error) {
	watch := f.cfg.Server.PID != 0 && f.cfg.Idle > 0
	var before, after int64
	var err error
	if watch {
		if before, err = f.cfg.Server.restingRSS(ctx); err != nil {
			return ServerUse{}, err
		}
	}
	if err := f.connect(ctx, f.clients); err != nil || !watch {
		return ServerUse{}, err
	}
	if after, err = f.cfg.Server.restingRSS(ctx); err != nil {
		return ServerUse{}, err
	}
	per := float64(after-before) / float64(len(f.clients))
	return ServerUse{BytesPerConnection: per}, nil
}

// connect has clients dialled, a few at a time, and waits for each welcome.
func (f *fleet) connect(ctx context.Context, clients []*client) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	opened := make(chan error, len(clients))
	queue := make(chan int)
	var dials sync.WaitGroup
	defer dials.Wait()
	for range min(f.cfg.Dials, len(clients)) {
		dials.Go(func() {
			for i := range queue {
				f.open(ctx, clients[i], i, opened)
			}
		})
	}
	dials.Go(func() {
		defer close(queue)
		for i := range clients {
			select {
			case queue <- i:
			case <-ctx.Done():
				return
			}
		}
	})
	err := collect(ctx, opened, len(clients))
	if err != nil {
		cancel(err)
	}
	return err
}

// open connects one client; opened gets the outcome.
func (f *fleet) open(ctx context.Context, c *client, i int, opened chan<- error) {
	token, err := f.cfg.Tokens(ctx, c.user)
	if err != nil {
		opened <- fmt.Errorf("get a token for %s: %w", c.user, err)
		return
	}
	fd, err := f.dialer.dial(ctx, i)
	if err != nil {
		opened <- err
		return
	}
	c.w.loop.do(func() {
		c.opened = func(err error) { opened <- err }
		c.open(fd, token)
	})
}

// collect waits for n outcomes, or for the first failure.
func collect(ctx context.Context, outcomes <-chan error, n int) error {
	for range n {
		select {
		case err := <-outcomes:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (f *fleet) createGroups(ctx context.Context, groups []*room) error {
	created := make(chan error, len(groups))
	for _, r := range groups {
		r.w.loop.do(func() {
			id := "group-" + string(appendDigits(nil, f.run, runDigits))
			r.members[0].c.createGroup(r, id, func(err error) { created <- err })
		})
	}
	return collect(ctx, created, len(groups))
}

// load puts the load on and returns what was found.
func (f *fleet) load(ctx context.Context, use ServerUse) (*Result, error) {
	cfg := f.cfg
	begin := time.Since(f.epoch) + startIn
	from, to := begin+cfg.Warmup, begin+cfg.Warmup+cfg.Duration
	f.startWorkers(begin, from, to)

	meter, err := f.measure(ctx, from, to)
	if err != nil {
		return nil, err
	}
	if err := f.settle(ctx, to+cfg.Settle); err != nil {
		return nil, err
	}
	res := &Result{Scenario: cfg.scenario(), Clients: len(f.clients), Rate: cfg.Rate}
	if cfg.Rate == 0 && cfg.Pairs+cfg.Groups > 0 {
		res.Inflight = cfg.Inflight
	}
	t := f.merged()
	res.count(t, cfg.Duration)
	res.Server, res.Generator.CPU = use, meter.generator.Seconds()/cfg.Duration.Seconds()
	res.Server.RSSBytes = meter.rss
	res.Server.CPU = meter.server.Seconds() / cfg.Duration.Seconds()
	if t.delivered > 0 {
		res.Server.CPUPerMessage = float64(meter.server.Microseconds()) / float64(t.delivered)
	}
	return res, nil
}

// startWorkers gives every worker its share of the schedule: a worker with k
// of n senders makes k of n sends, its own evenly spaced.
func (f *fleet) startWorkers(begin, from, to time.Duration) {
	senders := 0
	for _, w := range f.workers {
		w.makeSlots()
		senders += len(w.slots)
	}
	for i, w := range f.workers {
		var every time.Duration
		if f.cfg.Rate > 0 && len(w.slots) > 0 {
			share := f.cfg.Rate * float64(len(w.slots)) / float64(senders)
			every = max(time.Duration(float64(time.Second)/share), 1)
		}
		first := begin + every*time.Duration(i)/time.Duration(len(f.workers))
		w.loop.do(func() { w.start(first, from, to, every) })
	}
}

// meter is what was used between two instants.
type meter struct {
	server, generator time.Duration // processor time
	rss               int64
}

func (f *fleet) measure(ctx context.Context, from, to time.Duration) (meter, error) {
	if err := f.until(ctx, from); err != nil {
		return meter{}, err
	}
	server, own, err := f.used()
	if err != nil {
		return meter{}, err
	}
	if err := f.until(ctx, to); err != nil {
		return meter{}, err
	}
	serverEnd, ownEnd, err := f.used()
	if err != nil {
		return meter{}, err
	}
	m := meter{server: serverEnd - server, generator: ownEnd - own}
	if f.cfg.Server.PID != 0 {
		m.rss, err = f.cfg.Server.RSS()
	}
	return m, err
}

func (f *fleet) used() (server, own time.Duration, err error) {
	if f.cfg.Server.PID != 0 {
		server, err = f.cfg.Server.CPU()
	}
	return server, ownCPU(), err
}

// until waits for an instant of the run.
func (f *fleet) until(ctx context.Context, at time.Duration) error {
	t := time.NewTimer(at - time.Since(f.epoch))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// settle waits for what is under way and ends the loops.
func (f *fleet) settle(ctx context.Context, deadline time.Duration) error {
	done := make(chan error, len(f.workers))
	for _, w := range f.workers {
		w.loop.do(func() {
			w.settle(deadline, func() {
				w.finish()
				done <- nil
			})
		})
	}
	if err := collect(ctx, done, len(f.workers)); err != nil {
		return err
	}
	f.loops.Wait()
	return nil
}

// merged returns what all workers counted. The loops have ended.
func (f *fleet) merged() *tally {
	t := newTally()
	for _, w := range f.workers {
		t.merge(w.tally)
	}
	return t
}

func (c *Config) scenario() string {
	kinds := 0
	name := ""
	for n, count := range map[string]int{"pairs": c.Pairs, "group": c.Groups, "idle": c.Idle} {
		if count > 0 {
			kinds++
			name = n
		}
	}
	if kinds > 1 {
		return "mixed"
	}
	return name
}

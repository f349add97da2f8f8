package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/troupe-chat/troupe/messages"
)

// ErrStopped is in the error of every command after Run has returned.
var ErrStopped = errors.New("the client has stopped")

// Closed is why the server will not have this client back.
type Closed struct {
	Code int // a close code of messages, or 0 where the server said it otherwise
	Err  error
}

func (c *Closed) Error() string {
	if c.Code == 0 {
		return fmt.Sprintf("the server does not take this client: %v", c.Err)
	}
	return fmt.Sprintf("the server closed for good with %d: %v", c.Code, c.Err)
}

func (c *Closed) Unwrap() error { return c.Err }

// Client is one device's connection to a server. Its methods may be called by
// any number of goroutines at once.
type Client struct {
	options Options
	url     string
	codec   codec
	outbox  *outbox
	out     *dispatcher
	order   *order // owned by the goroutine that reads, one at a time

	connects, gaps, repeats atomic.Uint64

	mu        sync.Mutex
	positions map[messages.ConversationID]messages.Seq // guarded by mu: as saved
	link      *link                                    // guarded by mu: nil while offline
	changed   chan struct{}                            // guarded by mu: closed when link or stopped changes
	stopped   error                                    // guarded by mu: set for good when Run returns
	welcome   *messages.Welcome                        // guarded by mu: the last one
	watched   []string                                 // guarded by mu
	typing    map[string]time.Time                     // guarded by mu: when it was last told

	// Owned by Run.
	token     string
	attempt   int  // since the last success
	welcomed  bool // once at least
	untried   bool // token was got since the last answer to hello
	runCalled atomic.Bool
}

// New returns a Client that does nothing yet, with what its Store holds.
func New(o Options) (*Client, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	url, err := endpoint(o.Server, "v1/ws", true)
	if err != nil {
		return nil, err
	}
	saved, err := o.Store.Load()
	if err != nil {
		return nil, fmt.Errorf("loading the client's store: %w", err)
	}
	c := &Client{
		options:   o,
		url:       url,
		codec:     binaryCodec,
		outbox:    newOutbox(o, saved.Sends),
		order:     newOrder(saved.Positions),
		positions: saved.Positions,
		changed:   make(chan struct{}),
		typing:    map[string]time.Time{},
	}
	if o.JSON {
		c.codec = jsonCodec
	}
	c.outbox.placed = func(e *messages.Entry) { c.placed(e) }
	c.out = newDispatcher(c, saved.Positions)
	return c, nil
}

// Run connects and stays connected until ctx ends, when it returns nil, or
// until the server or the Token function says that there is no coming back: a
// *Closed. It is called once.
func (c *Client) Run(ctx context.Context) error {
	if c.runCalled.Swap(true) {
		return errors.New("client: Run was called before")
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { c.out.run(ctx) })
	wg.Go(func() { c.renewWatch(ctx) })
	err := c.stay(ctx)
	cancel()
	wg.Wait()
	c.stop(err)
	call(c.options.Handler.State, State{Phase: Stopped, Err: err})
	return err
}

// stop makes every command fail from now on.
func (c *Client) stop(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = ErrStopped
	if err != nil {
		c.stopped = fmt.Errorf("%w: %w", ErrStopped, err)
	}
	close(c.changed)
}

// stay connects again and again.
func (c *Client) stay(ctx context.Context) error {
	for {
		c.tell(State{Phase: Connecting})
		end := c.connect(ctx)
		if ctx.Err() != nil {
			return nil
		}
		wait, err := c.judge(end)
		if err != nil {
			return err
		}
		c.options.Logger.Info("connection ended", "device", c.options.Device, "error", end.err, "wait", wait)
		c.tell(State{Phase: Waiting, Err: end.err, After: wait})
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

// ending is how a connection ended.
type ending struct {
	err    error
	code   int // the close code, or 0
	ret    messages.Return
	told   *messages.Closing // what the server asked for before it closed
	least  time.Duration     // the server will not have us earlier
	steady bool              // it had been up for a while
}

// judge returns how long to wait after a connection, or that there is no
// coming back.
func (c *Client) judge(end ending) (time.Duration, error) {
	final := end.ret == messages.ReturnNever
	if end.ret == messages.ReturnNewToken {
		final = c.untried // the newest token was refused too
		c.token = ""
	}
	c.untried = false
	if final {
		return 0, &Closed{Code: end.code, Err: end.err}
	}
	if end.steady {
		c.attempt = 0
	}
	wait := max(backoff(end.ret, c.attempt, rand.Int64N), end.least)
	if end.told != nil {
		wait = time.Duration(max(0, end.told.ReconnectAfterMs)) * time.Millisecond
	}
	c.attempt++
	return wait, nil
}

// connect makes one connection and serves it until it ends.
func (c *Client) connect(ctx context.Context) ending {
	if err := c.renewToken(ctx); err != nil {
		return c.withoutToken(err)
	}
	l, err := c.dial(ctx)
	if err != nil {
		return c.withoutLink(err)
	}
	began := time.Now()
	unlisten := context.AfterFunc(ctx, l.part)
	var wg sync.WaitGroup
	wg.Go(l.write)
	c.order.reconnected()
	err = c.hello(l)
	if err == nil {
		err = l.read(func(f *messages.ServerFrame) error { return c.frame(l, f) })
	}
	unlisten()
	c.offline()
	l.end()
	wg.Wait()
	end := endingOf(l, err)
	end.steady = l.welcome != nil && time.Since(began) >= steadyTime
	return end
}

func (c *Client) renewToken(ctx context.Context) error {
	if c.token != "" {
		return nil
	}
	token, err := c.options.Token(ctx)
	if err != nil {
		return fmt.Errorf("getting a token: %w", err)
	}
	c.token, c.untried = token, true
	return nil
}

func (c *Client) withoutToken(err error) ending {
	end := ending{err: err, ret: messages.ReturnNow}
	if f, ok := errors.AsType[*messages.Failure](err); ok {
		end.least = f.RetryAfter
		if end.ret = messages.ReturnNever; temporary(f.Code) || f.Code == messages.CodeInternal {
			end.ret = messages.ReturnLater
		}
	}
	return end
}

func (c *Client) withoutLink(err error) ending {
	end := ending{err: err, ret: messages.ReturnNow}
	if h, ok := errors.AsType[*handshakeError](err); ok {
		switch {
		case h.final() && !c.welcomed:
			end.ret = messages.ReturnNever
		case h.status == 429 || h.status == 503:
			end.ret = messages.ReturnLater
		}
	}
	return end
}

// endingOf says what the end of l asks of the client.
func endingOf(l *link, err error) ending {
	end := ending{err: err, ret: messages.ReturnNow, told: l.closing}
	if l.refused != nil {
		end.err, end.ret, end.least = l.refused, afterRefusal(l.refused), l.refused.RetryAfter
	}
	if closed, ok := errors.AsType[*websocket.CloseError](err); ok && closed.Code != websocket.CloseAbnormalClosure {
		end.code, end.ret = closed.Code, messages.ReturnAfter(closed.Code)
	}
	return end
}

// afterRefusal is for a hello that was refused without a close code.
func afterRefusal(f *messages.Failure) messages.Return {
	switch {
	case f.Code == messages.CodeUnauthenticated:
		return messages.ReturnNewToken
	case temporary(f.Code), f.Code == messages.CodeInternal:
		return messages.ReturnLater
	}
	return messages.ReturnNever
}

// hello introduces the device and says where it stands, in as many frames as
// the positions need.
func (c *Client) hello(l *link) error {
	parts := c.chunks(c.standing())
	for i, positions := range parts {
		h := &messages.Hello{
			Token:     c.token,
			Device:    string(c.options.Device),
			Client:    c.options.Client,
			Positions: positions,
		}
		if !c.welcomed {
			h.Start = c.options.Start
		}
		var answered func(*messages.ServerFrame)
		if i == 0 {
			answered = func(f *messages.ServerFrame) { c.greeted(l, f) }
		}
		if err := l.ask(&messages.ClientFrame{Command: &messages.ClientFrame_Hello{Hello: h}}, answered); err != nil {
			return fmt.Errorf("saying hello: %w", err)
		}
	}
	return nil
}

// greeted takes the answer to the first hello.
func (c *Client) greeted(l *link, f *messages.ServerFrame) {
	w := f.GetWelcome()
	if w == nil {
		if f != nil {
			l.refuse(failureOf(f))
		}
		return
	}
	l.greeted(w)
	c.welcomed, c.untried = true, false
	c.connects.Add(1)
	c.options.Logger.Info("connected", "user", w.User, "device", w.Device, "session", w.Session)
	c.tell(State{Phase: Online, Welcome: w})
	c.online(l, w)
}

func (c *Client) online(l *link, w *messages.Welcome) {
	c.mu.Lock()
	c.link, c.welcome = l, w
	watched := c.watched
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	if len(watched) > 0 {
		l.post(watchFrame(watched))
	}
	c.outbox.online(l, messages.UserID(w.User))
}

// offline stops new commands from using the connection. It comes before the
// end of the link, so whoever finds the link ended finds it gone here too.
func (c *Client) offline() {
	c.outbox.offline()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != nil {
		c.link = nil
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

// frame takes what the server says without being asked.
func (c *Client) frame(l *link, f *messages.ServerFrame) error {
	switch e := f.Event.(type) {
	case *messages.ServerFrame_Deliver:
		return c.deliver(e.Deliver)
	case *messages.ServerFrame_CaughtUp:
		if err := c.surface(c.order.catchUp()); err != nil {
			return err
		}
		return c.queue(&event{frame: f})
	case *messages.ServerFrame_Receipt, *messages.ServerFrame_Typing, *messages.ServerFrame_Presence:
		return c.queue(&event{frame: f, slot: slotOf(f)})
	case *messages.ServerFrame_Closing:
		l.closing = e.Closing
	case *messages.ServerFrame_Error:
		c.options.Logger.Debug("the server refused a command", "code", e.Error.GetCode())
	}
	return nil
}

func (c *Client) deliver(d *messages.Deliver) error {
	if err := wellFormed(d); err != nil {
		return err
	}
	type place struct {
		conversation string
		seq          uint64
	}
	starts := map[place]bool{}
	for _, p := range d.Starts {
		starts[place{p.GetConversation(), p.GetSeq()}] = true
	}
	for _, e := range d.Entries {
		arrivals, err := c.order.delivered(e, starts[place{e.Conversation, e.Seq}])
		if err != nil {
			err = c.outOfOrder(e, err)
		} else {
			err = c.surface(arrivals)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// outOfOrder drops a repeated entry, and gives the connection up over a gap:
// the next one begins where the last entry was in order.
func (c *Client) outOfOrder(e *messages.Entry, err error) error {
	if errors.Is(err, errRepeat) {
		c.repeats.Add(1)
		return c.queue(&event{repeat: e})
	}
	c.gaps.Add(1)
	return fmt.Errorf("%s/%d: %w", e.Conversation, e.Seq, err)
}

// placed takes the entry that a sent frame stands for.
func (c *Client) placed(e *messages.Entry) {
	e.From = string(c.User())
	if err := c.surface(c.order.sent(e)); err != nil {
		c.options.Logger.Warn("an entry of this user", "conversation", e.Conversation, "seq", e.Seq, "error", err)
	}
}

func (c *Client) surface(arrivals []arrival) error {
	for i := range arrivals {
		if err := c.queue(&event{entry: &arrivals[i]}); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) queue(ev *event) error {
	if !c.out.queue.push(ev) {
		return errFlooded
	}
	return nil
}

func (c *Client) tell(s State) { c.out.queue.push(&event{state: &s}) }

// acknowledge notes saved positions and tells the server which entries it need
// not keep for this device.
func (c *Client) acknowledge(moved, acks map[messages.ConversationID]messages.Seq) {
	c.mu.Lock()
	for id, seq := range moved {
		c.positions[id] = seq
	}
	l := c.link
	c.mu.Unlock()
	if l == nil || len(acks) == 0 {
		return
	}
	for _, part := range c.chunks(positionsOf(acks)) {
		l.post(&messages.ClientFrame{Command: &messages.ClientFrame_Ack{Ack: &messages.Ack{Positions: part}}})
	}
}

// ackEvery returns after how many entries to acknowledge: well before the
// server's window is full.
func (c *Client) ackEvery() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := int(c.welcome.GetLimits().GetWindow()); w > 0 {
		return max(1, min(ackEvery, w/4))
	}
	return ackEvery
}

// standing returns the saved positions.
func (c *Client) standing() []*messages.Position {
	c.mu.Lock()
	defer c.mu.Unlock()
	return positionsOf(c.positions)
}

func positionsOf(m map[messages.ConversationID]messages.Seq) []*messages.Position {
	ps := make([]*messages.Position, 0, len(m))
	for id, seq := range m {
		ps = append(ps, &messages.Position{Conversation: string(id), Seq: uint64(seq)})
	}
	return ps
}

// chunks cuts positions into what the server takes in one frame.
func (c *Client) chunks(ps []*messages.Position) [][]*messages.Position {
	l, usual := c.Limits(), messages.DefaultLimits()
	return chunk(ps, int(cmp.Or(l.Positions, usual.Positions)), int(cmp.Or(l.MessageBytes, usual.MessageBytes))/2)
}

// chunk cuts positions into parts of at most so many and about so many bytes.
// There is at least one part.
func chunk(ps []*messages.Position, most, bytes int) [][]*messages.Position {
	const around = 64 // bytes of JSON around a conversation and its seq
	var parts [][]*messages.Position
	from, size := 0, 0
	for i, p := range ps {
		n := len(p.Conversation) + around
		if i-from == most || i > from && size+n > bytes {
			parts = append(parts, ps[from:i])
			from, size = i, 0
		}
		size += n
	}
	return append(parts, ps[from:])
}

// User returns who the client is, or "" before the first connection.
func (c *Client) User() messages.UserID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return messages.UserID(c.welcome.GetUser())
}

// Limits returns what the server takes, as it said at the last connect, or the
// usual before the first.
func (c *Client) Limits() *messages.Limits {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.welcome.GetLimits(); l != nil {
		return l
	}
	return messages.DefaultLimits()
}

// Stats returns what has happened so far.
func (c *Client) Stats() Stats {
	return Stats{Connects: c.connects.Load(), Gaps: c.gaps.Load(), Repeats: c.repeats.Load()}
}

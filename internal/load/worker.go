//go:build linux

package load

import (
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/troupe-chat/troupe/messages"
)

// retryAfter is the least wait before a refused send is made good by another.
const retryAfter = 10 * time.Millisecond

// settleEvery is how often a worker looks whether all has arrived.
const settleEvery = 5 * time.Millisecond

// worker runs the clients of one loop. Owned by the loop, but for tally, which
// the run reads when the loop has ended.
type worker struct {
	cfg   *Config
	loop  *loop
	run   uint64
	tally *tally
	rooms []*room
	text  []byte // bodies are parts of it

	sending  bool
	idleFrom time.Duration // what the loop had waited when the window began
	slots    []slot        // of the open loop, in turn
	turn     int
	every    time.Duration

	onArrived func(*member) // of the drain, may be nil
	onAnswer  func(*member)
}

// slot is a sender in an open loop: a member, or the next one of a group.
type slot struct {
	room   *room
	member *member
}

func newWorker(cfg *Config, run uint64, epoch time.Time) (*worker, error) {
	l, err := newLoop(epoch)
	if err != nil {
		return nil, err
	}
	return &worker{cfg: cfg, loop: l, run: run, tally: newTally(), text: randomText(2*cfg.Body + 1)}, nil
}

func randomText(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = digits[rand.N(len(digits))]
	}
	return b
}

// body returns the body of a sender's n-th send: not one text over and over,
// which a store would compress to nothing.
func (w *worker) body(n uint64) []byte {
	from := n % uint64(w.cfg.Body+1)
	return w.text[from : from+uint64(w.cfg.Body)]
}

// start begins to send, and measures from ≤ t < to; then stop is called.
func (w *worker) start(begin, from, to time.Duration, every time.Duration) {
	w.tally.from, w.tally.to = from, to
	w.sending = true
	w.every = every
	w.loop.after(w.cfg.AckWithin, w.ackOften)
	w.loop.after(from-w.loop.now, func() { w.idleFrom = w.loop.idle })
	w.loop.after(to-w.loop.now, w.stopSending)
	if every > 0 {
		w.openLoop(begin)
		return
	}
	w.loop.after(begin-w.loop.now, w.closedLoop)
}

func (w *worker) stopSending() {
	w.sending = false
	idle := w.loop.idle - w.idleFrom
	w.tally.busy = 1 - idle.Seconds()/(w.tally.to-w.tally.from).Seconds()
}

// closedLoop makes the first sends; each answer makes the next.
func (w *worker) closedLoop() {
	for _, r := range w.rooms {
		senders := len(r.members)
		if r.group {
			senders = 1
		}
		for i := range senders {
			m := r.members[i]
			for range w.cfg.Inflight {
				m.send(w.loop.now)
				m = r.next(m)
			}
		}
	}
}

// openLoop makes every send that is due, each with its own time, and comes
// back for the next.
func (w *worker) openLoop(due time.Duration) {
	for ; w.sending && due <= w.loop.now; due += w.every {
		record(w.tally.lag, w.loop.now-due)
		w.nextSlot().send(due)
	}
	if w.sending {
		w.loop.after(due-w.loop.now, func() { w.openLoop(due) })
	}
}

func (w *worker) nextSlot() *member {
	s := w.slots[w.turn%len(w.slots)]
	w.turn++
	if s.member != nil {
		return s.member
	}
	return s.room.next(nil)
}

func (w *worker) addRoom(r *room) { w.rooms = append(w.rooms, r) }

// makeSlots puts the senders in turn. Of a pair, the second member comes half
// a round after the first.
func (w *worker) makeSlots() {
	for side := range 2 {
		for _, r := range w.rooms {
			switch {
			case !r.group:
				w.slots = append(w.slots, slot{member: r.members[side]})
			case side == 0:
				w.slots = append(w.slots, slot{room: r})
			}
		}
	}
}

// answered follows a sent.
func (w *worker) answered(m *member) {
	if w.onAnswer != nil {
		w.onAnswer(m)
		return
	}
	w.again(m)
}

func (w *worker) again(m *member) {
	if w.sending && w.every == 0 {
		m.room.next(m).send(w.loop.now)
	}
}

// arrived follows an entry.
func (w *worker) arrived(m *member) {
	if w.onArrived != nil {
		w.onArrived(m)
	}
}

// refused follows an error: a send that does not stand, and in a closed loop
// another instead, when the server says so.
func (w *worker) refused(m *member, f *messages.Failure) {
	w.tally.refused[f.Code]++
	m.inflight--
	w.loop.after(max(f.RetryAfter, retryAfter), func() { w.answered(m) })
}

// lostClient follows the end of a connection.
func (w *worker) lostClient(c *client, err error) {
	w.tally.disconnects++
	w.cfg.logger().Warn("a client lost its connection", "user", c.user, "error", err)
}

// ackAll acknowledges everywhere what the count alone would leave waiting.
func (w *worker) ackAll() {
	for _, r := range w.rooms {
		for _, m := range r.members {
			m.c.ack()
		}
	}
}

func (w *worker) ackOften() {
	w.ackAll()
	w.loop.after(w.cfg.AckWithin, w.ackOften)
}

// settle calls done when all that was acknowledged is where it belongs, or at
// the deadline; the rest is then judged.
func (w *worker) settle(deadline time.Duration, done func()) {
	if !w.settled() && w.loop.now < deadline {
		w.loop.after(settleEvery, func() { w.settle(deadline, done) })
		return
	}
	for _, r := range w.rooms {
		r.judge()
	}
	done()
}

// finish acknowledges what is left and ends the loop.
func (w *worker) finish() {
	w.ackAll()
	w.loop.stop()
}

func (w *worker) settled() bool {
	for _, r := range w.rooms {
		if !r.settled() {
			return false
		}
	}
	return true
}

func (c *Config) logger() *slog.Logger {
	if c.Log != nil {
		return c.Log
	}
	return slog.Default()
}

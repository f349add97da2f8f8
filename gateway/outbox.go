package gateway

import (
	"sync"

	"github.com/troupe-chat/troupe/messages"
)

// outbox is what waits to be written to one socket: encoded frames, and at
// their end one deliver frame that still takes entries. Whatever is waiting
// when a writer comes leaves in one WebSocket message, so batches form by
// themselves where a client or the machine is busy. Guarded by its
// connection's mutex; idle, it holds no memory.
type outbox struct {
	codec   codec
	buf     *buffer // nil: nothing waits
	answers int     // answers to commands among the frames
	cost    int     // what those answers may have cost, see costOf
}

// buffer is the memory of a busy outbox.
type buffer struct {
	frames []byte
	ends   []int // of each frame in frames
	// The deliver frame that is still open.
	entries []byte
	count   int
	starts  []*messages.Position
	backlog bool
}

var buffers = sync.Pool{New: func() any { return &buffer{} }}

// maxPooled keeps buffers that one burst made large out of the pool.
const maxPooled = 64 << 10

func (b *buffer) release() {
	if cap(b.frames)+cap(b.entries) > maxPooled {
		return
	}
	b.frames, b.ends, b.entries, b.count = b.frames[:0], b.ends[:0], b.entries[:0], 0
	b.starts, b.backlog = nil, false
	buffers.Put(b)
}

func (o *outbox) ensure() *buffer {
	if o.buf == nil {
		o.buf = buffers.Get().(*buffer)
	}
	return o.buf
}

// size is how many bytes wait.
func (o *outbox) size() int {
	if o.buf == nil {
		return 0
	}
	return len(o.buf.frames) + len(o.buf.entries)
}

func (o *outbox) empty() bool { return o.buf == nil }

// frame adds one frame.
func (o *outbox) frame(f *messages.ServerFrame) {
	b := o.ensure()
	o.closeDeliver()
	b.frames = o.codec.frame(b.frames, f)
	b.ends = append(b.ends, len(b.frames))
}

// sent adds the answer to a send.
func (o *outbox) sent(re uint32, s *messages.Sent) {
	b := o.ensure()
	o.closeDeliver()
	b.frames = o.codec.sent(b.frames, re, s)
	b.ends = append(b.ends, len(b.frames))
}

// entry adds one entry to the open deliver frame, or opens one. start, when
// not nil, says that a membership begins with it.
func (o *outbox) entry(e *messages.Encoded, start *messages.Position, backlog bool) {
	b := o.ensure()
	full := b.count >= messages.MaxDeliver || len(b.entries)+len(e.Proto()) > messages.MaxServerMessage/2
	if b.count > 0 && (full || b.backlog != backlog) {
		o.closeDeliver()
	}
	b.entries = o.codec.entry(b.entries, e)
	b.count++
	b.backlog = backlog
	if start != nil {
		b.starts = append(b.starts, start)
	}
}

func (o *outbox) closeDeliver() {
	b := o.buf
	if b == nil || b.count == 0 {
		return
	}
	b.frames = o.codec.deliver(b.frames, b.entries, b.starts, b.backlog)
	b.ends = append(b.ends, len(b.frames))
	b.entries, b.count, b.starts, b.backlog = b.entries[:0], 0, nil, false
}

// take empties the outbox.
func (o *outbox) take() (b *buffer, answers, cost int) {
	o.closeDeliver()
	b, answers, cost = o.buf, o.answers, o.cost
	o.buf, o.answers, o.cost = nil, 0, 0
	return b, answers, cost
}

// each calls write with WebSocket messages that hold b's frames in order, each
// of at most messages.MaxServerMessage bytes unless one frame alone is larger.
func (b *buffer) each(c codec, write func([]byte) error) error {
	var message []byte
	for first, from := 0, 0; first < len(b.ends); {
		next := first + 1
		for next < len(b.ends) && b.ends[next]-from < messages.MaxServerMessage-next+first {
			next++
		}
		to := b.ends[next-1]
		message = c.batch(message[:0], b.frames[from:to], relative(b.ends[first:next], from))
		if err := write(message); err != nil {
			return err
		}
		first, from = next, to
	}
	return nil
}

// relative shifts ends by from, in place: they are used once.
func relative(ends []int, from int) []int {
	if from > 0 {
		for i := range ends {
			ends[i] -= from
		}
	}
	return ends
}

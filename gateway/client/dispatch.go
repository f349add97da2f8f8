package client

import (
	"context"
	"maps"
	"time"

	"github.com/troupe-chat/troupe/messages"
)

const (
	ackEvery  = 64
	ackWithin = 50 * time.Millisecond
)

// dispatcher calls the application and acknowledges what it has handled. All
// of it belongs to the goroutine of run.
type dispatcher struct {
	client *Client
	queue  *events

	handled map[messages.ConversationID]messages.Seq // the last that Entry has returned for
	moved   map[messages.ConversationID]messages.Seq // of those, not saved yet
	acks    map[messages.ConversationID]messages.Seq // to be acknowledged once saved
	waiting int                                      // entries since the last flush
	oldest  time.Time                                // when the first of them was handled
}

func newDispatcher(c *Client, positions map[messages.ConversationID]messages.Seq) *dispatcher {
	return &dispatcher{
		client:  c,
		queue:   newEvents(),
		handled: maps.Clone(positions),
		moved:   map[messages.ConversationID]messages.Seq{},
		acks:    map[messages.ConversationID]messages.Seq{},
	}
}

// run calls the application until ctx ends, and the last state after that.
func (d *dispatcher) run(ctx context.Context) {
	due := time.NewTimer(ackWithin)
	defer due.Stop()
	for ctx.Err() == nil {
		if ev := d.queue.pop(); ev != nil {
			d.handle(ev)
			if d.waiting >= d.client.ackEvery() || d.waiting > 0 && time.Since(d.oldest) >= ackWithin {
				d.flush()
			}
			continue
		}
		if d.waiting > 0 {
			due.Reset(time.Until(d.oldest.Add(ackWithin)))
		}
		select {
		case <-d.queue.wake:
		case <-due.C:
			d.flush()
		case <-ctx.Done():
		}
	}
	d.flush()
}

func (d *dispatcher) handle(ev *event) {
	switch {
	case ev.entry != nil:
		d.entry(ev.entry)
	case ev.repeat != nil:
		c := messages.ConversationID(ev.repeat.Conversation)
		d.note()
		d.acks[c] = d.handled[c]
	case ev.frame != nil:
		d.frame(ev.frame)
	case ev.state != nil:
		call(d.client.options.Handler.State, *ev.state)
	}
}

func (d *dispatcher) entry(a *arrival) {
	call(d.client.options.Handler.Entry, a.entry)
	c, seq := messages.ConversationID(a.entry.Conversation), messages.Seq(a.entry.Seq)
	d.note()
	d.handled[c], d.moved[c] = seq, seq
	if !a.own {
		d.acks[c] = seq
	}
}

// note counts an entry that waits for the next flush.
func (d *dispatcher) note() {
	if d.waiting == 0 {
		d.oldest = time.Now()
	}
	d.waiting++
}

func (d *dispatcher) frame(f *messages.ServerFrame) {
	h := d.client.options.Handler
	switch e := f.Event.(type) {
	case *messages.ServerFrame_Receipt:
		call(h.Receipt, e.Receipt)
	case *messages.ServerFrame_Typing:
		call(h.Typing, e.Typing)
	case *messages.ServerFrame_Presence:
		call(h.Presence, e.Presence)
	case *messages.ServerFrame_CaughtUp:
		if h.CaughtUp != nil {
			h.CaughtUp()
		}
	}
}

func call[T any](f func(T), v T) {
	if f != nil {
		f(v)
	}
}

// flush saves what was handled, then acknowledges it. What cannot be saved is
// tried again with the next flush: the server keeps it until then.
func (d *dispatcher) flush() {
	if d.waiting == 0 {
		return
	}
	d.waiting = 0
	if err := d.save(); err != nil {
		d.client.options.Logger.Error("saving positions", "error", err)
		d.waiting, d.oldest = 1, time.Now()
		return
	}
	d.client.acknowledge(d.moved, d.acks)
	clear(d.moved)
	clear(d.acks)
}

func (d *dispatcher) save() error {
	if len(d.moved) == 0 {
		return nil
	}
	return d.client.options.Store.Move(d.moved)
}

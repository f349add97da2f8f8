package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

const (
	// maxFlying bounds the sends without an answer; the server stops reading
	// from who has 32 commands open.
	maxFlying = 16
	retryWait = time.Second // where the server says no time
)

// Outgoing is an entry on its way. Its methods may be called concurrently.
type Outgoing struct {
	number uint64
	send   *messages.Send
	done   chan struct{}
	flying bool   // guarded by outbox.mu: sent on this connection, not answered
	target string // guarded by outbox.mu: the conversation, once the user is known

	// Immutable once done is closed.
	sent *messages.Sent
	err  error
}

// ClientID is the id under which the server takes the entry once.
func (o *Outgoing) ClientID() messages.ClientID { return messages.ClientID(o.send.ClientId) }

// Send returns what was queued. It must not be changed.
func (o *Outgoing) Send() *messages.Send { return o.send }

// Done is closed when the server has taken the entry, or refused it for good.
func (o *Outgoing) Done() <-chan struct{} { return o.done }

// Result returns the outcome once Done is closed: the server's answer, or a
// *messages.Failure that says why it will not have the entry.
func (o *Outgoing) Result() (*messages.Sent, error) { return o.sent, o.err }

// Wait returns the outcome, or ctx's error where that comes first: then the
// entry is still queued.
func (o *Outgoing) Wait(ctx context.Context) (*messages.Sent, error) {
	select {
	case <-o.done:
		return o.sent, o.err
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for an entry to be sent: %w", ctx.Err())
	}
}

// outbox is the queue of unsent entries. One of each conversation is under way
// at a time, so a refused one is not overtaken by those behind it.
type outbox struct {
	store  Store
	logger *slog.Logger
	max    int
	// placed gets the entry that a sent stands for, on the reader's goroutine.
	placed func(*messages.Entry)

	mu     sync.Mutex
	queue  []*Outgoing          // guarded by mu: in the order of Send
	number uint64               // guarded by mu: of the last one
	until  map[string]time.Time // guarded by mu: when a conversation may be tried again
	paused time.Time            // guarded by mu: when any may
	link   *link                // guarded by mu: nil while offline
	me     messages.UserID      // guarded by mu
	retry  *time.Timer          // guarded by mu: pumps when a wait is over
}

// newOutbox returns an outbox that holds sends from an earlier process.
func newOutbox(o Options, sends map[uint64]*messages.Send) *outbox {
	b := &outbox{store: o.Store, logger: o.Logger, max: o.MaxQueued, until: map[string]time.Time{}}
	for _, n := range slices.Sorted(maps.Keys(sends)) {
		b.queue = append(b.queue, &Outgoing{number: n, send: sends[n], done: make(chan struct{})})
		b.number = n
	}
	return b
}

func (b *outbox) add(send *messages.Send) (*Outgoing, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) >= b.max {
		return nil, messages.Fail(messages.CodeOverloaded, "%d entries wait to be sent already", len(b.queue))
	}
	o := &Outgoing{number: b.number + 1, send: proto.CloneOf(send), done: make(chan struct{})}
	if err := b.store.Put(o.number, o.send); err != nil {
		return nil, fmt.Errorf("keeping an entry to be sent: %w", err)
	}
	b.number++
	b.queue = append(b.queue, o)
	b.pumpLocked()
	return o, nil
}

// waiting returns what is queued, oldest first.
func (b *outbox) waiting() []*Outgoing {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.queue)
}

// online sends what waits over l, as the user me.
func (b *outbox) online(l *link, me messages.UserID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.link, b.me = l, me
	b.pumpLocked()
}

// offline keeps everything for the next connection.
func (b *outbox) offline() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.link = nil
	if b.retry != nil {
		b.retry.Stop()
	}
}

func (b *outbox) pump() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pumpLocked()
}

// pumpLocked sends the first entry of each conversation that has none under
// way and need not wait.
func (b *outbox) pumpLocked() {
	if b.link == nil {
		return
	}
	now, flying, wake := time.Now(), 0, time.Time{}
	taken := map[string]bool{}
	for _, o := range slices.Clone(b.queue) {
		target := b.targetOf(o)
		if flying == maxFlying {
			break
		}
		if taken[target] {
			continue
		}
		taken[target] = true
		if o.flying {
			flying++
			continue
		}
		if at := b.readyAt(target); at.After(now) {
			wake = earlier(wake, at)
			continue
		}
		if b.launch(o) {
			flying++
		} else if isDone(o) {
			delete(taken, target) // the one behind it may go
		}
	}
	b.wakeAt(wake, now)
}

func isDone(o *Outgoing) bool {
	select {
	case <-o.done:
		return true
	default:
		return false
	}
}

func (b *outbox) targetOf(o *Outgoing) string {
	if o.target == "" {
		o.target = o.send.Conversation
		if o.target == "" {
			o.target = string(messages.Direct(b.me, messages.UserID(o.send.User)))
		}
	}
	return o.target
}

func (b *outbox) readyAt(target string) time.Time {
	if at := b.until[target]; at.After(b.paused) {
		return at
	}
	return b.paused
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

func (b *outbox) wakeAt(at, now time.Time) {
	if at.IsZero() {
		return
	}
	if b.retry != nil {
		b.retry.Stop()
	}
	b.retry = time.AfterFunc(at.Sub(now), b.pump)
}

// launch sends o and reports whether it is under way.
func (b *outbox) launch(o *Outgoing) bool {
	l := b.link
	frame := &messages.ClientFrame{Command: &messages.ClientFrame_Send{Send: o.send}}
	err := l.ask(frame, func(f *messages.ServerFrame) { b.answered(o, f) })
	if failure, ok := errors.AsType[*messages.Failure](err); ok {
		b.finish(o, nil, failure)
	}
	o.flying = err == nil
	return o.flying
}

// answered takes the server's answer to o; nil: there was none.
func (b *outbox) answered(o *Outgoing, f *messages.ServerFrame) {
	if sent := f.GetSent(); sent != nil {
		b.placed(entryOf(o.send, sent))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	o.flying = false
	switch {
	case f == nil:
		return
	case f.GetSent() != nil:
		b.finish(o, f.GetSent(), nil)
	case temporary(f.GetError().GetCode()):
		b.postpone(o, f.GetError())
	default:
		b.finish(o, nil, failureOf(f))
	}
	b.pumpLocked()
}

// postpone keeps o for a later attempt. A rate is one for all conversations.
func (b *outbox) postpone(o *Outgoing, e *messages.Error) {
	wait := time.Duration(e.RetryAfterMs) * time.Millisecond
	if wait <= 0 {
		wait = retryWait + rand.N(retryWait)
	}
	at := time.Now().Add(wait)
	if e.Code == messages.CodeRateLimited {
		b.paused = at
		return
	}
	b.until[b.targetOf(o)] = at
}

// finish ends o with its outcome.
func (b *outbox) finish(o *Outgoing, sent *messages.Sent, err error) {
	if dropped := b.store.Drop(o.number); dropped != nil {
		// It is sent again after a restart, and the server knows its id.
		b.logger.Error("forgetting a sent entry", "client_id", o.send.ClientId, "error", dropped)
	}
	b.queue = slices.DeleteFunc(b.queue, func(q *Outgoing) bool { return q == o })
	delete(b.until, o.target)
	o.sent, o.err = sent, err
	close(o.done)
}

// temporary reports whether the same command may be taken later.
func temporary(code string) bool {
	switch code {
	case messages.CodeRateLimited, messages.CodeOverloaded, messages.CodeUnavailable:
		return true
	}
	return false
}

// entryOf returns the entry that the server made of a send.
func entryOf(s *messages.Send, sent *messages.Sent) *messages.Entry {
	e := &messages.Entry{
		Conversation: sent.Conversation,
		Seq:          sent.Seq,
		ClientId:     s.ClientId,
		At:           sent.At,
		ReplyTo:      s.ReplyTo,
	}
	switch c := s.Content.(type) {
	case *messages.Send_Text:
		e.Kind = &messages.Entry_Text{Text: c.Text}
	case *messages.Send_Media:
		e.Kind = &messages.Entry_Media{Media: c.Media}
	case *messages.Send_Edit:
		e.Kind = &messages.Entry_Edit{Edit: c.Edit}
	case *messages.Send_Retract:
		e.Kind = &messages.Entry_Retract{Retract: c.Retract}
	case *messages.Send_Reaction:
		e.Kind = &messages.Entry_Reaction{Reaction: c.Reaction}
	}
	return proto.CloneOf(e)
}

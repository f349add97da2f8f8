package pebble

import (
	"context"
	"fmt"
	"math"
	"sync"

	"github.com/troupe-chat/troupe/messages"
)

// flight knows which conversations have a write that readers of Pebble may
// see and that is not durable yet. It holds those only: its memory is bounded
// by the writes under way.
type flight struct {
	mu      sync.Mutex
	logs    map[messages.ConversationID]flying // guarded by mu
	members map[messages.ConversationID]*group // guarded by mu; the last with cursors of c
}

// flying is a log with an append under way.
type flying struct {
	durable messages.Seq // the head up to which everything is durable
	last    *group       // the newest with an append to it
}

func newFlight() *flight {
	return &flight{
		logs:    make(map[messages.ConversationID]flying),
		members: make(map[messages.ConversationID]*group),
	}
}

// begin notes what g will show to readers. It comes before g is applied.
func (f *flight) begin(g *group) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range g.appended {
		log, ok := f.logs[a.Conversation]
		if !ok {
			log.durable = a.ExpectHead
		}
		log.last = g
		f.logs[a.Conversation] = log
	}
	for _, c := range g.cursors {
		f.members[c] = g
	}
}

// end notes that g is durable. Groups end in the order in which they began.
func (f *flight) end(g *group) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range g.appended {
		log, ok := f.logs[a.Conversation]
		switch {
		case ok && log.last == g:
			delete(f.logs, a.Conversation)
		case ok:
			log.durable = a.Rows[len(a.Rows)-1].Seq
			f.logs[a.Conversation] = log
		}
	}
	for _, c := range g.cursors {
		if f.members[c] == g {
			delete(f.members, c)
		}
	}
}

// cap returns the durable head of c while an append to it is under way, else
// the highest seq there can be.
func (f *flight) cap(c messages.ConversationID) messages.Seq {
	f.mu.Lock()
	defer f.mu.Unlock()
	if log, ok := f.logs[c]; ok {
		return log.durable
	}
	return math.MaxUint64
}

// waitLog waits until what readers can see of c's log now is durable.
func (f *flight) waitLog(ctx context.Context, c messages.ConversationID) error {
	f.mu.Lock()
	g := f.logs[c].last
	f.mu.Unlock()
	return g.wait(ctx)
}

// waitMembers waits until the cursors of c's members that readers can see now
// are durable.
func (f *flight) waitMembers(ctx context.Context, c messages.ConversationID) error {
	f.mu.Lock()
	g := f.members[c]
	f.mu.Unlock()
	return g.wait(ctx)
}

// wait waits until g is durable. A nil group is.
func (g *group) wait(ctx context.Context) error {
	if g == nil {
		return nil
	}
	select {
	case <-g.durable:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for a write under way: %w", ctx.Err())
	}
}

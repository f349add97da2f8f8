package client

import (
	"sync"

	"github.com/troupe-chat/troupe/messages"
)

// maxEvents bounds what waits for the application: beyond it the connection is
// given up and the server keeps the rest.
const maxEvents = 8192

// event is one call of the application, or one acknowledgement, that waits.
// Exactly one of the pointers is set.
type event struct {
	entry  *arrival
	repeat *messages.Entry       // came before; the server wants its acknowledgement again
	frame  *messages.ServerFrame // receipt, typing, presence or caught_up
	state  *State
	slot   string // what a frame is about, where the newest is enough
}

// events is the queue between the reader and the application. A frame with a
// slot replaces the one that still waits there, so a slow application costs no
// more memory than there are things to know about.
type events struct {
	mu    sync.Mutex
	items []*event          // guarded by mu
	slots map[string]*event // guarded by mu: items that have a slot
	wake  chan struct{}     // holds a token while items may be waiting
}

func newEvents() *events {
	return &events{slots: map[string]*event{}, wake: make(chan struct{}, 1)}
}

// push adds ev and reports whether there is room for more.
func (q *events) push(ev *event) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if waiting := q.slots[ev.slot]; waiting != nil {
		waiting.frame = ev.frame
		return true
	}
	if ev.slot != "" {
		q.slots[ev.slot] = ev
	}
	q.items = append(q.items, ev)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return len(q.items) < maxEvents
}

// pop returns the oldest event, or nil.
func (q *events) pop() *event {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		q.items = nil
		return nil
	}
	ev := q.items[0]
	q.items[0] = nil
	q.items = q.items[1:]
	delete(q.slots, ev.slot)
	return ev
}

// slotOf names what a frame is about.
func slotOf(f *messages.ServerFrame) string {
	switch e := f.Event.(type) {
	case *messages.ServerFrame_Receipt:
		return "receipt " + e.Receipt.GetConversation() + " " + e.Receipt.GetUser()
	case *messages.ServerFrame_Typing:
		return "typing " + e.Typing.GetConversation() + " " + e.Typing.GetUser()
	case *messages.ServerFrame_Presence:
		return "presence " + e.Presence.GetUser()
	}
	return ""
}

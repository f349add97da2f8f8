package client

import (
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

// Store keeps a device's positions and its unsent entries. Its methods may be
// called concurrently.
type Store interface {
	// Load returns what is kept. New calls it once.
	Load() (Saved, error)
	// Move keeps positions, each further than the last of its conversation.
	Move(positions map[messages.ConversationID]messages.Seq) error
	// Put keeps a send under a number of its own, higher than those before.
	Put(number uint64, send *messages.Send) error
	// Drop forgets the send with that number.
	Drop(number uint64) error
}

// Saved is what a Store keeps. It belongs to whoever loaded it.
type Saved struct {
	Positions map[messages.ConversationID]messages.Seq
	Sends     map[uint64]*messages.Send
}

func (s Saved) clone() Saved {
	c := newSaved()
	for k, v := range s.Positions {
		c.Positions[k] = v
	}
	for k, v := range s.Sends {
		c.Sends[k] = proto.CloneOf(v)
	}
	return c
}

func newSaved() Saved {
	return Saved{
		Positions: map[messages.ConversationID]messages.Seq{},
		Sends:     map[uint64]*messages.Send{},
	}
}

// Memory is a Store that ends with the process. A second Client that is given
// the same Memory goes on where the first ended.
type Memory struct {
	mu    sync.Mutex
	saved Saved // guarded by mu
}

// NewMemory returns an empty Memory.
func NewMemory() *Memory { return &Memory{saved: newSaved()} }

// Load is part of Store.
func (m *Memory) Load() (Saved, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.saved.clone(), nil
}

// Move is part of Store.
func (m *Memory) Move(positions map[messages.ConversationID]messages.Seq) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c, seq := range positions {
		m.saved.Positions[c] = seq
	}
	return nil
}

// Put is part of Store.
func (m *Memory) Put(number uint64, send *messages.Send) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.saved.Sends[number] = proto.CloneOf(send)
	return nil
}

// Drop is part of Store.
func (m *Memory) Drop(number uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.saved.Sends, number)
	return nil
}

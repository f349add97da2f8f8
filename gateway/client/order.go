package client

import (
	"errors"
	"slices"

	"github.com/troupe-chat/troupe/messages"
)

var (
	errRepeat = errors.New("the entry has come before")
	errGap    = errors.New("an entry does not follow the one before it")
)

// arrival is an entry whose turn has come. own: it was made from a sent, which
// the server neither counts in its window nor wants acknowledged.
type arrival struct {
	entry *messages.Entry
	own   bool
}

// order puts what the server sends into the order in which the application
// gets it. It belongs to the goroutine that reads the connection.
type order struct {
	last     map[string]uint64                     // the last seq handed on, by conversation
	held     map[string]map[uint64]*messages.Entry // own entries whose turn has not come
	caughtUp bool                                  // on this connection
}

func newOrder(positions map[messages.ConversationID]messages.Seq) *order {
	o := &order{last: map[string]uint64{}, held: map[string]map[uint64]*messages.Entry{}}
	for c, seq := range positions {
		o.last[string(c)] = uint64(seq)
	}
	return o
}

// reconnected forgets what was true of the last connection only. Own entries
// that were held are delivered by the server now.
func (o *order) reconnected() {
	clear(o.held)
	o.caughtUp = false
}

// delivered takes an entry from a deliver frame; start says that the frame
// announced it as the first of a membership. The first entry of a conversation
// without a position is where it begins: the server knows this device's place.
func (o *order) delivered(e *messages.Entry, start bool) ([]arrival, error) {
	last, known := o.last[e.Conversation]
	if known && e.Seq <= last {
		return nil, errRepeat
	}
	if known && e.Seq != last+1 && !start {
		return nil, errGap
	}
	return o.place(arrival{entry: e}), nil
}

// sent takes the own entry that a sent frame stands for.
func (o *order) sent(e *messages.Entry) []arrival {
	last, known := o.last[e.Conversation]
	if known && e.Seq <= last {
		return nil
	}
	if e.Seq == last+1 || !known && o.caughtUp {
		return o.place(arrival{entry: e, own: true})
	}
	if o.held[e.Conversation] == nil {
		o.held[e.Conversation] = map[uint64]*messages.Entry{}
	}
	o.held[e.Conversation][e.Seq] = e
	return nil
}

// catchUp ends the wait for earlier entries of conversations without a
// position: there are none.
func (o *order) catchUp() []arrival {
	o.caughtUp = true
	var out []arrival
	for c, held := range o.held {
		if _, known := o.last[c]; !known {
			out = append(out, o.place(arrival{entry: held[lowest(held)], own: true})...)
		}
	}
	return out
}

// place makes a the last of its conversation, followed by the held entries
// that are next.
func (o *order) place(a arrival) []arrival {
	c, out := a.entry.Conversation, []arrival{a}
	o.last[c] = a.entry.Seq
	held := o.held[c]
	for next := held[o.last[c]+1]; next != nil; next = held[o.last[c]+1] {
		out = append(out, arrival{entry: next, own: true})
		o.last[c] = next.Seq
	}
	o.release(c)
	return out
}

// release drops the held entries that are not to come any more.
func (o *order) release(c string) {
	held := o.held[c]
	for seq := range held {
		if seq <= o.last[c] {
			delete(held, seq)
		}
	}
	if len(held) == 0 {
		delete(o.held, c)
	}
}

func lowest(held map[uint64]*messages.Entry) uint64 {
	seqs := make([]uint64, 0, len(held))
	for seq := range held {
		seqs = append(seqs, seq)
	}
	return slices.Min(seqs)
}

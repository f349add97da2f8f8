package rules

import "github.com/troupe-chat/troupe/messages"

// Window is what is in flight to one device: entries that were sent on its
// connection and not acknowledged. It holds at most so many entries and bytes,
// and while several conversations have entries for the device none takes more
// than three quarters of either, so that one busy conversation cannot keep the
// others waiting. While nothing is in flight it is small, however much was. Not
// for concurrent use.
//
// The caller sends each conversation's entries in ascending order, and asks
// CanSend before each.
type Window struct {
	maxEntries, maxBytes int
	entries, bytes       int
	flights              map[messages.ConversationID]*flight
	wide                 bool    // flights has held more than keptFlights
	spare                *flight // the last one that was emptied, for reuse
}

// flight is what is in flight of one conversation, oldest first.
type flight struct {
	items []item
	first int // items before it are acknowledged
	bytes int
}

// item is one entry in flight.
type item struct {
	seq  messages.Seq
	size int
}

// NewWindow returns an empty window of at least one entry.
func NewWindow(entries, bytes int) Window {
	return Window{maxEntries: max(1, entries), maxBytes: bytes}
}

// CanSend reports whether the next entry of c, of size bytes, may be sent now.
// others tells that other conversations have entries for this device too. An
// entry larger than the window goes alone.
func (w *Window) CanSend(c messages.ConversationID, size int, others bool) bool {
	if w.entries == 0 {
		return true
	}
	if w.entries >= w.maxEntries || w.bytes+size > w.maxBytes {
		return false
	}
	f := w.flights[c]
	if f == nil || !others {
		return true
	}
	return f.len() < share(w.maxEntries) && f.bytes+size <= share(w.maxBytes)
}

// share returns how much of a limit one conversation may take beside others.
func share(limit int) int { return max(1, limit*3/4) }

// Sent notes that the entry seq of c was sent.
func (w *Window) Sent(c messages.ConversationID, seq messages.Seq, size int) {
	f := w.flights[c]
	if f == nil {
		f = w.open(c)
	}
	f.items = append(f.items, item{seq: seq, size: size})
	f.bytes += size
	w.entries++
	w.bytes += size
}

// Ack notes that the device has everything of c up to seq, and reports whether
// that frees room.
func (w *Window) Ack(c messages.ConversationID, seq messages.Seq) bool {
	f := w.flights[c]
	if f == nil || seq < f.items[f.first].seq {
		return false
	}
	for f.len() > 0 && f.items[f.first].seq <= seq {
		gone := f.items[f.first]
		f.first++
		f.bytes -= gone.size
		w.entries--
		w.bytes -= gone.size
	}
	if f.len() == 0 {
		w.close(c, f)
	} else {
		f.compact()
	}
	return true
}

// Drop forgets what is in flight of c and frees its room: the device is to get
// nothing more of it.
func (w *Window) Drop(c messages.ConversationID) {
	if f := w.flights[c]; f != nil {
		w.entries -= f.len()
		w.bytes -= f.bytes
		w.close(c, f)
	}
}

// InFlight returns how many entries and bytes are in flight.
func (w *Window) InFlight() (entries, bytes int) { return w.entries, w.bytes }

// Full reports whether no entry of any conversation can be sent.
func (w *Window) Full() bool {
	return w.entries >= w.maxEntries || w.entries > 0 && w.bytes >= w.maxBytes
}

func (w *Window) open(c messages.ConversationID) *flight {
	f := w.spare
	w.spare = nil
	if f == nil {
		f = &flight{}
	}
	if w.flights == nil {
		w.flights = make(map[messages.ConversationID]*flight)
	}
	w.flights[c] = f
	w.wide = w.wide || len(w.flights) > keptFlights
	return f
}

// What may have grown to which size and is kept for reuse. Maps never shrink.
const (
	keptFlights = 8
	keptItems   = 8
)

// close removes c's flight.
func (w *Window) close(c messages.ConversationID, f *flight) {
	delete(w.flights, c)
	if cap(f.items) <= keptItems {
		*f = flight{items: f.items[:0]}
		w.spare = f
	}
	if w.wide && len(w.flights) == 0 {
		w.flights, w.wide = nil, false
	}
}

func (f *flight) len() int { return len(f.items) - f.first }

// compact moves the items to the front once most of the room before them is
// acknowledged: each is moved less than once on average.
func (f *flight) compact() {
	if f.first*2 < len(f.items) {
		return
	}
	n := copy(f.items, f.items[f.first:])
	f.items, f.first = f.items[:n], 0
}

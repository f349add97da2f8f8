package rules

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/troupe-chat/troupe/messages"
)

func TestWindowScripts(t *testing.T) {
	for _, path := range scripts(t, "window") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			var w Window
			runScript(t, path, func(line string) string { return runWindow(t, &w, line) })
		})
	}
}

// runWindow runs one line: window entries= bytes=, sent C SEQ SIZE, ack C SEQ, can C SIZE [others], drop C, state.
func runWindow(t *testing.T, w *Window, line string) string {
	var name, c, others string
	var n, size int
	_, _ = fmt.Sscan(line, &name, &c, &n, &size)
	id := messages.ConversationID(c)
	switch name {
	case "window":
		var entries, bytes int
		if _, err := fmt.Sscanf(line, "window entries=%d bytes=%d", &entries, &bytes); err != nil {
			t.Fatal(err)
		}
		*w = NewWindow(entries, bytes)
	case "sent":
		w.Sent(id, messages.Seq(n), size)
	case "ack":
		return fmt.Sprintf("%s: freed %t", line, w.Ack(id, messages.Seq(n)))
	case "can":
		_, _ = fmt.Sscan(line, &name, &c, &n, &others)
		return fmt.Sprintf("%s: %t", line, w.CanSend(id, n, others == "others"))
	case "drop":
		w.Drop(id)
	case "state":
		entries, bytes := w.InFlight()
		return fmt.Sprintf("%d entries, %d bytes, full %t", entries, bytes, w.Full())
	default:
		t.Fatalf("no such command: %s", line)
	}
	return ""
}

// slowWindow is a window as it is told: a list of everything sent, in order.
type slowWindow struct {
	sent   map[messages.ConversationID]messages.Seq
	flying map[messages.ConversationID][]item
}

func (s *slowWindow) ack(c messages.ConversationID, seq messages.Seq) (freed bool) {
	for len(s.flying[c]) > 0 && s.flying[c][0].seq <= seq {
		s.flying[c] = s.flying[c][1:]
		freed = true
	}
	return freed
}

func (s *slowWindow) total(cs ...messages.ConversationID) (entries, bytes int) {
	for _, c := range cs {
		for _, i := range s.flying[c] {
			entries++
			bytes += i.size
		}
	}
	return entries, bytes
}

// The window never holds more than it may, a conversation never more than its
// share while others wait, and everything agrees with the slow window.
func TestWindowProperties(t *testing.T) {
	all := []messages.ConversationID{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}
	rapid.Check(t, func(t *rapid.T) {
		maxEntries, maxBytes := rapid.IntRange(1, 40).Draw(t, "entries"), rapid.IntRange(1, 400).Draw(t, "bytes")
		w := NewWindow(maxEntries, maxBytes)
		slow := &slowWindow{
			sent:   map[messages.ConversationID]messages.Seq{},
			flying: map[messages.ConversationID][]item{},
		}
		conversation := rapid.SampledFrom(all)
		t.Repeat(map[string]func(*rapid.T){
			"send": func(t *rapid.T) {
				c, size, others := conversation.Draw(t, "c"), rapid.IntRange(0, 120).Draw(t, "size"), rapid.Bool().Draw(t, "others")
				entries, bytes := slow.total(all...)
				mine, mineBytes := slow.total(c)
				fits := entries < maxEntries && bytes+size <= maxBytes
				if others && mine > 0 {
					fits = fits && mine < max(1, maxEntries*3/4) && mineBytes+size <= max(1, maxBytes*3/4)
				}
				if can := w.CanSend(c, size, others); can != (fits || entries == 0) {
					t.Fatalf("can send %d of %s: %t, with %d entries and %d bytes in flight", size, c, can, entries, bytes)
				} else if !can {
					return
				}
				slow.sent[c] += messages.Seq(rapid.IntRange(1, 3).Draw(t, "step"))
				w.Sent(c, slow.sent[c], size)
				slow.flying[c] = append(slow.flying[c], item{seq: slow.sent[c], size: size})
			},
			"ack": func(t *rapid.T) {
				c := conversation.Draw(t, "c")
				upTo := messages.Seq(rapid.IntRange(0, int(slow.sent[c])+5).Draw(t, "upTo"))
				if want, freed := slow.ack(c, upTo), w.Ack(c, upTo); freed != want {
					t.Fatalf("%s: acknowledging %d freed %t", c, upTo, freed)
				}
			},
			"drop": func(t *rapid.T) {
				c := conversation.Draw(t, "c")
				w.Drop(c)
				delete(slow.flying, c)
			},
			"": func(t *rapid.T) {
				entries, bytes := slow.total(all...)
				gotEntries, gotBytes := w.InFlight()
				if entries != gotEntries || bytes != gotBytes {
					t.Fatalf("%d entries and %d bytes in flight, expected %d and %d", gotEntries, gotBytes, entries, bytes)
				}
				if entries > maxEntries || bytes > maxBytes && entries > 1 {
					t.Fatalf("%d entries and %d bytes in flight, beyond %d and %d", entries, bytes, maxEntries, maxBytes)
				}
				if full := entries >= maxEntries || entries > 0 && bytes >= maxBytes; full != w.Full() {
					t.Fatalf("full: %t with %d entries and %d bytes", w.Full(), entries, bytes)
				}
				w.check(t)
			},
		})
	})
}

// check recomputes what the window counts, and that it keeps nothing that it
// needs not.
func (w *Window) check(t *rapid.T) {
	entries, bytes := 0, 0
	for c, f := range w.flights {
		if f.len() == 0 || f.first*2 >= len(f.items) && f.first > 0 {
			t.Fatalf("flight %s: %d of %d items acknowledged", c, f.first, len(f.items))
		}
		if !slices.IsSortedFunc(f.items, func(a, b item) int { return int(a.seq) - int(b.seq) }) {
			t.Fatalf("flight %s is out of order", c)
		}
		size := 0
		for _, i := range f.items[f.first:] {
			size += i.size
		}
		if size != f.bytes {
			t.Fatalf("flight %s counts %d bytes of %d", c, f.bytes, size)
		}
		entries += f.len()
		bytes += f.bytes
	}
	if entries != w.entries || bytes != w.bytes {
		t.Fatalf("the window counts %d entries and %d bytes, of %d and %d", w.entries, w.bytes, entries, bytes)
	}
	if len(w.flights) == 0 && w.wide || w.spare != nil && cap(w.spare.items) > keptItems {
		t.Fatal("an idle window keeps more than it needs")
	}
}

// A device to which nothing is in flight costs nothing, and one to which
// little is in flight at a time makes no garbage.
func TestIdleWindowIsSmall(t *testing.T) {
	w := NewWindow(256, 1<<20)
	if w.CanSend("a", 10, true); w.flights != nil || w.spare != nil {
		t.Error("an unused window holds memory")
	}
	seq := messages.Seq(0)
	if n := testing.AllocsPerRun(100, func() {
		seq += 2
		w.Sent("a", seq-1, 100)
		w.Sent("a", seq, 100)
		w.Ack("a", seq)
	}); n > 0 {
		t.Errorf("sending and acknowledging made %v allocations", n)
	}
	for range 100 {
		seq++
		w.Sent("a", seq, 100)
	}
	if w.Ack("a", seq); w.spare != nil {
		t.Error("a window that has held much of one conversation keeps its room")
	}
	for i := range 256 {
		w.Sent(messages.ConversationID(fmt.Sprint(i)), 1, 10)
	}
	for i := range 256 {
		w.Ack(messages.ConversationID(fmt.Sprint(i)), 1)
	}
	if w.flights != nil {
		t.Error("a window that has held much keeps its map")
	}
}

func BenchmarkWindow(b *testing.B) {
	w := NewWindow(256, 1<<20)
	seq := messages.Seq(0)
	for b.Loop() {
		seq++
		if w.CanSend("d:ana~bo", 128, false) {
			w.Sent("d:ana~bo", seq, 128)
		}
		if seq%64 == 0 {
			w.Ack("d:ana~bo", seq)
		}
	}
}

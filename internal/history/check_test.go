package history

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/troupe-chat/troupe/messages"
)

const (
	talkID  = messages.ConversationID("d:ana~bo")
	groupID = messages.ConversationID("g:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
)

// entry is the n-th text of a conversation, by ana.
func entry(c messages.ConversationID, n messages.Seq) Entry {
	return Entry{Conversation: c, Seq: n, Author: "ana", ClientID: clientID(n), At: int64(n), Hash: uint64(n)}
}

func clientID(n messages.Seq) messages.ClientID { return messages.ClientID(fmt.Sprint("c", n)) }

func texts(c messages.ConversationID, from, to messages.Seq) []Entry {
	var es []Entry
	for n := from; n <= to; n++ {
		es = append(es, entry(c, n))
	}
	return es
}

func event(n messages.Seq, kind string, users ...string) Entry {
	e := Entry{Conversation: groupID, Seq: n, Author: "ana", At: int64(n)}
	e.Event = &messages.Event{Kind: kind, By: "ana", Users: users}
	return e
}

// world is a history of ana, who sends, and bo, who gets.
type world struct {
	*History
	ana, bo *Tape
	log     []Entry
}

func newWorld() *world {
	h := New()
	w := &world{History: h, ana: h.Tape("ana", "a1"), bo: h.Tape("bo", "b1")}
	w.ana.Connect(false)
	w.bo.Connect(false)
	return w
}

// sends has ana send entries from … to, all answered and logged.
func (w *world) sends(from, to messages.Seq) {
	for n := from; n <= to; n++ {
		e := entry(talkID, n)
		w.ana.Sending(talkID, e.ClientID, e.Hash)
		w.ana.Sent(talkID, e.ClientID, n, false)
		w.log = append(w.log, e)
	}
}

func (w *world) delivers(seqs ...messages.Seq) {
	for _, n := range seqs {
		w.bo.Deliver(entry(talkID, n))
	}
}

func (w *world) check(o Options) []Violation {
	w.Log(talkID, w.log)
	return w.Check(o)
}

// groupLog: 1 ana makes a group with cy; 2, 3 texts; 4 bo is added; 5, 6
// texts; 7 bo is removed; 8 text; 9 bo is added again; 10 text.
func groupLog(history string) []Entry {
	created := event(1, "created", "ana", "cy")
	created.Event.History = history
	return slices.Concat(
		[]Entry{created}, texts(groupID, 2, 3),
		[]Entry{event(4, "added", "bo")}, texts(groupID, 5, 6),
		[]Entry{event(7, "removed", "bo")}, texts(groupID, 8, 8),
		[]Entry{event(9, "added", "bo")}, texts(groupID, 10, 10),
	)
}

func (w *world) group(history string) {
	w.log = groupLog(history)
	w.Log(groupID, w.log)
	for _, e := range w.log {
		if e.Event == nil {
			w.ana.Sending(groupID, e.ClientID, e.Hash)
		}
	}
	for _, e := range w.log {
		if e.Event == nil {
			w.ana.Sent(groupID, e.ClientID, e.Seq, false)
		} else {
			w.ana.Deliver(e)
		}
	}
}

func (w *world) boGets(seqs ...messages.Seq) {
	for _, n := range seqs {
		w.bo.Deliver(w.log[n-1])
	}
}

func TestCleanHistoriesPass(t *testing.T) {
	cases := map[string]func(w *world) Options{
		"all delivered live": func(w *world) Options {
			w.sends(1, 5)
			w.delivers(1, 2, 3, 4, 5)
			return Options{}
		},
		"a reconnect repeats what was not acknowledged": func(w *world) Options {
			w.sends(1, 5)
			w.delivers(1, 2, 3)
			w.bo.Ack(talkID, 2)
			w.bo.Connect(false)
			w.delivers(3, 4, 5)
			return Options{AcksStored: true}
		},
		"an acknowledgement lost with its connection": func(w *world) Options {
			w.sends(1, 3)
			w.delivers(1, 2)
			w.bo.Ack(talkID, 2)
			w.bo.Connect(false)
			w.delivers(1, 2, 3)
			return Options{}
		},
		"hello says where to go on": func(w *world) Options {
			w.sends(1, 4)
			w.delivers(1, 2, 3)
			w.bo.Connect(false)
			w.bo.Resume(talkID, 3)
			w.delivers(4)
			return Options{}
		},
		"a retry answered after a reconnect, before the delivery of the entry": func(w *world) Options {
			w.sends(1, 1)
			w.ana.Sending(talkID, "c2", 2)
			w.ana.Connect(false)
			w.ana.Sending(talkID, "c2", 2)
			w.ana.Sent(talkID, "c2", 2, true)
			w.ana.Deliver(entry(talkID, 2))
			w.log = append(w.log, entry(talkID, 2))
			w.delivers(1, 2)
			return Options{}
		},
		"what a retry was answered need not come on a later connection": func(w *world) Options {
			w.sends(1, 1)
			w.ana.Sending(talkID, "c2", 2)
			w.ana.Connect(false)
			w.ana.Sending(talkID, "c2", 2)
			w.ana.Sent(talkID, "c2", 2, true)
			w.ana.Connect(false)
			w.ana.Sending(talkID, "c3", 3)
			w.ana.Sent(talkID, "c3", 3, false)
			w.log = append(w.log, entry(talkID, 2), entry(talkID, 3))
			w.delivers(1, 2, 3)
			return Options{}
		},
		"a new device that starts at the head": func(w *world) Options {
			w.sends(1, 5)
			w.delivers(1, 2, 3, 4, 5)
			late := w.Tape("bo", "b2")
			late.Connect(true)
			late.Deliver(entry(talkID, 5))
			return Options{}
		},
		"a device that left": func(w *world) Options {
			w.sends(1, 2)
			w.delivers(1)
			w.bo.Gone()
			return Options{}
		},
		"a refused send that a retry made good": func(w *world) Options {
			w.ana.Sending(talkID, "c1", 1)
			w.ana.Refused(talkID, "c1", messages.CodeRateLimited)
			w.sends(1, 1)
			w.delivers(1)
			return Options{}
		},
		"a sender whose answer never came": func(w *world) Options {
			w.ana.Sending(talkID, "c1", 1)
			w.log = texts(talkID, 1, 1)
			w.delivers(1)
			return Options{}
		},
		"receipts forward": func(w *world) Options {
			w.sends(1, 2)
			w.delivers(1, 2)
			w.ana.Receipt(talkID, "bo", 1, 0)
			w.ana.Receipt(talkID, "bo", 2, 2)
			return Options{}
		},
		"two memberships in a group, each announced": func(w *world) Options {
			w.group("joined")
			w.bo.Join(groupID, 4)
			w.boGets(4, 5, 6, 7)
			w.bo.Join(groupID, 9)
			w.boGets(9, 10)
			return Options{}
		},
		"a group that shows all": func(w *world) Options {
			w.group("all")
			w.boGets(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
			return Options{}
		},
		"pages of what may be seen": func(w *world) Options {
			w.sends(1, 2)
			w.delivers(1, 2)
			w.bo.Page(entry(talkID, 2))
			w.bo.Page(entry(talkID, 1))
			return Options{}
		},
	}
	for name, play := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			o := play(w)
			if w.logs[groupID] == nil {
				w.Log(talkID, w.log)
			}
			for _, v := range w.Check(o) {
				t.Error(v)
			}
		})
	}
}

func TestEveryFaultIsFound(t *testing.T) {
	cases := map[string]struct {
		play func(w *world) Options
		want Fault
		seq  messages.Seq
	}{
		"acknowledged, and not in the log": {func(w *world) Options {
			w.sends(1, 3)
			w.delivers(1, 2)
			w.log = w.log[:2]
			return Options{}
		}, Lost, 3},
		"acknowledged, and another entry stands there": {func(w *world) Options {
			w.sends(1, 1)
			w.log[0].ClientID = "other"
			w.bo.Gone()
			return Options{}
		}, Lost, 1},
		"acknowledged, and never delivered": {func(w *world) Options {
			w.sends(1, 3)
			w.delivers(1, 2)
			return Options{}
		}, Lost, 3},
		"never delivered to a device that got nothing": {func(w *world) Options {
			w.sends(1, 1)
			return Options{}
		}, Lost, 1},
		"delivered, and not in the log": {func(w *world) Options {
			w.sends(1, 1)
			w.delivers(1, 2)
			return Options{}
		}, Lost, 2},
		"one client id twice in the log": {func(w *world) Options {
			w.sends(1, 1)
			again := entry(talkID, 2)
			again.ClientID, again.Hash = "c1", 1
			w.log = append(w.log, again)
			w.delivers(1)
			return Options{}
		}, Duplicate, 2},
		"repeated on one connection": {func(w *world) Options {
			w.sends(1, 2)
			w.delivers(1, 2, 2)
			return Options{}
		}, Duplicate, 2},
		"the sender's own entry delivered on the connection that sent it": {func(w *world) Options {
			w.sends(1, 1)
			w.ana.Deliver(entry(talkID, 1))
			w.delivers(1)
			return Options{}
		}, Duplicate, 1},
		"repeated though acknowledged": {func(w *world) Options {
			w.sends(1, 2)
			w.delivers(1, 2)
			w.bo.Ack(talkID, 2)
			w.bo.Connect(false)
			w.delivers(2)
			return Options{AcksStored: true}
		}, Duplicate, 2},
		"repeated though read": {func(w *world) Options {
			w.sends(1, 2)
			w.delivers(1, 2)
			w.bo.Read(talkID, 2)
			w.bo.Connect(false)
			w.delivers(2)
			return Options{}
		}, Duplicate, 2},
		"repeated though hello gave the position": {func(w *world) Options {
			w.sends(1, 2)
			w.delivers(1, 2)
			w.bo.Connect(false)
			w.bo.Resume(talkID, 1)
			w.delivers(1, 2)
			return Options{}
		}, Duplicate, 1},
		"a hole on a connection": {func(w *world) Options {
			w.sends(1, 3)
			w.delivers(1, 3)
			return Options{}
		}, Hole, 3},
		"a hole over a reconnect": {func(w *world) Options {
			w.sends(1, 3)
			w.delivers(1)
			w.bo.Connect(false)
			w.delivers(3)
			return Options{}
		}, Hole, 3},
		"a new device that starts too late": {func(w *world) Options {
			w.sends(1, 3)
			w.delivers(2, 3)
			return Options{}
		}, Hole, 2},
		"a hole in the log": {func(w *world) Options {
			w.sends(1, 3)
			w.log = slices.Delete(w.log, 1, 2)
			w.delivers(1)
			return Options{}
		}, Hole, 3},
		"a start that is none": {func(w *world) Options {
			w.group("joined")
			w.bo.Join(groupID, 5)
			return Options{}
		}, Hole, 5},
		"a start that was not announced": {func(w *world) Options {
			w.group("joined")
			w.bo.Join(groupID, 4)
			w.boGets(4, 5, 6, 7, 9)
			return Options{}
		}, Hole, 9},
		"an entry after a higher one": {func(w *world) Options {
			w.sends(1, 3)
			w.delivers(1, 3, 2)
			return Options{}
		}, Inversion, 2},
		"a higher entry before the answer": {func(w *world) Options {
			w.ana.Sending(talkID, "c1", 1)
			w.ana.Deliver(Entry{Conversation: talkID, Seq: 2, Author: "bo", ClientID: "b"})
			w.ana.Sent(talkID, "c1", 1, false)
			return Options{}
		}, Inversion, 1},
		"times that go back": {func(w *world) Options {
			w.sends(1, 2)
			w.log[1].At = 0
			w.delivers(1, 2)
			return Options{}
		}, Inversion, 2},
		"delivered before the membership": {func(w *world) Options {
			w.group("joined")
			w.boGets(3)
			return Options{}
		}, Leak, 3},
		"delivered after the removal": {func(w *world) Options {
			w.group("joined")
			w.bo.Join(groupID, 4)
			w.boGets(4, 5, 6, 7, 8)
			return Options{}
		}, Leak, 8},
		"a page to one who is not a member": {func(w *world) Options {
			w.group("joined")
			dan := w.Tape("dan", "d1")
			dan.Connect(false)
			dan.Page(w.log[1])
			return Options{}
		}, Leak, 2},
		"a receipt to one who is not a member": {func(w *world) Options {
			w.sends(1, 1)
			w.delivers(1)
			dan := w.Tape("dan", "d1")
			dan.Connect(false)
			dan.Receipt(talkID, "bo", 1, 0)
			return Options{}
		}, Leak, 1},
		"a cursor back, over a reconnect": {func(w *world) Options {
			w.sends(1, 2)
			w.delivers(1, 2)
			w.ana.Receipt(talkID, "bo", 2, 1)
			w.ana.Connect(false)
			w.ana.Receipt(talkID, "bo", 1, 1)
			return Options{}
		}, CursorBack, 1},
		"a read cursor back": {func(w *world) Options {
			w.sends(1, 2)
			w.delivers(1, 2)
			w.ana.Receipt(talkID, "bo", 2, 2)
			w.ana.Receipt(talkID, "bo", 2, 1)
			return Options{}
		}, CursorBack, 2},
		"one client id answered with two seqs": {func(w *world) Options {
			w.sends(1, 2)
			w.delivers(1, 2)
			w.ana.Sent(talkID, "c1", 2, true)
			return Options{}
		}, Conflict, 2},
		"another entry than the log's": {func(w *world) Options {
			w.sends(1, 1)
			e := entry(talkID, 1)
			e.ClientID = "other"
			w.bo.Deliver(e)
			return Options{}
		}, Conflict, 1},
		"other content than the log's": {func(w *world) Options {
			w.sends(1, 1)
			e := entry(talkID, 1)
			e.Hash = 99
			w.bo.Deliver(e)
			return Options{}
		}, Conflict, 1},
		"other content in the log than was sent": {func(w *world) Options {
			w.sends(1, 1)
			w.delivers(1)
			w.log[0].Hash = 99
			return Options{}
		}, Conflict, 1},
		"never sent": {func(w *world) Options {
			w.log = texts(talkID, 1, 1)
			w.delivers(1)
			return Options{}
		}, Phantom, 1},
		"refused, and in the log": {func(w *world) Options {
			w.ana.Sending(talkID, "c1", 1)
			w.ana.Refused(talkID, "c1", messages.CodeForbidden)
			w.log = texts(talkID, 1, 1)
			w.delivers(1)
			return Options{}
		}, Phantom, 1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			o := c.play(w)
			if w.logs[groupID] == nil {
				w.Log(talkID, w.log)
			}
			found := w.Check(o)
			if !slices.ContainsFunc(found, func(v Violation) bool { return v.Fault == c.want && v.Seq == c.seq }) {
				t.Fatalf("no %s at %d in %v", c.want, c.seq, found)
			}
		})
	}
}

func TestAConversationWithoutALogIsSaid(t *testing.T) {
	w := newWorld()
	w.sends(1, 1)
	found := w.Check(Options{})
	if len(found) != 1 || found[0].Fault != Unjudged {
		t.Fatalf("%v", found)
	}
}

func TestAViolationShowsWhatCameBefore(t *testing.T) {
	w := newWorld()
	w.sends(1, 20)
	for n := messages.Seq(1); n <= 18; n++ {
		w.delivers(n)
	}
	w.bo.Connect(false)
	w.delivers(20)
	found := w.check(Options{})
	v := found[0]
	if v.Fault != Hole || v.Conversation != talkID || v.Seq != 20 || v.User != "bo" || v.Device != "b1" {
		t.Fatalf("%+v", v)
	}
	around := strings.Join(v.Around, "\n")
	if len(v.Around) != aroundSize || !strings.Contains(around, "d:ana~bo/18") || !strings.Contains(around, "connection 2: connected") {
		t.Fatalf("around:\n%s", around)
	}
}

func TestReportsAreBounded(t *testing.T) {
	w := newWorld()
	w.sends(1, 500)
	if found := w.check(Options{Max: 7}); len(found) != 7 {
		t.Fatalf("%d violations, want 7", len(found))
	}
}

func TestLinearizable(t *testing.T) {
	cases := map[string]struct {
		play func(w *world)
		want bool
	}{
		"one after the other": {func(w *world) { w.sends(1, 5) }, true},
		"a retry gets the same seq": {func(w *world) {
			w.sends(1, 2)
			w.ana.Sending(talkID, "c1", 1)
			w.ana.Sent(talkID, "c1", 1, true)
		}, true},
		"at once, in any order": {func(w *world) {
			w.ana.Sending(talkID, "c2", 2)
			w.bo.Sending(talkID, "b", 9)
			w.bo.Sent(talkID, "b", 1, false)
			w.ana.Sent(talkID, "c2", 2, false)
			w.log = []Entry{{Conversation: talkID, Seq: 1, Author: "bo", ClientID: "b"}, entry(talkID, 2)}
		}, true},
		"no answer, and in the log": {func(w *world) {
			w.ana.Sending(talkID, "c1", 1)
			w.log = texts(talkID, 1, 1)
		}, true},
		"refused, and not in the log": {func(w *world) {
			w.ana.Sending(talkID, "c1", 1)
			w.ana.Refused(talkID, "c1", messages.CodeInvalid)
		}, true},
		"answered before another left, and after it in the log": {func(w *world) {
			w.ana.Sending(talkID, "c2", 2)
			w.ana.Sent(talkID, "c2", 2, false)
			w.bo.Sending(talkID, "b", 9)
			w.bo.Sent(talkID, "b", 1, false)
			w.log = []Entry{{Conversation: talkID, Seq: 1, Author: "bo", ClientID: "b"}, entry(talkID, 2)}
		}, false},
		"a retry gets another seq": {func(w *world) {
			w.sends(1, 2)
			w.ana.Sending(talkID, "c1", 1)
			w.ana.Sent(talkID, "c1", 2, true)
		}, false},
		"acknowledged, and not in the log": {func(w *world) {
			w.sends(1, 2)
			w.log = w.log[:1]
		}, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			c.play(w)
			w.Log(talkID, w.log)
			ok, err := w.Linearizable(talkID, 10*time.Second)
			if err != nil || ok != c.want {
				t.Fatalf("%v, %v; want %v", ok, err, c.want)
			}
		})
	}
}

// BenchmarkCheckMillion judges a million deliveries.
func BenchmarkCheckMillion(b *testing.B) {
	const devices, entries = 50, 20_000
	w := newWorld()
	w.sends(1, entries)
	w.Log(talkID, w.log)
	for d := range devices {
		t := w.Tape("bo", messages.DeviceID(fmt.Sprint("m", d)))
		t.Connect(false)
		for _, e := range w.log {
			t.Deliver(e)
		}
	}
	w.bo.Gone()
	for b.Loop() {
		if found := w.Check(Options{}); len(found) != 0 {
			b.Fatal(found[0])
		}
	}
}

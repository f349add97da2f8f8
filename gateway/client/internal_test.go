package client

import (
	"context"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/troupe-chat/troupe/messages"
)

func TestBackoffGrowsWithFullJitter(t *testing.T) {
	most := func(n int64) int64 { return n - 1 }
	none := func(int64) int64 { return 0 }
	tests := []struct {
		ret       messages.Return
		n         int
		low, high time.Duration
	}{
		{messages.ReturnNow, 0, 0, 500 * time.Millisecond},
		{messages.ReturnNow, 3, 0, 4 * time.Second},
		{messages.ReturnNow, 1000, 0, 30 * time.Second},
		{messages.ReturnNewToken, 1, 0, time.Second},
		{messages.ReturnLater, 0, 5 * time.Second, 10 * time.Second},
		{messages.ReturnLater, 1000, 5 * time.Second, 125 * time.Second},
	}
	for _, tt := range tests {
		if d := backoff(tt.ret, tt.n, none); d != tt.low {
			t.Errorf("%d, %d: at least %v, want %v", tt.ret, tt.n, d, tt.low)
		}
		if d := backoff(tt.ret, tt.n, most); d != tt.high-1 {
			t.Errorf("%d, %d: at most %v, want %v", tt.ret, tt.n, d, tt.high-1)
		}
	}
}

func TestNewestReplacesWhatWaits(t *testing.T) {
	q := newEvents()
	receipt := func(user string, read uint64) *event {
		f := &messages.ServerFrame{Event: &messages.ServerFrame_Receipt{Receipt: &messages.Receipt{Conversation: "c", User: user, Read: read}}}
		return &event{frame: f, slot: slotOf(f)}
	}
	for i := range uint64(1000) {
		q.push(receipt("ana", i))
		q.push(receipt("bo", i))
	}
	if n := len(q.items); n != 2 {
		t.Fatalf("%d events wait, want 2", n)
	}
	if r := q.pop().frame.GetReceipt(); r.User != "ana" || r.Read != 999 {
		t.Errorf("got %v", r)
	}
	q.push(receipt("ana", 1000))
	if n := len(q.items); n != 2 {
		t.Errorf("%d events wait after one was taken and one came, want 2", n)
	}
}

func TestEventsSayWhenTheyAreFull(t *testing.T) {
	q := newEvents()
	for i := range maxEvents - 1 {
		if !q.push(&event{}) {
			t.Fatalf("full after %d", i)
		}
	}
	if q.push(&event{}) {
		t.Error("never full")
	}
}

func TestChunksKeepBothBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ps []*messages.Position
		for range rapid.IntRange(0, 200).Draw(t, "positions") {
			ps = append(ps, &messages.Position{Conversation: rapid.StringN(1, 160, 160).Draw(t, "id"), Seq: 1})
		}
		most := rapid.IntRange(1, 50).Draw(t, "most")
		parts := chunk(ps, most, 2000)
		if !slices.Equal(slices.Concat(parts...), ps) {
			t.Fatal("positions were lost or moved")
		}
		for _, part := range parts {
			if len(part) > most || len(part) > 1 && proto.Size(&messages.Ack{Positions: part}) > 2000 {
				t.Fatalf("a part of %d positions and %d bytes", len(part), proto.Size(&messages.Ack{Positions: part}))
			}
		}
	})
}

// TestOrderUnderAnyServer plays a server that repeats and answers early, over
// several connections, and checks that what comes out is the log.
func TestOrderUnderAnyServer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const head = 30
		o := newOrder(nil)
		var out []uint64
		take := func(arrivals []arrival, err error) {
			for _, a := range arrivals {
				out = append(out, a.entry.Seq)
			}
			if err == errGap {
				t.Fatal("a gap where there was none")
			}
		}
		at := uint64(0) // what this connection has delivered
		for range rapid.IntRange(0, 80).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0: // another connection, from somewhere before
				o.reconnected()
				at = uint64(rapid.IntRange(0, len(out)).Draw(t, "resume"))
			case 1: // sent comes early
				seq := uint64(rapid.IntRange(1, head).Draw(t, "own"))
				if len(out) > 0 {
					take(o.sent(&messages.Entry{Conversation: "c", Seq: seq}), nil)
				}
			default:
				if at < head {
					at++
					take(o.delivered(&messages.Entry{Conversation: "c", Seq: at}, false))
				}
			}
		}
		for i, seq := range out {
			if seq != uint64(i+1) {
				t.Fatalf("out of order: %v", out)
			}
		}
	})
}

func TestOwnEntryOfAnUnknownConversationWaitsForWhatIsEarlier(t *testing.T) {
	own := func(seq uint64) *messages.Entry { return &messages.Entry{Conversation: "c", Seq: seq} }
	o := newOrder(nil)
	if got := o.sent(own(5)); got != nil {
		t.Fatalf("handed on at once: %v", got)
	}
	if got, err := o.delivered(own(4), false); err != nil || len(got) != 2 || got[1].entry.Seq != 5 || !got[1].own {
		t.Errorf("after the one before: %v, %v", got, err)
	}
	o = newOrder(nil)
	o.sent(own(5))
	o.sent(own(6))
	if got := o.catchUp(); len(got) != 2 || got[0].entry.Seq != 5 {
		t.Errorf("at caught_up: %v", got)
	}
	if got := o.sent(own(9)); got != nil {
		t.Errorf("one that does not follow: %v", got)
	}
}

func TestHeldEntriesAreLetGo(t *testing.T) {
	entry := func(seq uint64) *messages.Entry { return &messages.Entry{Conversation: "c", Seq: seq} }
	o := newOrder(nil)
	o.sent(entry(5))
	o.reconnected()
	if got := o.catchUp(); got != nil || len(o.held) != 0 {
		t.Errorf("after a reconnect, which delivers it: %v", got)
	}
	o = newOrder(nil)
	o.delivered(entry(1), false)
	o.sent(entry(5))
	o.delivered(entry(9), true)
	if len(o.held) != 0 {
		t.Errorf("%d are held for ever", len(o.held))
	}
}

// FuzzServerMessage: whatever the server sends, the client neither panics nor
// hands entries on out of order.
func FuzzServerMessage(f *testing.F) {
	entry := func(seq uint64) *messages.Entry { return &messages.Entry{Conversation: "c", Seq: seq} }
	seeds := []*messages.ServerFrame{
		{Event: &messages.ServerFrame_Deliver{Deliver: &messages.Deliver{Entries: []*messages.Entry{entry(1), entry(2), entry(2)}}}},
		{Event: &messages.ServerFrame_Deliver{Deliver: &messages.Deliver{Entries: []*messages.Entry{entry(9)}, Starts: []*messages.Position{{Conversation: "c", Seq: 9}}}}},
		{Event: &messages.ServerFrame_CaughtUp{CaughtUp: &messages.CaughtUp{}}},
		{Re: 1, Event: &messages.ServerFrame_Sent{Sent: &messages.Sent{Conversation: "c", Seq: 3, ClientId: "x"}}},
		{Re: 1, Event: &messages.ServerFrame_Error{Error: &messages.Error{Code: "invalid"}}},
		{Event: &messages.ServerFrame_Receipt{}},
		{},
	}
	for _, s := range seeds {
		b, err := proto.Marshal(&messages.ServerBatch{Frames: []*messages.ServerFrame{s}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, false)
		f.Add(messages.CompactJSON(s), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, json bool) {
		c, err := New(Options{Server: "http://x", Device: "d", Token: noToken})
		if err != nil {
			t.Fatal(err)
		}
		decode := binaryCodec.decode
		if json {
			decode = jsonCodec.decode
		}
		frames, err := decode(b)
		if err != nil {
			return
		}
		l := &link{pending: map[uint32]func(*messages.ServerFrame){}}
		out := &Outgoing{send: Text(In("c"), "x"), done: make(chan struct{})}
		l.pending[1] = func(f *messages.ServerFrame) { c.outbox.answered(out, f) }
		l.route(frames, func(f *messages.ServerFrame) error { return c.frame(l, f) })
		checkQueue(t, c.out.queue)
	})
}

func checkQueue(t *testing.T, q *events) {
	last := map[string]uint64{}
	for ev := q.pop(); ev != nil; ev = q.pop() {
		if ev.entry == nil {
			continue
		}
		e := ev.entry.entry
		if e.Seq <= last[e.Conversation] {
			t.Fatalf("%s/%d after %d", e.Conversation, e.Seq, last[e.Conversation])
		}
		last[e.Conversation] = e.Seq
	}
}

func noToken(context.Context) (string, error) { return "", nil }

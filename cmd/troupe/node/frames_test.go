package node_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/troupe-chat/troupe/cmd/troupe/node"
	"github.com/troupe-chat/troupe/internal/world"
	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence/faulty"
)

// receipt matches a receipt that has come so far.
func receipt(conversation, user string, delivered, read uint64) func(*messages.ServerFrame) bool {
	return func(f *messages.ServerFrame) bool {
		r := f.GetReceipt()
		return r != nil && r.Conversation == conversation && r.User == user && r.Delivered == delivered && r.Read == read
	}
}

func isReceipt(f *messages.ServerFrame) bool { return f.GetReceipt() != nil }

func mustBeOk(t *testing.T, f *messages.ServerFrame) {
	t.Helper()
	if f.GetOk() == nil {
		t.Fatalf("answered %v", f)
	}
}

// welcome tells who one is, what the server takes, and how much waits.
func TestWelcome(t *testing.T) {
	w := world.Start(t)
	w.Users("bo")
	w.As("ana").Says("bo", "hi")
	for _, protocol := range []string{world.Proto, world.JSON} {
		bo := w.Connect(world.Device{User: "bo", Name: "d-" + protocol, Protocol: protocol})
		f := bo.Frames()[0].GetWelcome()
		if f.GetUser() != "bo" || f.Device != "d-"+protocol || f.Session == "" || f.HeartbeatSeconds != 25 || f.Backlog != 1 {
			t.Errorf("%s: %v", protocol, f)
		}
		if ahead := f.ServerTime - w.Clock.Now().UnixMilli(); ahead > 1000 || ahead < -60_000 {
			t.Errorf("%s: the server's time is %d ms off", protocol, ahead)
		}
		if l := f.Limits; l.GetTextBytes() != 16<<10 || l.Window != 256 || l.MessageBytes != 64<<10 || l.Devices != 10 {
			t.Errorf("%s: limits %v", protocol, l)
		}
		if pong := bo.Ask(world.Do(&messages.Ping{})); pong.GetPong() == nil {
			t.Errorf("%s: %v", protocol, pong)
		}
	}
}

// Receipts go to the authors of what is newly covered and to nobody else, as
// one for a burst of moves; read also to the reader's other devices.
func TestReceipts(t *testing.T) {
	w := world.Start(t)
	ana, bo, cy := w.As("ana"), w.As("bo"), w.As("cy")
	other := w.Connect(world.Device{User: "bo", Name: "laptop", NoAck: true})
	group := ana.Makes("crew", "joined", "bo", "cy")
	const burst = 50
	ana.SaysMany(group, "m", burst)
	bo.Count(1 + burst)
	cy.Count(1 + burst)
	ana.Await("bo has all", receipt(group, "bo", burst+1, 0))
	ana.Await("cy has all", receipt(group, "cy", burst+1, 0))
	mustBeOk(t, bo.Ask(world.Do(&messages.Read{Conversation: group, Seq: burst})))
	ana.Await("bo has read", receipt(group, "bo", burst+1, burst))
	other.Await("bo has read", receipt(group, "bo", burst+1, burst))
	cy.Says(group, "of cy")
	bo.Sees("of cy")
	cy.Await("bo has cy's", receipt(group, "bo", burst+2, burst))
	mustBeOk(t, bo.Ask(world.Do(&messages.Read{Conversation: group, Seq: 1_000_000})))
	ana.Await("bo has read all", func(f *messages.ServerFrame) bool { return f.GetReceipt().GetRead() > burst })
	cy.Await("bo has read cy's", receipt(group, "bo", burst+2, burst+2))

	for _, c := range []*world.Client{ana, bo, cy, other} {
		c.Settle()
	}
	if slices.ContainsFunc(bo.Frames(), isReceipt) {
		t.Error("bo, who wrote nothing, is told of receipts on the device that read")
	}
	for _, f := range cy.Frames() {
		if r := f.GetReceipt(); r != nil && r.User == "bo" && r.Delivered < burst+2 {
			t.Errorf("cy is told of what it did not write: %v", r)
		}
	}
	if n := count(ana, isReceipt); n > burst/2 {
		t.Errorf("%d receipts for a burst of %d", n, burst)
	}
	list := receiptsOf(t, ana, group, burst)
	for _, m := range list {
		if want := map[string]string{"bo": "read", "cy": "delivered"}[m.User]; m.Status != want && m.Status != "read" || m.At == 0 || m.At%1000 != 0 {
			t.Errorf("receipts: %v", m)
		}
	}
	if len(list) != 2 {
		t.Errorf("receipts: %v", list)
	}
	w.Judge()
}

func count(c *world.Client, is func(*messages.ServerFrame) bool) (n int) {
	for _, f := range c.Frames() {
		if is(f) {
			n++
		}
	}
	return n
}

// Of a large group's receipts the first is told at once and the next only
// seconds later: until then moves are neither stored nor told one by one.
func TestReceiptsOfALargeGroupAreRare(t *testing.T) {
	t.Parallel()
	w := world.Start(t)
	ana := w.As("ana")
	group := ana.Makes("all", "joined", append(w.Names("m", 40), "bo")...)
	bo := w.As("bo")
	ana.Says(group, "first")
	bo.Sees("first")
	ana.Await("bo has it", isReceipt)
	stored := w.Store.Calls(faulty.SaveMembers)
	for i := range 10 {
		body := fmt.Sprint("more ", i)
		seq := messages.Seq(ana.Says(group, body).Seq)
		bo.Sees(body)
		w.Until("it is acknowledged", func() bool { return w.Stored("bo", "phone", group) == seq })
	}
	ana.Ask(world.Do(&messages.GroupQuery{Conversation: group})) // whatever the inbox told the group before is handled
	if n := w.Store.Calls(faulty.SaveMembers) - stored; n > 1 {
		t.Errorf("moves of ten entries were stored in %d writes", n)
	}
}

// A read is durable when it is answered, and never moves back.
func TestReadMovesForwardOnly(t *testing.T) {
	w := world.Start(t)
	ana, bo := w.As("ana"), w.As("bo")
	ana.SaysMany("bo", "m", 10)
	bo.Count(10)
	unread := func() uint64 { return bo.List()[0].Unread }
	if n := unread(); n != 10 {
		t.Errorf("%d unread before", n)
	}
	for _, step := range []struct{ read, unread uint64 }{{4, 6}, {2, 6}, {9, 1}, {99, 0}, {1, 0}} {
		mustBeOk(t, bo.Ask(world.Do(&messages.Read{Conversation: anaBo, Seq: step.read})))
		if n := unread(); n != step.unread {
			t.Errorf("read %d: %d unread, not %d", step.read, n, step.unread)
		}
	}
	c := bo.List()[0]
	if c.Read != 10 || c.Delivered != 10 || c.Head != 10 || c.Peer != "ana" || c.Kind != "direct" || c.MemberCount != 2 {
		t.Errorf("the list shows %v", c)
	}
	ana.Says("bo", "more")
	bo.Says("ana", "answered") // does not read what it answers
	ana.Sees("answered")
	// What one sends oneself is never unread, whether or not one has read what
	// was before it.
	if n := ana.List()[0].Unread; n != 1 {
		t.Errorf("%d unread after being answered", n)
	}
	if n := unread(); n != 1 {
		t.Errorf("%d unread after answering", n)
	}
	w.Judge()
}

// typing reaches the other members' devices, ends when it is said to, and by
// itself after three seconds.
func TestTyping(t *testing.T) {
	t.Parallel()
	w := world.Start(t)
	ana, bo := w.As("ana"), w.As("bo")
	laptop := w.Connect(world.Device{User: "ana", Name: "laptop"})
	ana.Says("bo", "hi")
	bo.Sees("hi")
	typing := func(active bool, nth int) func(*messages.ServerFrame) bool {
		return func(f *messages.ServerFrame) bool {
			is := f.GetTyping() != nil && f.GetTyping().User == "ana" && f.GetTyping().Conversation == anaBo && f.GetTyping().Active == active
			if is {
				nth--
			}
			return is && nth == 0
		}
	}
	ana.Post(world.Do(&messages.Typing{Conversation: anaBo, Active: true}))
	bo.Await("typing", typing(true, 1))
	ana.Post(world.Do(&messages.Typing{Conversation: anaBo}))
	bo.Await("the end of typing", typing(false, 1))
	ana.Post(world.Do(&messages.Typing{Conversation: anaBo, Active: true}))
	bo.Await("typing again", typing(true, 2))
	began := time.Now()
	bo.Await("its end by itself", typing(false, 2))
	if lasted := time.Since(began); lasted < 2*time.Second {
		t.Errorf("typing lasted only %v", lasted)
	}
	laptop.Settle()
	if n := count(laptop, func(f *messages.ServerFrame) bool { return f.GetTyping() != nil }); n > 0 {
		t.Error("a user is told of its own typing")
	}
}

// watch shows presence to those who share a conversation, then its changes; to
// others a user is offline; [] ends it.
func TestPresence(t *testing.T) {
	w := world.Start(t)
	ana, bo := w.As("ana"), w.As("bo")
	w.As("eve")
	ana.Says("bo", "hi")
	presence(t, ana, "bo", true)
	presence(t, ana, "eve", false)
	presence(t, ana, "nobody", false)
	mustBeOk(t, ana.Ask(world.Do(&messages.Watch{Users: []string{"bo"}})))
	changes := func(online bool) func(*messages.ServerFrame) bool {
		return func(f *messages.ServerFrame) bool {
			return f.GetPresence().GetUser() == "bo" && f.GetPresence().GetOnline() == online
		}
	}
	laptop := w.Connect(world.Device{User: "bo", Name: "laptop"})
	bo.Close()
	laptop.Settle()
	ana.Settle()
	if count(ana, changes(false)) != 0 {
		t.Error("offline, with a device still connected")
	}
	laptop.Close()
	gone := ana.Await("offline", changes(false)).GetPresence()
	if off := w.Clock.Now().UnixMilli() - gone.LastSeen; off < 0 || off > 60_000 {
		t.Errorf("last seen %d ms ago", off)
	}
	seen := count(ana, changes(true))
	bo.Reconnect()
	ana.Await("online again", func() func(*messages.ServerFrame) bool {
		n := 0
		return func(f *messages.ServerFrame) bool {
			if changes(true)(f) {
				n++
			}
			return n > seen
		}
	}())
	mustBeOk(t, ana.Ask(world.Do(&messages.Watch{})))
	before := len(ana.Frames())
	bo.Close()
	w.Until("bo is gone", func() bool { return w.Connected("bo") == 0 })
	ana.Says("eve", "anything")
	ana.Settle()
	for _, f := range ana.Frames()[before:] {
		if f.GetPresence() != nil {
			t.Errorf("told after watching ended: %v", f)
		}
	}
}

// A user's devices each get everything, its own entries included; on the
// connection that sent, sent stands for the entry.
func TestManyDevices(t *testing.T) {
	w := world.Start(t)
	devices := make([]*world.Client, messages.MaxDevices)
	for i := range devices {
		devices[i] = w.Connect(world.Device{User: "ana", Name: fmt.Sprint("device-", i)})
	}
	bo := w.As("bo")
	devices[0].Says("bo", "of ana")
	bo.Says("ana", "of bo")
	for i, d := range devices {
		d.Sees("of bo")
		if i > 0 {
			d.Sees("of ana")
		}
	}
	if slices.Contains(devices[0].Bodies(), "of ana") {
		t.Error("delivered to the connection that sent it")
	}
	eleventh := w.Raw(world.JSON)
	f := eleventh.Ask(world.Do(&messages.Hello{Token: w.Token("ana"), Device: "eleventh"}))
	mustFail(t, f, messages.CodeConflict)
	if code := eleventh.Closed(); code != messages.CloseTooManyDevices {
		t.Errorf("the eleventh is closed with %d", code)
	}
	again := w.Connect(world.Device{User: "ana", Name: "device-3"})
	if code := devices[3].Closed(); code != messages.CloseReplaced {
		t.Errorf("the same device elsewhere closes with %d", code)
	}
	bo.Says("ana", "more")
	again.Sees("more")
	devices[4].Sees("more")
}

// A limited command is answered with when to come back, and the socket stays;
// what was refused uses no client id up and does not count.
func TestRateLimits(t *testing.T) {
	w := world.Start(t, func(c *node.Config) {
		c.Limits = messages.DefaultLimits()
		c.Limits.Sends, c.Limits.Typings = 5, 2
	})
	ana, bo := w.As("ana"), w.As("bo")
	for i := range 5 {
		ana.Says("bo", fmt.Sprint(i))
	}
	limited := func(m *messages.ServerFrame, most time.Duration) time.Duration {
		t.Helper()
		mustFail(t, m, messages.CodeRateLimited)
		wait := time.Duration(m.GetError().GetRetryAfterMs()) * time.Millisecond
		if wait > most {
			t.Errorf("come back in %v", wait)
		}
		return wait
	}
	wait := limited(ana.Ask(world.Text("bo", "sixth", "x")), time.Minute)
	laptop := w.Connect(world.Device{User: "ana", Name: "laptop"})
	limited(laptop.Ask(world.Text("bo", "seventh", "x")), time.Minute) // it is the user that is limited
	ana.Refused(t, "a stranger's conversation while limited", &messages.Send{Conversation: "d:x~y"}, messages.CodeNotFound)
	w.Clock.Advance(wait)
	if seq := ana.Ask(world.Text("bo", "sixth", "y")).GetSent().GetSeq(); seq != 6 {
		t.Errorf("after the wait it is %d", seq)
	}
	bo.Sees("y")

	for range 2 {
		ana.Post(world.Do(&messages.Typing{Conversation: anaBo, Active: true}))
	}
	limited(ana.Ask(world.Do(&messages.Typing{Conversation: anaBo, Active: true})), 10*time.Second)

	for range 6 {
		c := w.Raw(world.JSON)
		f := c.Ask(world.Do(&messages.Hello{Token: w.Token("ana"), Device: "more"}))
		if f.GetWelcome() != nil {
			continue
		}
		limited(f, time.Minute)
		if code := c.Closed(); code != messages.CloseRateLimited {
			t.Errorf("a connect too many is closed with %d", code)
		}
		return
	}
	t.Error("six more connects are let in")
}

// Sending on through a thousand refusals ends the connection.
func TestAThousandRefusals(t *testing.T) {
	w := world.Start(t, func(c *node.Config) {
		c.Limits = messages.WithoutRates(messages.DefaultLimits())
		c.Limits.Sends = 1
	})
	w.Users("bo")
	ana := w.As("ana")
	ana.Says("bo", "the one")
	for i := range 1000 {
		ana.Post(world.Text("bo", fmt.Sprint("no-", i), "x"))
	}
	if code := ana.Closed(); code != messages.CloseRateLimited {
		t.Errorf("closed with %d", code)
	}
}

// Pages of history: the newest, before, after, how many, and whether there are
// more.
func TestHistoryPages(t *testing.T) {
	w := world.Start(t)
	w.Users("bo")
	ana := w.As("ana")
	ana.SaysMany("bo", "m", 150)
	for _, test := range []struct {
		before, after uint64
		limit         uint32
		first, last   uint64
		more          bool
	}{
		{0, 0, 0, 51, 150, true},
		{0, 0, 10, 141, 150, true},
		{0, 0, 4_000_000_000, 51, 150, true},
		{51, 0, 100, 1, 50, false},
		{51, 0, 50, 1, 50, false},
		{51, 0, 49, 2, 50, true},
		{1, 0, 10, 0, 0, false},
		{1 << 63, 0, 10, 141, 150, true},
		{0, 140, 20, 141, 150, false},
		{0, 140, 10, 141, 150, false},
		{0, 140, 9, 141, 149, true},
		{0, 150, 9, 0, 0, false},
		{0, 1 << 63, 9, 0, 0, false},
	} {
		p := ana.History(&messages.History{Conversation: anaBo, Before: test.before, After: test.after, Limit: test.limit})
		var first, last uint64
		if n := len(p.Entries); n > 0 {
			first, last = p.Entries[0].Seq, p.Entries[n-1].Seq
			if int(last-first) != n-1 {
				t.Errorf("%+v: %d entries from %d to %d", test, n, first, last)
			}
		}
		if first != test.first || last != test.last || p.More != test.more || p.Conversation != anaBo {
			t.Errorf("%+v: %d to %d, more %v", test, first, last, p.More)
		}
	}
}

// The list: newest first, page by page, with what a client shows.
func TestTheListOfConversations(t *testing.T) {
	w := world.Start(t)
	ana := w.As("ana")
	names := w.Names("n", 7)
	for _, n := range names {
		ana.Says(n, "to "+n)
		w.Clock.Advance(time.Millisecond)
	}
	group := ana.Makes("crew", "joined", names...)
	w.Clock.Advance(time.Millisecond)
	ana.Says(names[2], "again")
	want := []string{"d:ana~" + names[2], group}
	for _, i := range []int{6, 5, 4, 3, 1, 0} {
		want = append(want, "d:ana~"+names[i])
	}
	var got []string
	q := &messages.Conversations{Limit: 3}
	for {
		page := ana.Ask(world.Do(q)).GetConversationList()
		if page == nil || len(page.Conversations) > 3 {
			t.Fatal(page)
		}
		for _, c := range page.Conversations {
			got = append(got, c.Conversation)
		}
		if page.Cursor == "" {
			break
		}
		q = &messages.Conversations{Limit: 3, Cursor: page.Cursor}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v, not %v", got, want)
	}
	if n := ana.List()[0].Unread; n != 0 {
		t.Errorf("%d of her own entries are unread", n)
	}
	w.Until("her own entries are read", func() bool { return ana.List()[0].Read == 2 })
	if c := ana.List()[0]; c.Last.GetText().GetBody() != "again" || c.Head != 2 || c.Read != 2 {
		t.Errorf("the first is %v", c)
	}
	if c := ana.List()[1]; c.Kind != "group" || c.Name != "crew" || c.MemberCount != 8 || c.Peer != "" {
		t.Errorf("the group is %v", c)
	}
}

// mute, archive and pin are one's own, on every device; clear hides everything
// up to the head, for oneself.
func TestOwnSettings(t *testing.T) {
	w := world.Start(t)
	ana, bo := w.As("ana"), w.As("bo")
	bo.SaysMany("ana", "m", 5)
	ana.Count(5)
	mustBeOk(t, ana.Ask(world.Do(&messages.Mute{Conversation: anaBo, Value: true})))
	mustBeOk(t, ana.Ask(world.Do(&messages.Archive{Conversation: anaBo, Value: true})))
	mustBeOk(t, ana.Ask(world.Do(&messages.Pin{Conversation: anaBo, Value: true})))
	mustBeOk(t, ana.Ask(world.Do(&messages.Archive{Conversation: anaBo})))
	laptop := w.Connect(world.Device{User: "ana", Name: "laptop"})
	if c := laptop.List()[0]; !c.Muted || c.Archived || !c.Pinned {
		t.Errorf("the list shows %v", c)
	}
	if c := bo.List()[0]; c.Muted || c.Archived || c.Pinned {
		t.Errorf("the other's list shows %v", c)
	}
	mustBeOk(t, ana.Ask(world.Do(&messages.Clear{Conversation: anaBo})))
	if p := ana.History(&messages.History{Conversation: anaBo}); len(p.Entries) != 0 || p.More {
		t.Errorf("cleared, history shows %v", p)
	}
	if c := ana.List()[0]; c.Unread != 0 || c.Last != nil || !c.Muted {
		t.Errorf("cleared, the list shows %v", c)
	}
	bo.Says("ana", "after")
	if p := ana.History(&messages.History{Conversation: anaBo}); len(p.Entries) != 1 || p.Entries[0].Seq != 6 {
		t.Errorf("history shows %v", p)
	}
	if p := bo.History(&messages.History{Conversation: anaBo}); len(p.Entries) != 6 {
		t.Errorf("the other's history shows %d", len(p.Entries))
	}
	late := w.Connect(world.Device{User: "ana", Name: "late"})
	late.Sees("after")
	if e := late.Entries(); len(e) != 1 {
		t.Errorf("a new device gets %v", e)
	}
}

// An edited body is served as it was last edited, a retracted one never again:
// not by history, catch-up or the list.
func TestEditedAndRetracted(t *testing.T) {
	w := world.Start(t)
	ana, bo := w.As("ana"), w.As("bo")
	ana.Says("bo", "first")
	ana.Says("bo", "regretted")
	bo.Sees("regretted")
	send := func(c *world.Client, id string, s *messages.Send) *messages.ServerFrame {
		s.Conversation, s.ClientId = anaBo, id
		return c.Ask(world.Do(s))
	}
	edit := func(body string) *messages.Send {
		return &messages.Send{Content: &messages.Send_Edit{Edit: &messages.Edit{Seq: 1, Body: body}}}
	}
	retract := &messages.Send{Content: &messages.Send_Retract{Retract: &messages.Retract{Seq: 2}}}
	react := &messages.Send{Content: &messages.Send_Reaction{Reaction: &messages.Reaction{Seq: 1, Emoji: "+"}}}
	mustBeSent(t, send(ana, "e1", edit("second")))
	mustBeSent(t, send(ana, "e2", edit("third")))
	mustBeSent(t, send(ana, "r", retract))
	mustBeSent(t, send(bo, "x", react))
	mustFail(t, send(ana, "e1", edit("other")), messages.CodeConflict)
	mustFail(t, send(bo, "e", edit("not mine")), messages.CodeForbidden)
	mustFail(t, send(ana, "x2", &messages.Send{Content: &messages.Send_Reaction{Reaction: &messages.Reaction{Seq: 3, Emoji: "+"}}}), messages.CodeInvalid)
	bo.Await("the retraction", func(f *messages.ServerFrame) bool {
		return slices.ContainsFunc(f.GetDeliver().GetEntries(), func(e *messages.Entry) bool { return e.GetRetract().GetSeq() == 2 })
	})
	late := w.Connect(world.Device{User: "bo", Name: "late"})
	late.Await("caught_up", isCaughtUp)
	for where, entries := range map[string][]*messages.Entry{
		"history":  bo.History(&messages.History{Conversation: anaBo}).Entries,
		"catch-up": late.Entries(),
	} {
		if len(entries) != 6 || entries[0].GetText().GetBody() != "third" || entries[0].EditedAt == 0 {
			t.Errorf("%s shows %v", where, entries)
			continue
		}
		if e := entries[1]; e.GetText().GetBody() != "" || e.RetractedAt == 0 {
			t.Errorf("%s shows %v", where, e)
		}
	}
	if n := bo.List()[0].Unread; n != 2 {
		t.Errorf("%d unread: edits, retractions and reactions do not count", n)
	}
	w.Clock.Advance(25 * time.Hour)
	mustFail(t, send(ana, "e3", edit("too late")), messages.CodeForbidden)
}

// Where hello says a device is, delivery begins; head skips everything; and
// neither lowers what is stored.
func TestWhereDeliveryBegins(t *testing.T) {
	w := world.Start(t)
	w.Users("bo")
	ana := w.As("ana")
	ana.SaysMany("bo", "m", 10)
	begin := func(name string, hello func(*messages.Hello)) *world.Client {
		return w.Connect(world.Device{User: "bo", Name: name, NoAck: true, Hello: hello})
	}
	position := func(seq uint64) func(*messages.Hello) {
		return func(h *messages.Hello) { h.Positions = []*messages.Position{at(anaBo, seq)} }
	}
	for _, test := range []struct {
		name  string
		hello func(*messages.Hello)
		first uint64
	}{{"new", nil, 1}, {"at 4", position(4), 5}, {"at 0", position(0), 1}} {
		c := begin(fmt.Sprintf("d%d-%d", test.first, len(test.name)), test.hello)
		c.Sees("m 9")
		if first := c.Entries()[0].Seq; first != test.first {
			t.Errorf("%s: begins at %d", test.name, first)
		}
	}
	head := begin("head", func(h *messages.Hello) { h.Start = "head" })
	head.Await("caught_up", isCaughtUp)
	beyond := begin("beyond", position(99))
	beyond.Await("caught_up", isCaughtUp)
	ana.Says("bo", "news")
	for _, c := range []*world.Client{head, beyond} {
		c.Sees("news")
		if n := len(c.Entries()); n != 1 {
			t.Errorf("%s gets %d entries", c.Name, n)
		}
	}
	head.Ack(at(anaBo, 11))
	w.Until("its cursor is stored", func() bool { return w.Stored("bo", "head", anaBo) == 11 })
	head.Hello = position(9) // repeats, and lowers nothing
	head.Reconnect()
	head.Sees("news")
	if first := head.Entries()[0].Seq; first != 10 {
		t.Errorf("at 9, it begins at %d", first)
	}
	head.Hello = nil
	head.Reconnect()
	head.Await("caught_up", isCaughtUp)
	if n := len(head.Entries()); n != 0 || w.Stored("bo", "head", anaBo) != 11 {
		t.Errorf("the cursor was lowered: %d entries", n)
	}
}

// A device acknowledges what it was sent, and no more.
func TestAnAckBeyondWhatWasSent(t *testing.T) {
	w := world.Start(t, func(c *node.Config) { c.Limits.Window = 4 })
	w.Users("bo")
	ana := w.As("ana")
	ana.SaysMany("bo", "m", 10)
	bo := w.Connect(world.Device{User: "bo", Name: "phone", NoAck: true})
	bo.Count(4)
	bo.Ack(at(anaBo, 1<<63), at("d:x~y", 5), at("", 0))
	bo.Count(8)
	bo.Settle()
	if n := bo.Counted(); n != 8 {
		t.Errorf("%d entries with a window of 4", n)
	}
	bo.Reconnect()
	bo.Count(12)
	if first := bo.Entries()[0].Seq; first != 5 {
		t.Errorf("after a reconnect it begins at %d", first)
	}
}

// Creating a group again answers the same group; so does a retried change.
func TestGroupRetries(t *testing.T) {
	w := world.Start(t)
	ana := w.As("ana")
	w.Users("bo", "cy")
	create := func() *messages.ServerFrame {
		return ana.Ask(world.Do(&messages.CreateGroup{ClientId: "g", Name: "crew", Members: []string{"bo"}}))
	}
	group := create().GetGroup()
	if group.GetName() != "crew" || len(group.Members) != 2 || group.Head != 1 || group.History != "joined" {
		t.Fatalf("made %v", group)
	}
	if again := create().GetGroup(); again.GetConversation() != group.Conversation || again.Head != 1 {
		t.Errorf("made again: %v", again)
	}
	ana.Refused(t, "other content", &messages.CreateGroup{ClientId: "g", Name: "other"}, messages.CodeConflict)
	change := func(add ...string) *messages.ServerFrame {
		return ana.Ask(world.Do(&messages.ChangeGroup{Conversation: group.Conversation, ClientId: "c", Add: add}))
	}
	if g := change("cy").GetGroup(); len(g.GetMembers()) != 3 || g.Head != 2 {
		t.Errorf("changed: %v", g)
	}
	if g := change("cy").GetGroup(); len(g.GetMembers()) != 3 || g.Head != 2 {
		t.Errorf("changed again: %v", g)
	}
	mustFail(t, change("bo"), messages.CodeConflict)
}

// Profiles are set for oneself and read by all.
func TestProfiles(t *testing.T) {
	w := world.Start(t)
	ana, bo := w.As("ana"), w.As("bo")
	set := ana.Ask(world.Do(&messages.Profile{Set: &messages.ProfileSet{Name: "Ana Ž", Avatar: "a.png"}})).GetProfileList()
	got := bo.Ask(world.Do(&messages.Profile{Users: []string{"ana", "nobody", "bo"}})).GetProfileList()
	if len(set.GetProfiles()) != 1 || len(got.GetProfiles()) != 2 {
		t.Fatalf("set %v, got %v", set, got)
	}
	if p := got.Profiles[0]; p.User != "ana" || p.Name != "Ana Ž" || p.Avatar != "a.png" {
		t.Errorf("got %v", p)
	}
}

// When the server stops, every client is told when to come back, each at a
// time of its own, and closed with 1012; what was sent is stored.
func TestDraining(t *testing.T) {
	w := world.Start(t)
	names := w.Names("n", 30)
	devices := connectAll(w, names)
	devices[0].Says(names[1], "before")
	w.Stop()
	waits := map[int64]bool{}
	for _, d := range devices {
		if code := d.Closed(); code != messages.CloseRestarting {
			t.Errorf("%s is closed with %d", d.User, code)
		}
		frames := d.Frames()
		closing := frames[len(frames)-1].GetClosing()
		if closing.GetReason() == "" {
			t.Fatalf("%s got %v last", d.User, frames[len(frames)-1])
		}
		waits[closing.ReconnectAfterMs] = true
	}
	if len(waits) < len(devices)/2 {
		t.Errorf("they all come back at %v", waits)
	}
}

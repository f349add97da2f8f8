package storetest

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// Model runs random operations, crashes among them, against a store and
// against a model of it that is too simple to be wrong, and compares what each
// says.
func Model(t *testing.T, m Maker) {
	rapid.Check(t, func(rt *rapid.T) {
		r := &run{
			T: rt, e: newEnv(t, m), logs: make(map[messages.ConversationID]*modelLog),
			devices: make(map[string]messages.Seq), members: make(map[string]persistence.MemberCursor),
			intervals: make(map[string]persistence.Membership), marks: make(map[string]int64),
		}
		defer func() { r.e.Store.Close() }()
		actions := map[string]func(*rapid.T){
			"append":  r.append,
			"stale":   r.stale,
			"again":   r.again,
			"device":  r.device,
			"member":  r.member,
			"mark":    r.mark,
			"tick":    r.tick,
			"compare": r.compare,
		}
		if m.Reopen != nil {
			actions["crash"] = r.crash
		}
		rt.Repeat(actions)
		r.compare(rt)
		r.e.sound()
	})
}

var modelUsers = []messages.UserID{ana, bo, cy}

// run is one random run: the store, and the model.
type run struct {
	*rapid.T
	e         *env
	ids       int
	logs      map[messages.ConversationID]*modelLog
	devices   map[string]messages.Seq
	members   map[string]persistence.MemberCursor
	intervals map[string]persistence.Membership
	marks     map[string]int64
}

type modelLog struct {
	*log
	entries []*messages.Entry
	written []*persistence.Batch
	lost    []*persistence.Batch
	state   string
}

func (r *run) conversation() *modelLog {
	c := rapid.SampledFrom([]messages.ConversationID{direct, "g:one", "g:two"}).Draw(r.T, "conversation")
	if r.logs[c] == nil {
		r.logs[c] = &modelLog{log: r.e.log(c)}
	}
	return r.logs[c]
}

func (r *run) user() messages.UserID { return rapid.SampledFrom(modelUsers).Draw(r.T, "user") }

// entry draws an entry for l, whose last is seq.
func (r *run) entry(seq uint64) *messages.Entry {
	u := r.user()
	r.ids++
	id := fmt.Sprint(r.ids)
	kind := "text"
	if seq > 0 {
		kind = rapid.SampledFrom([]string{"text", "media", "edit", "edit", "retract", "reaction", "event"}).Draw(r.T, "kind")
	}
	target := func() uint64 { return rapid.Uint64Range(1, seq).Draw(r.T, "target") }
	switch kind {
	case "media":
		return media(u, id, "caption "+id)
	case "edit":
		return edit(u, id, target(), "edited "+id)
	case "retract":
		return retract(u, id, target())
	case "reaction":
		return reaction(u, id, target())
	case "event":
		return event("renamed", u)
	}
	return text(u, id, "text "+id)
}

// draw builds a batch for l, and the entries in it.
func (r *run) draw(l *modelLog) (*persistence.Batch, []*messages.Entry) {
	var entries []*messages.Entry
	seq := uint64(l.head.Seq)
	for range rapid.IntRange(1, 4).Draw(r.T, "entries") {
		entries = append(entries, r.entry(seq))
		seq++
	}
	b := l.batch(entries...)
	if rapid.Bool().Draw(r.T, "membership") {
		m := persistence.Membership{User: r.user(), Conversation: l.c, Joined: b.Rows[0].Seq, From: 1}
		b.Memberships = append(b.Memberships, m)
	}
	if rapid.Bool().Draw(r.T, "snapshot") {
		b.Snapshot = fmt.Append(nil, "state at ", seq)
	}
	return b, entries
}

func (r *run) append(t *rapid.T) {
	l := r.conversation()
	b, entries := r.draw(l)
	if err := r.e.append(b); err != nil {
		t.Fatalf("appending at %d: %v", b.ExpectHead, err)
	}
	l.wrote(b)
	l.entries = append(l.entries, entries...)
	l.written = append(l.written, b)
	if b.Snapshot != nil {
		l.state = string(b.Snapshot)
	}
	for _, m := range b.Memberships {
		r.intervals[fmt.Sprintf("%s %s %6d", m.User, m.Conversation, m.Joined)] = m
	}
}

// stale appends as one does who has not seen the end of the log, or too much.
func (r *run) stale(t *rapid.T) {
	l := r.conversation()
	off := rapid.SampledFrom([]int{-3, -1, 1}).Draw(t, "off")
	if int(l.head.Seq)+off < 0 {
		return
	}
	b, _ := r.draw(l)
	b.ExpectHead = messages.Seq(int(b.ExpectHead) + off)
	for i := range b.Rows {
		b.Rows[i].Seq = messages.Seq(int(b.Rows[i].Seq) + off)
	}
	r.wants(b, persistence.ErrConflict)
	l.lost = append(l.lost, b)
}

// again issues an old batch again, as after an unknown outcome.
func (r *run) again(t *rapid.T) {
	l := r.conversation()
	if len(l.written) > 0 {
		r.wants(rapid.SampledFrom(l.written).Draw(t, "written"), nil)
	}
	var lost []*persistence.Batch
	for _, b := range l.lost {
		if b.ExpectHead != l.head.Seq {
			lost = append(lost, b)
		}
	}
	if len(lost) > 0 {
		r.wants(rapid.SampledFrom(lost).Draw(t, "lost"), persistence.ErrConflict)
	}
}

func (r *run) wants(b *persistence.Batch, want error) {
	if err := r.e.append(b); err != want {
		r.Fatalf("appending at %d answers %v, not %v", b.ExpectHead, err, want)
	}
}

func (r *run) device(t *rapid.T) {
	d := persistence.DeviceKey{User: r.user(), Incarnation: rapid.Uint64Range(1, 2).Draw(t, "incarnation")}
	l := r.conversation()
	if l.head.Seq == 0 {
		return
	}
	seq := messages.Seq(rapid.Uint64Range(1, uint64(l.head.Seq)).Draw(t, "seq"))
	r.e.saveDevice(d, 0, persistence.Position{Conversation: l.c, Seq: seq})
	k := fmt.Sprint(d, l.c)
	r.devices[k] = max(r.devices[k], seq)
	if got := must[[]messages.Seq](r.e)(r.e.DevicePositions(r.e.ctx, d, []messages.ConversationID{l.c})); got[0] != r.devices[k] {
		t.Fatalf("the cursor of %s is %d, not %d", k, got[0], r.devices[k])
	}
}

func (r *run) member(t *rapid.T) {
	l, u := r.conversation(), r.user()
	draw := func(what string) messages.Seq {
		return messages.Seq(rapid.Uint64Range(0, uint64(l.head.Seq)).Draw(t, what))
	}
	m := persistence.MemberCursor{User: u, Delivered: draw("delivered"), Read: draw("read")}
	r.e.saveMembers(l.c, m)
	k := fmt.Sprint(l.c, u)
	old := r.members[k]
	r.members[k] = persistence.MemberCursor{User: u, Delivered: max(old.Delivered, m.Delivered), Read: max(old.Read, m.Read)}
}

func (r *run) mark(t *rapid.T) {
	m := persistence.Mark{User: r.user(), Day: rapid.Int64Range(10, 14).Draw(t, "day"), Conversation: r.conversation().c}
	if err := wait(func(d persistence.Done) { r.e.Mark([]persistence.Mark{m}, d) }); err != nil {
		t.Fatal(err)
	}
	k := fmt.Sprint(m.User, m.Conversation)
	r.marks[k] = max(r.marks[k], m.Day)
}

func (r *run) tick(t *rapid.T) {
	r.e.now = r.e.now.Add(time.Duration(rapid.IntRange(1, 2000).Draw(t, "ms")) * time.Millisecond)
}

func (r *run) crash(t *rapid.T) {
	r.e.reopen()
	r.compare(t)
}

// compare asks the store for everything that the model knows.
func (r *run) compare(t *rapid.T) {
	for _, c := range slices.Sorted(maps.Keys(r.logs)) {
		r.compareLog(t, r.logs[c])
		for _, u := range modelUsers {
			got := must[[]persistence.MemberCursor](r.e)(r.e.MemberCursors(r.e.ctx, c, []messages.UserID{u}))[0]
			want := r.members[fmt.Sprint(c, u)]
			want.User = u
			r.same(t, "cursors", got, want)
		}
	}
	for _, u := range modelUsers {
		r.compareUser(t, u)
	}
}

func (r *run) compareUser(t *rapid.T, u messages.UserID) {
	var want []persistence.Membership
	for _, k := range slices.Sorted(maps.Keys(r.intervals)) {
		if m := r.intervals[k]; m.User == u {
			want = append(want, m)
		}
	}
	r.same(t, "memberships", must[[]persistence.Membership](r.e)(r.e.Memberships(r.e.ctx, u)), want)
	for day := int64(9); day < 16; day++ {
		n := 0
		for c := range r.logs {
			if last, ok := r.marks[fmt.Sprint(u, c)]; ok && last >= day {
				n++
			}
		}
		r.same(t, "marks", len(must[[]messages.ConversationID](r.e)(r.e.Marked(r.e.ctx, u, day))), n)
	}
}

func (r *run) compareLog(t *rapid.T, l *modelLog) {
	head, state, err := r.e.Load(r.e.ctx, l.c)
	if err != nil {
		t.Fatal(err)
	}
	r.same(t, "head", head, l.head)
	r.same(t, "snapshot", string(state), l.state)
	var ids []persistence.AuthorID
	var seqs []messages.Seq
	for _, e := range l.entries {
		if e.ClientId != "" {
			ids = append(ids, persistence.AuthorID{Author: messages.UserID(e.From), ClientID: messages.ClientID(e.ClientId)})
			seqs = append(seqs, messages.Seq(e.Seq))
		}
	}
	for i, d := range l.know(persistence.Query{IDs: ids}).IDs {
		r.same(t, "id", d.Seq, seqs[i])
	}
	after := rapid.Uint64Range(0, uint64(l.head.Seq)).Draw(t, "after")
	for _, rg := range []persistence.Range{{After: messages.Seq(after), Limit: 5}, {Before: messages.Seq(after + 1), Limit: 5}, {}} {
		got := l.read(rg)
		want := l.served(rg)
		if len(got) != len(want) {
			t.Fatalf("%+v of %s: %d entries, not %d", rg, l.c, len(got), len(want))
		}
		for i := range got {
			if !proto.Equal(got[i], want[i]) {
				t.Fatalf("%s serves %v, not %v", l.c, got[i], want[i])
			}
		}
	}
}

// served is the model of Read.
func (l *modelLog) served(r persistence.Range) []*messages.Entry {
	first, end := int(r.After), len(l.entries)
	if r.Before != 0 {
		end = int(r.Before) - 1
		first = max(0, end-r.Limit)
	} else if r.Limit > 0 {
		end = min(end, first+r.Limit)
	}
	var out []*messages.Entry
	for _, e := range l.entries[first:end] {
		e = proto.CloneOf(e)
		persistence.Served(e, l.overlays)
		out = append(out, e)
	}
	return out
}

// overlays returns all overlays of an entry, as Served takes them.
func (l *modelLog) overlays(target messages.Seq) []persistence.Overlay {
	var os []persistence.Overlay
	for _, b := range l.written {
		for _, o := range b.Overlays {
			if o.Target == target {
				os = append(os, o)
			}
		}
	}
	return os
}

func (r *run) same(t *rapid.T, what string, got, want any) {
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		t.Fatalf("%s: %s, not %s", what, g, w)
	}
}

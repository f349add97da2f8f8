// Package storetest is what every persistence.Store must pass. Each case is
// named for what it checks.
package storetest

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// Maker makes the stores of a suite.
type Maker struct {
	// Open returns a new, empty store, and closes it when t ends. now is its
	// clock, where it has one.
	Open func(t testing.TB, now func() time.Time) persistence.Store
	// Reopen takes a store of Open's away as a crash does, and returns what is
	// there afterwards. Nil: that can't be done.
	Reopen func(t testing.TB, s persistence.Store) persistence.Store
	// Expires says that what expires goes by the clock given to Open.
	Expires bool
}

// Run runs the suite.
func Run(t *testing.T, m Maker) {
	cases := []struct {
		name string
		run  func(*testing.T, *env)
	}{
		{"Durable", durable},
		{"OneWriter", oneWriter},
		{"OneWriterRepeats", repeats},
		{"OrderRead", orderRead},
		{"OrderHeads", orderHeads},
		{"OrderIDsAreApart", idsAreApart},
		{"OnceKnown", onceKnown},
		{"OnceForSevenDays", onceForSevenDays},
		{"OnceRecent", onceRecent},
		{"PrivateRetracted", retracted},
		{"PrivateTargets", targets},
		{"PrivateBlocks", blocks},
		{"PrivateMemberships", memberships},
		{"LoadSnapshot", snapshot},
		{"ForwardDevice", forwardDevice},
		{"ForwardMembers", forwardMembers},
		{"ForwardSince", forwardSince},
		{"NoLossMarks", marks},
		{"NoLossOutbox", outbox},
		{"Settings", settings},
		{"Accounts", accounts},
		{"AccountsOneAtATime", accountsOneAtATime},
		{"AccountsDevices", devices},
		{"AccountsRevoked", revoked},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(t, newEnv(t, m)) })
	}
	t.Run("Model", func(t *testing.T) { Model(t, m) })
}

// env is one store under test.
type env struct {
	testing.TB
	persistence.Store
	maker Maker
	now   time.Time
	ctx   context.Context
	ids   uint64
}

func newEnv(t testing.TB, m Maker) *env {
	e := &env{TB: t, maker: m, now: time.UnixMilli(1_790_000_000_123), ctx: context.Background()}
	e.Store = m.Open(t, func() time.Time { return e.now })
	return e
}

func (e *env) ms() int64 { return e.now.UnixMilli() }

// must fails the case on an error.
func (e *env) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

func must[T any](e *env) func(T, error) T {
	return func(v T, err error) T {
		e.Helper()
		e.must(err)
		return v
	}
}

// wait returns the outcome of a write.
func wait(write func(persistence.Done)) error {
	answer := make(chan error, 1)
	write(func(err error) { answer <- err })
	return <-answer
}

func (e *env) append(b *persistence.Batch) error {
	return wait(func(d persistence.Done) { e.Append(b, d) })
}

func (e *env) reopen() {
	e.Helper()
	if e.maker.Reopen != nil {
		e.Store = e.maker.Reopen(e.TB, e.Store)
	}
}

const (
	ana = messages.UserID("ana")
	bo  = messages.UserID("bo")
	cy  = messages.UserID("cy")
)

var direct = messages.Direct(ana, bo)

// log builds the batches of one conversation, with right counts.
type log struct {
	e    *env
	c    messages.ConversationID
	head persistence.Head
}

func (e *env) log(c messages.ConversationID) *log { return &log{e: e, c: c} }

// batch makes the next batch of entries. Each has an author; its seq and time
// are filled in, and what a store is to note of it.
func (l *log) batch(entries ...*messages.Entry) *persistence.Batch {
	l.e.ids++
	b := &persistence.Batch{Conversation: l.c, ExpectHead: l.head.Seq}
	b.ID = [16]byte{byte(l.e.ids >> 8), byte(l.e.ids), 1}
	h := l.head
	for _, e := range entries {
		h = l.add(b, h, e)
	}
	return b
}

func (l *log) add(b *persistence.Batch, h persistence.Head, e *messages.Entry) persistence.Head {
	h.Seq, h.At = h.Seq+1, max(h.At, l.e.ms())
	if e.GetText() != nil || e.GetMedia() != nil {
		h.Countable++
	}
	if e.GetEvent() != nil {
		h.StateSeq = h.Seq
	}
	e.Conversation, e.Seq, e.At = string(l.c), uint64(h.Seq), h.At
	if e.ClientId != "" {
		b.Dedup = append(b.Dedup, persistence.Dedup{
			Author: messages.UserID(e.From), ClientID: messages.ClientID(e.ClientId),
			Seq: h.Seq, Hash: uint64(h.Seq) * 7, At: h.At,
		})
	}
	if edit := e.GetEdit(); edit != nil {
		b.Overlays = append(b.Overlays, persistence.Overlay{Target: messages.Seq(edit.Seq), Seq: h.Seq, At: h.At, Body: edit.Body})
	}
	if r := e.GetRetract(); r != nil {
		b.Overlays = append(b.Overlays, persistence.Overlay{Target: messages.Seq(r.Seq), Seq: h.Seq, At: h.At, Retract: true})
	}
	b.Rows = append(b.Rows, persistence.Row{Seq: h.Seq, At: h.At, Entry: encode(e), Countable: h.Countable, StateSeq: h.StateSeq})
	return h
}

// wrote notes that b is the end of the log.
func (l *log) wrote(b *persistence.Batch) {
	r := b.Rows[len(b.Rows)-1]
	l.head = persistence.Head{Seq: r.Seq, At: r.At, Countable: r.Countable, StateSeq: r.StateSeq}
}

// append appends entries and returns their batch.
func (l *log) append(entries ...*messages.Entry) *persistence.Batch {
	l.e.Helper()
	b := l.batch(entries...)
	l.write(b)
	return b
}

func (l *log) write(b *persistence.Batch) {
	l.e.Helper()
	l.e.must(l.e.append(b))
	l.wrote(b)
}

func encode(e *messages.Entry) []byte {
	b, err := proto.Marshal(e)
	if err != nil {
		panic(err)
	}
	return b
}

func text(from messages.UserID, id, body string) *messages.Entry {
	return &messages.Entry{From: string(from), ClientId: id, Kind: &messages.Entry_Text{Text: &messages.Text{Body: body}}}
}

func media(from messages.UserID, id, caption string) *messages.Entry {
	return &messages.Entry{From: string(from), ClientId: id, Kind: &messages.Entry_Media{Media: &messages.Media{Media: "m1", Caption: caption}}}
}

func edit(from messages.UserID, id string, seq uint64, body string) *messages.Entry {
	return &messages.Entry{From: string(from), ClientId: id, Kind: &messages.Entry_Edit{Edit: &messages.Edit{Seq: seq, Body: body}}}
}

func retract(from messages.UserID, id string, seq uint64) *messages.Entry {
	return &messages.Entry{From: string(from), ClientId: id, Kind: &messages.Entry_Retract{Retract: &messages.Retract{Seq: seq}}}
}

func reaction(from messages.UserID, id string, seq uint64) *messages.Entry {
	return &messages.Entry{From: string(from), ClientId: id, Kind: &messages.Entry_Reaction{Reaction: &messages.Reaction{Seq: seq, Emoji: "+"}}}
}

func event(kind string, by messages.UserID) *messages.Entry {
	return &messages.Entry{From: string(by), Kind: &messages.Entry_Event{Event: &messages.Event{Kind: kind, By: string(by)}}}
}

// read returns the entries of r as they are served.
func (l *log) read(r persistence.Range) []*messages.Entry {
	l.e.Helper()
	rows := must[[]persistence.Row](l.e)(l.e.Read(l.e.ctx, l.c, r))
	entries := make([]*messages.Entry, len(rows))
	for i, row := range rows {
		entries[i] = &messages.Entry{}
		l.e.must(proto.Unmarshal(row.Entry, entries[i]))
		if messages.Seq(entries[i].Seq) != row.Seq || entries[i].At != row.At {
			l.e.Fatalf("row %d at %d holds entry %d at %d", row.Seq, row.At, entries[i].Seq, entries[i].At)
		}
	}
	return entries
}

func (l *log) seqs(r persistence.Range) []uint64 {
	l.e.Helper()
	var seqs []uint64
	for _, e := range l.read(r) {
		seqs = append(seqs, e.Seq)
	}
	return seqs
}

// bodies returns what texts, captions and edits say now.
func (l *log) bodies() []string {
	l.e.Helper()
	var bodies []string
	for _, e := range l.read(persistence.Range{}) {
		bodies = append(bodies, e.GetText().GetBody()+e.GetMedia().GetCaption()+e.GetEdit().GetBody())
	}
	return bodies
}

func (l *log) know(q persistence.Query) persistence.Answer {
	l.e.Helper()
	return must[persistence.Answer](l.e)(l.e.Know(l.e.ctx, l.c, q))
}

func (e *env) equal(got, want any) {
	e.Helper()
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		e.Errorf("is   %s\nnot  %s", g, w)
	}
}

// sound checks the whole store, where that can be.
func (e *env) sound() {
	e.Helper()
	if w, ok := e.Store.(persistence.Walker); ok {
		r := must[persistence.Report](e)(persistence.Verify(e.ctx, w))
		for _, f := range r.Findings {
			e.Error(f)
		}
	}
}

// ---------------------------------------------------------------- logs

func durable(t *testing.T, e *env) {
	l := e.log(direct)
	b := l.batch(text(ana, "c1", "one"), text(bo, "c1", "two"))
	b.Memberships = []persistence.Membership{{User: ana, Conversation: direct, Joined: 1, From: 1}}
	b.Marks = []persistence.Mark{{User: bo, Day: 100, Conversation: direct}}
	b.Snapshot = []byte("state")
	b.Outbox = true
	l.write(b)
	e.reopen()
	head, state, err := e.Load(e.ctx, direct)
	e.must(err)
	e.equal(head, persistence.Head{Seq: 2, At: e.ms(), Countable: 2})
	e.equal(string(state), "state")
	e.equal(l.bodies(), []string{"one", "two"})
	e.equal(len(must[[]persistence.Membership](e)(e.Memberships(e.ctx, ana))), 1)
	e.equal(must[[]messages.ConversationID](e)(e.Marked(e.ctx, bo, 0)), []messages.ConversationID{direct})
	e.equal(len(must[[]persistence.Pending](e)(e.PendingHooks(e.ctx, nil, 10))), 1)
	e.equal(l.know(persistence.Query{IDs: []persistence.AuthorID{{Author: bo, ClientID: "c1"}}}).IDs[0].Seq, 2)
	l.append(text(ana, "c2", "three"))
	e.sound()
}

// Of many that append at one place, one succeeds, and the log is its.
func oneWriter(t *testing.T, e *env) {
	l := e.log(direct)
	for round := range 20 {
		won := make(chan string, 8)
		batches := make([]*persistence.Batch, 8)
		for i := range batches {
			batches[i] = l.batch(text(ana, fmt.Sprint("c", round, "-", i), fmt.Sprint(round, "-", i)))
		}
		errs := make(chan error, 8)
		for i, b := range batches {
			go e.Append(b, func(err error) {
				if err == nil {
					won <- fmt.Sprint(round, "-", i)
				} else if err != persistence.ErrConflict {
					t.Error(err)
				}
				errs <- err
			})
		}
		for range batches {
			<-errs
		}
		e.equal(len(won), 1)
		l.wrote(batches[0])
		e.equal(l.bodies()[round], <-won)
	}
	e.sound()
}

// A batch that was written is told apart from one that was not, by its id
// alone, also when the log has gone on.
func repeats(t *testing.T, e *env) {
	l := e.log(direct)
	first := l.batch(text(ana, "c1", "one"), text(ana, "c2", "two"))
	rival := l.batch(text(ana, "c1", "one"), text(ana, "c2", "two"))
	l.write(first)
	e.equal(e.append(first), nil)
	e.equal(e.append(rival), persistence.ErrConflict)
	l.append(text(bo, "c1", "three"))
	e.reopen()
	e.equal(e.append(first), nil)
	e.equal(e.append(rival), persistence.ErrConflict)
	early := l.batch(text(ana, "c3", "four"))
	early.ExpectHead, early.Rows[0].Seq = 9, 10
	e.equal(e.append(early), persistence.ErrConflict)
	e.equal(l.bodies(), []string{"one", "two", "three"})

	// Issued twice at once: both are the same append.
	twice := l.batch(text(ana, "c4", "five"))
	answers := make(chan error, 2)
	for range 2 {
		e.Append(twice, func(err error) { answers <- err })
	}
	e.must(<-answers)
	e.must(<-answers)
	l.wrote(twice)
	e.equal(l.bodies(), []string{"one", "two", "three", "five"})
	e.sound()
}

func orderRead(t *testing.T, e *env) {
	l := e.log(direct)
	for i := range 10 {
		l.append(text(ana, fmt.Sprint(i), "12345678"))
	}
	size := len(l.batch(text(ana, "0", "12345678")).Rows[0].Entry)
	for _, c := range []struct {
		r    persistence.Range
		want []uint64
	}{
		{persistence.Range{}, []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
		{persistence.Range{Limit: 3}, []uint64{1, 2, 3}},
		{persistence.Range{After: 4, Limit: 3}, []uint64{5, 6, 7}},
		{persistence.Range{After: 4, UpTo: 5, Limit: 3}, []uint64{5}},
		{persistence.Range{After: 10, Limit: 3}, nil},
		{persistence.Range{After: 1 << 60, Limit: 3}, nil},
		{persistence.Range{Before: 4, Limit: 2}, []uint64{2, 3}},
		{persistence.Range{Before: 3, Limit: 9}, []uint64{1, 2}},
		{persistence.Range{Before: 1, Limit: 9}, nil},
		{persistence.Range{Before: math.MaxUint64, Limit: 2}, []uint64{9, 10}},
		{persistence.Range{Before: 9, UpTo: 6, Limit: 2}, []uint64{5, 6}},
		{persistence.Range{After: 2, Limit: 9, Bytes: 2*size + 1}, []uint64{3, 4}},
		{persistence.Range{Before: 9, Limit: 9, Bytes: 2*size + 1}, []uint64{7, 8}},
		{persistence.Range{After: 2, Limit: 9, Bytes: 1}, []uint64{3}},
	} {
		if got := l.seqs(c.r); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v, not %v", c.r, got, c.want)
		}
	}
}

func orderHeads(t *testing.T, e *env) {
	l, g := e.log(direct), e.log("g:group")
	l.append(text(ana, "1", "x"), reaction(ana, "2", 1), media(bo, "3", "y"))
	e.now = e.now.Add(time.Second)
	g.append(event("created", ana))
	g.append(text(ana, "4", "z"))
	cs := []messages.ConversationID{"g:group", "none", direct}
	e.equal(must[[]persistence.Head](e)(e.Heads(e.ctx, cs)), []persistence.Head{
		{Seq: 2, At: e.ms(), Countable: 1, StateSeq: 1}, {}, {Seq: 3, At: e.ms() - 1000, Countable: 2},
	})
	head, state, err := e.Load(e.ctx, "none")
	e.must(err)
	e.equal(head, persistence.Head{})
	e.equal(state == nil, true)
	e.sound()
}

// No id, whatever it begins or ends with, is taken for another.
func idsAreApart(t *testing.T, e *env) {
	cs := []messages.ConversationID{"g:a", "g:ab", "g:a:", "g:a~", "G:a", "g", "g:a\x00", "g:a\x00\x00\x00\x00\x00\x00\x00\x00\x01"}
	for i, c := range cs {
		l := e.log(c)
		for j := range i + 1 {
			l.append(text(ana, fmt.Sprint(j), string(c)))
		}
	}
	for i, c := range cs {
		l := e.log(c)
		bodies := l.bodies()
		e.equal(len(bodies), i+1)
		e.equal(bodies[0], string(c))
		ids, _, err := e.Recent(e.ctx, c, 100)
		e.must(err)
		e.equal(len(ids), i+1)
	}
	for _, u := range []messages.UserID{"a", "a.", "aa"} {
		e.must(e.SetBlock(e.ctx, u, u+"x", true))
		e.must(wait(func(d persistence.Done) { e.Mark([]persistence.Mark{{User: u, Day: 5, Conversation: "c"}}, d) }))
	}
	e.equal(must[[]messages.UserID](e)(e.Blocks(e.ctx, "a")), []messages.UserID{"ax"})
	e.equal(len(must[[]messages.ConversationID](e)(e.Marked(e.ctx, "a", 0))), 1)
}

func onceKnown(t *testing.T, e *env) {
	l := e.log(direct)
	l.append(text(ana, "c1", "one"), text(bo, "c2", "two"))
	e.reopen()
	ids := []persistence.AuthorID{
		{Author: bo, ClientID: "c2"}, {Author: ana, ClientID: "c2"}, {Author: ana, ClientID: "c1"}, {Author: "an", ClientID: "ac1"},
	}
	e.equal(l.know(persistence.Query{IDs: ids}).IDs, []persistence.Dedup{
		{Author: bo, ClientID: "c2", Seq: 2, Hash: 14, At: e.ms()},
		{Author: ana, ClientID: "c2"},
		{Author: ana, ClientID: "c1", Seq: 1, Hash: 7, At: e.ms()},
		{Author: "an", ClientID: "ac1"},
	})
	other := e.log("g:other")
	e.equal(other.know(persistence.Query{IDs: ids[:1]}).IDs[0].Seq, 0)
}

// An id is known for at least messages.DedupFor, whenever it was used and
// whatever was deleted meanwhile, and can be used again afterwards.
func onceForSevenDays(t *testing.T, e *env) {
	if !e.maker.Expires {
		return
	}
	l := e.log(direct)
	id := []persistence.AuthorID{{Author: ana, ClientID: "c1"}}
	for use := range 12 {
		l.append(text(ana, "c1", "again"))
		used := e.now
		for _, age := range []time.Duration{0, time.Hour, messages.DedupFor - time.Hour, messages.DedupFor} {
			e.now = used.Add(age)
			e.expire()
			e.equal(l.know(persistence.Query{IDs: id}).IDs[0].Seq, messages.Seq(use+1))
			ids, _, err := e.Recent(e.ctx, direct, 10)
			e.must(err)
			e.equal(len(ids), 1)
		}
		e.now = used.Add(messages.DedupFor + time.Millisecond)
		e.equal(l.know(persistence.Query{IDs: id}).IDs[0].Seq, 0)
		e.now = e.now.Add(time.Duration(use) * time.Hour)
	}
	// A clock that was set back by some hours forgets nothing.
	e.now = e.now.Add(-23 * time.Hour)
	l.head.At = 0
	l.append(text(bo, "c2", "x"))
	e.now = e.now.Add(-23 * time.Hour)
	e.equal(l.know(persistence.Query{IDs: []persistence.AuthorID{{Author: bo, ClientID: "c2"}}}).IDs[0].Seq, 13)
}

// expire deletes what is kept no longer, where the store does so when told.
func (e *env) expire() {
	e.Helper()
	if s, ok := e.Store.(interface {
		Expire(context.Context, time.Time) error
	}); ok {
		e.must(s.Expire(e.ctx, e.now))
	}
}

func onceRecent(t *testing.T, e *env) {
	l := e.log(direct)
	for i := range 10 {
		l.append(text(ana, fmt.Sprint(i), "x"))
	}
	ids, all, err := e.Recent(e.ctx, direct, 10)
	e.must(err)
	e.equal(all, true)
	slices.SortFunc(ids, func(a, b persistence.Dedup) int { return int(a.Seq) - int(b.Seq) })
	e.equal(len(ids), 10)
	e.equal(ids[3], persistence.Dedup{Author: ana, ClientID: "3", Seq: 4, Hash: 28, At: e.ms()})
	_, all, err = e.Recent(e.ctx, direct, 9)
	e.must(err)
	e.equal(all, false)
}

func retracted(t *testing.T, e *env) {
	l := e.log(direct)
	l.append(text(ana, "1", "one"), media(bo, "2", "two"), text(ana, "3", "three"), reaction(bo, "4", 1))
	e.equal(l.bodies(), []string{"one", "two", "three", ""})
	l.append(edit(ana, "5", 1, "uno"))
	e.now = e.now.Add(time.Second)
	l.append(edit(ana, "6", 1, "eins"), edit(bo, "7", 2, "zwei"))
	e.equal(l.bodies(), []string{"eins", "zwei", "three", "", "uno", "eins", "zwei"})
	e.equal(l.read(persistence.Range{})[0].EditedAt, e.ms())
	l.append(retract(ana, "8", 1), retract(ana, "9", 3))
	e.reopen()
	e.equal(l.bodies(), []string{"", "zwei", "", "", "", "", "zwei", "", ""})
	entries := l.read(persistence.Range{})
	e.equal([]int64{entries[0].RetractedAt, entries[2].RetractedAt, entries[4].RetractedAt}, []int64{e.ms(), e.ms(), e.ms()})
	e.equal(entries[3].RetractedAt, 0)
	e.equal(l.read(persistence.Range{After: 4, Limit: 1})[0].GetEdit().GetBody(), "")
	e.equal(l.read(persistence.Range{Before: 2, Limit: 1})[0].RetractedAt, e.ms())
	e.sound()
}

func targets(t *testing.T, e *env) {
	l := e.log(direct)
	l.append(text(ana, "1", "one"), media(bo, "2", "two"), reaction(bo, "3", 1), text(bo, "4", "x"), edit(bo, "5", 4, "y"), retract(bo, "6", 2))
	q := persistence.Query{Targets: []messages.Seq{4, 2, 3, 9, 1}}
	e.equal(l.know(q).Targets, []persistence.Target{
		{Seq: 4, Author: bo, At: e.ms(), Countable: true},
		{Seq: 2, Author: bo, At: e.ms(), Countable: true, Retracted: true},
		{Seq: 3, Author: bo, At: e.ms()},
		{},
		{Seq: 1, Author: ana, At: e.ms(), Countable: true},
	})
}

func blocks(t *testing.T, e *env) {
	l := e.log(direct)
	ask := func() bool { return l.know(persistence.Query{Blocks: true}).Blocked }
	e.equal(ask(), false)
	e.must(e.SetBlock(e.ctx, bo, ana, true))
	e.must(e.SetBlock(e.ctx, bo, cy, true))
	e.equal(ask(), true)
	e.equal(e.Unblocked(direct), false)
	e.equal(must[bool](e)(e.Blocked(e.ctx, ana, bo)), true)
	e.equal(must[bool](e)(e.Blocked(e.ctx, ana, cy)), false)
	e.equal(must[[]messages.UserID](e)(e.Blocks(e.ctx, bo)), []messages.UserID{ana, cy})
	e.equal(len(must[[]messages.UserID](e)(e.Blocks(e.ctx, ana))), 0)
	e.reopen()
	e.equal(ask(), true)
	e.equal(e.Unblocked(direct), false)
	e.must(e.SetBlock(e.ctx, bo, ana, false))
	e.equal(ask(), false)
	e.equal(l.know(persistence.Query{}).Blocked, false)
}

func memberships(t *testing.T, e *env) {
	g, h := e.log("g:g"), e.log("g:a")
	b := g.batch(event("created", ana))
	b.Memberships = []persistence.Membership{{User: bo, Conversation: "g:g", Joined: 1, From: 1}}
	g.write(b)
	b = g.batch(text(bo, "1", "x"), event("removed", ana))
	b.Memberships = []persistence.Membership{{User: bo, Conversation: "g:g", Joined: 1, From: 1, Ended: 3}}
	g.write(b)
	b = g.batch(event("added", ana))
	b.Memberships = []persistence.Membership{{User: bo, Conversation: "g:g", Joined: 4, From: 4, Unmarked: true}}
	g.write(b)
	b = h.batch(event("created", bo))
	b.Memberships = []persistence.Membership{{User: bo, Conversation: "g:a", Joined: 1, From: 1}}
	h.write(b)
	e.reopen()
	want := []persistence.Membership{
		{User: bo, Conversation: "g:a", Joined: 1, From: 1},
		{User: bo, Conversation: "g:g", Joined: 1, From: 1, Ended: 3},
		{User: bo, Conversation: "g:g", Joined: 4, From: 4, Unmarked: true},
	}
	e.equal(must[[]persistence.Membership](e)(e.Memberships(e.ctx, bo)), want)
	e.equal(must[[]persistence.Membership](e)(e.Membership(e.ctx, bo, "g:g")), want[1:])
	e.equal(len(must[[]persistence.Membership](e)(e.Memberships(e.ctx, "b"))), 0)
}

func snapshot(t *testing.T, e *env) {
	g := e.log("g:g")
	for i := range 5 {
		b := g.batch(event("renamed", ana))
		b.Snapshot = fmt.Append(nil, "state ", i)
		g.write(b)
		g.append(text(ana, fmt.Sprint(i), "x"))
	}
	e.reopen()
	head, state, err := e.Load(e.ctx, "g:g")
	e.must(err)
	e.equal(head.Seq, 10)
	e.equal(head.StateSeq, 9)
	e.equal(string(state), "state 4")
}

// ---------------------------------------------------------------- cursors

func (e *env) saveDevice(d persistence.DeviceKey, caughtUp int64, ps ...persistence.Position) {
	e.Helper()
	e.must(wait(func(done persistence.Done) { e.SaveDevice(d, ps, caughtUp, done) }))
}

func forwardDevice(t *testing.T, e *env) {
	d, newer := persistence.DeviceKey{User: ana, Incarnation: 1}, persistence.DeviceKey{User: ana, Incarnation: 2}
	cs := []messages.ConversationID{"c2", "none", "c1"}
	at := func(d persistence.DeviceKey) []messages.Seq {
		return must[[]messages.Seq](e)(e.DevicePositions(e.ctx, d, cs))
	}
	e.saveDevice(d, 0, persistence.Position{Conversation: "c1", Seq: 5}, persistence.Position{Conversation: "c2", Seq: 7})
	e.saveDevice(newer, 0, persistence.Position{Conversation: "c1", Seq: 1})
	e.equal(must[int64](e)(e.CaughtUp(e.ctx, d)), 0)
	e.saveDevice(d, 99, persistence.Position{Conversation: "c1", Seq: 4}, persistence.Position{Conversation: "c1", Seq: 6}, persistence.Position{Conversation: "c1", Seq: 2})
	e.reopen()
	e.equal(at(d), []messages.Seq{7, 0, 6})
	e.equal(must[int64](e)(e.CaughtUp(e.ctx, d)), 99)
	e.saveDevice(d, 98)
	e.equal(must[int64](e)(e.CaughtUp(e.ctx, d)), 98)
	e.must(wait(func(done persistence.Done) { e.ForgetDevice(d, done) }))
	e.equal(at(d), []messages.Seq{0, 0, 0})
	e.equal(must[int64](e)(e.CaughtUp(e.ctx, d)), 0)
	e.equal(at(newer), []messages.Seq{0, 0, 1})
}

func (e *env) saveMembers(c messages.ConversationID, ms ...persistence.MemberCursor) {
	e.Helper()
	e.must(wait(func(d persistence.Done) { e.SaveMembers(c, ms, e.ms(), d) }))
}

func forwardMembers(t *testing.T, e *env) {
	e.saveMembers(direct, persistence.MemberCursor{User: ana, Delivered: 5, Read: 3}, persistence.MemberCursor{User: bo, Delivered: 2})
	e.saveMembers(direct, persistence.MemberCursor{User: ana, Delivered: 4, Read: 4}, persistence.MemberCursor{User: ana, Delivered: 6, Read: 1})
	e.reopen()
	e.equal(must[[]persistence.MemberCursor](e)(e.MemberCursors(e.ctx, direct, []messages.UserID{bo, cy, ana})), []persistence.MemberCursor{
		{User: bo, Delivered: 2}, {User: cy}, {User: ana, Delivered: 6, Read: 4},
	})
	e.equal(must[[]persistence.MemberCursor](e)(e.MemberCursors(e.ctx, "g:g", []messages.UserID{ana})), []persistence.MemberCursor{{User: ana}})
}

func forwardSince(t *testing.T, e *env) {
	start := e.now.Truncate(time.Second)
	for i := range 40 {
		e.now = start.Add(time.Duration(i) * 400 * time.Millisecond)
		m := persistence.MemberCursor{User: ana, Delivered: messages.Seq(10 * (i + 1))}
		if i == 20 {
			m.Read = 50
		}
		e.saveMembers(direct, m)
	}
	e.reopen()
	since := func(seq messages.Seq) persistence.Since {
		return must[[]persistence.Since](e)(e.Since(e.ctx, direct, seq, []messages.UserID{cy, ana}))[1]
	}
	for seq := messages.Seq(1); seq <= 400; seq += 7 {
		want := persistence.Since{Delivered: start.Add(time.Duration((seq-1)/10) * 400 * time.Millisecond).Truncate(time.Second).UnixMilli()}
		if seq <= 50 {
			want.Read = start.Add(8 * time.Second).UnixMilli()
		}
		e.equal(since(seq), want)
	}
	e.equal(since(401), persistence.Since{})
	e.now = e.now.Add(messages.KeepMoves - time.Hour)
	e.expire()
	e.equal(since(391).Delivered > 0, true)
	// A second that was set back is not before the one before it.
	e.now = start
	e.saveMembers(direct, persistence.MemberCursor{User: ana, Delivered: 410})
	e.equal(since(405).Delivered, start.Add(15*time.Second).UnixMilli())
	if e.maker.Expires {
		e.now = e.now.Add(100 * 24 * time.Hour)
		e.expire()
		e.equal(since(1), persistence.Since{})
		e.saveMembers(direct, persistence.MemberCursor{User: ana, Delivered: 500})
		e.equal(since(1), persistence.Since{})
		e.equal(since(450), persistence.Since{Delivered: e.now.Truncate(time.Second).UnixMilli()})
	}
}

// ---------------------------------------------------------------- memberships

func marks(t *testing.T, e *env) {
	today := e.ms() / (24 * time.Hour).Milliseconds()
	mark := func(u messages.UserID, day int64, c messages.ConversationID) persistence.Mark {
		return persistence.Mark{User: u, Day: day, Conversation: c}
	}
	e.must(wait(func(d persistence.Done) {
		e.Mark([]persistence.Mark{mark(ana, today, "c1"), mark(ana, today-3, "c2"), mark(bo, today-1, "c4")}, d)
	}))
	l := e.log("c3")
	b := l.batch(text(ana, "1", "x"))
	b.Marks = []persistence.Mark{mark(ana, today+1, "c3"), mark(ana, today-3, "c1")}
	l.write(b)
	e.reopen()
	marked := func(since int64) []messages.ConversationID {
		cs := must[[]messages.ConversationID](e)(e.Marked(e.ctx, ana, since))
		slices.Sort(cs)
		return cs
	}
	e.equal(marked(0), []messages.ConversationID{"c1", "c2", "c3"})
	e.equal(marked(today-3), []messages.ConversationID{"c1", "c2", "c3"})
	e.equal(marked(today-2), []messages.ConversationID{"c1", "c3"})
	e.equal(marked(today+1), []messages.ConversationID{"c3"})
	e.equal(len(marked(today+2)), 0)
	e.now = e.now.Add(29 * 24 * time.Hour)
	e.expire()
	e.equal(marked(today-1), []messages.ConversationID{"c1", "c3"})
}

func outbox(t *testing.T, e *env) {
	for _, c := range []messages.ConversationID{"c1", "c2"} {
		l := e.log(c)
		for i := range 4 {
			b := l.batch(text(ana, fmt.Sprint(i, "a"), "x"), text(ana, fmt.Sprint(i, "b"), "y"))
			b.Outbox = i != 1
			l.write(b)
		}
	}
	e.reopen()
	seen := make(map[persistence.Pending]bool)
	var after *persistence.Pending
	for page := must[[]persistence.Pending](e)(e.PendingHooks(e.ctx, nil, 2)); len(page) > 0; page = must[[]persistence.Pending](e)(e.PendingHooks(e.ctx, after, 2)) {
		for _, p := range page {
			e.equal(seen[p], false)
			seen[p] = true
		}
		after = &page[len(page)-1]
	}
	e.equal(len(seen), 6)
	done := persistence.Pending{Conversation: "c1", First: 5, Last: 6}
	e.equal(seen[done], true)
	e.must(wait(func(d persistence.Done) { e.HookDone(done, d) }))
	e.reopen()
	left := must[[]persistence.Pending](e)(e.PendingHooks(e.ctx, nil, 10))
	e.equal(len(left), 5)
	e.equal(slices.Contains(left, done), false)
}

func settings(t *testing.T, e *env) {
	save := func(c messages.ConversationID, s persistence.Settings) {
		e.must(wait(func(d persistence.Done) { e.SaveSettings(ana, c, s, d) }))
	}
	save("c1", persistence.Settings{Muted: true, Cleared: 9})
	save("c2", persistence.Settings{Archived: true, Pinned: true})
	save("c1", persistence.Settings{Pinned: true, Cleared: 4})
	e.reopen()
	e.equal(must[[]persistence.Settings](e)(e.Settings(e.ctx, ana, []messages.ConversationID{"c2", "none", "c1"})), []persistence.Settings{
		{Archived: true, Pinned: true}, {}, {Pinned: true, Cleared: 9},
	})
	e.equal(must[[]persistence.Settings](e)(e.Settings(e.ctx, bo, []messages.ConversationID{"c1"})), []persistence.Settings{{}})
}

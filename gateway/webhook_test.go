package gateway

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
	"github.com/troupe-chat/troupe/persistence/pebble"
)

const (
	anaAndBo   = messages.ConversationID("d:ana~bo")
	hookSecret = "a secret of the operator"
	hookTime   = 1_790_000_000
	theBody    = "words that no webhook may see"
)

// quick is a pace at which tests need not wait.
var quick = hookPace{
	appends: 8, posts: 2, least: time.Millisecond, most: 4 * time.Millisecond,
	rescan: time.Millisecond, recheck: time.Hour, pageSize: 2,
}

// hookWorld is a store with some users, an endpoint, and hooks between them.
type hookWorld struct {
	*testing.T
	dir   string
	store *notingStore
	heads map[messages.ConversationID]messages.Seq

	mu        sync.Mutex
	connected map[messages.UserID]bool // guarded by mu
	answer    func(*http.Request) int  // guarded by mu; the endpoint's status
	calls     []hookCall               // guarded by mu
	arrived   chan hookCall            // every call that was answered with 2xx
	endpoint  *httptest.Server
}

// hookCall is one call of the endpoint.
type hookCall struct {
	header http.Header
	body   string
	post   struct {
		ID      string
		Entries []hookEntry
	}
}

// notingStore tells of notes that are gone for good, and fails when it is told
// to.
type notingStore struct {
	*pebble.Store
	gone      chan persistence.Pending
	failReads atomic.Int32 // so many calls of Settings fail
	failDones atomic.Int32 // and of HookDone
}

func (s *notingStore) Settings(ctx context.Context, u messages.UserID, cs []messages.ConversationID) ([]persistence.Settings, error) {
	if s.failReads.Add(-1) >= 0 {
		return nil, persistence.ErrUnavailable
	}
	return s.Store.Settings(ctx, u, cs)
}

func (s *notingStore) HookDone(p persistence.Pending, done persistence.Done) {
	if s.failDones.Add(-1) >= 0 {
		done(persistence.ErrUnavailable)
		return
	}
	s.Store.HookDone(p, func(err error) {
		done(err)
		if err == nil {
			s.gone <- p
		}
	})
}

func newHookWorld(t *testing.T) *hookWorld {
	w := &hookWorld{
		T: t, dir: t.TempDir(), heads: map[messages.ConversationID]messages.Seq{},
		connected: map[messages.UserID]bool{}, arrived: make(chan hookCall, 1000),
	}
	w.open()
	t.Cleanup(func() { w.store.Close() })
	w.endpoint = httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(w.endpoint.Close)
	for _, u := range []messages.UserID{"ana", "bo"} {
		w.user(u)
	}
	return w
}

func (w *hookWorld) open() {
	w.Helper()
	store, err := pebble.Open(w.dir, pebble.Options{Logger: slog.New(slog.DiscardHandler)})
	w.check(err)
	w.store = &notingStore{Store: store, gone: make(chan persistence.Pending, 1000)}
}

func (w *hookWorld) reopen() {
	w.Helper()
	w.check(w.store.Close())
	w.open()
}

func (w *hookWorld) check(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *hookWorld) user(u messages.UserID) {
	w.check(w.store.CreateAccount(context.Background(), persistence.Account{User: u}))
}

func (w *hookWorld) hook(pace hookPace) *Hook {
	h := newHook(HookConfig{
		URL: w.endpoint.URL + "/push?token=hidden", Secret: []byte(hookSecret), Store: w.store, Connected: w.isConnected,
		Now: func() time.Time { return time.Unix(hookTime, 0) }, Logger: slog.New(slog.DiscardHandler),
	}, pace)
	w.Cleanup(h.Close)
	return h
}

func (w *hookWorld) isConnected(u messages.UserID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.connected[u]
}

func (w *hookWorld) connect(u messages.UserID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.connected[u] = true
}

// answers sets what the endpoint does from now on; nil: it takes everything.
func (w *hookWorld) answers(f func(*http.Request) int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = f
}

func (w *hookWorld) serve(rw http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c := hookCall{header: r.Header, body: string(body)}
	_ = json.Unmarshal(body, &c.post)
	w.mu.Lock()
	w.calls = append(w.calls, c)
	answer := w.answer
	w.mu.Unlock()
	status := http.StatusNoContent
	if answer != nil {
		status = answer(r)
	}
	if status/100 == 2 {
		w.arrived <- c
	}
	rw.WriteHeader(status)
}

func (w *hookWorld) called() []hookCall {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.calls)
}

// append appends entries to c as an actor does, noted in the outbox, and
// returns them.
func (w *hookWorld) append(c messages.ConversationID, entries []*messages.Entry, ms ...persistence.Membership) []*messages.Entry {
	w.Helper()
	head := w.heads[c]
	b := &persistence.Batch{Conversation: c, ExpectHead: head, Outbox: true, Memberships: ms}
	copy(b.ID[:], fmt.Sprint(c[max(0, len(c)-8):], head))
	for i, e := range entries {
		e.Conversation, e.Seq, e.At = string(c), uint64(head)+uint64(i)+1, hookTime*1000
		encoded, err := proto.Marshal(e)
		w.check(err)
		b.Rows = append(b.Rows, persistence.Row{Seq: messages.Seq(e.Seq), At: e.At, Entry: encoded})
		if r := e.GetRetract(); r != nil {
			b.Overlays = append(b.Overlays, persistence.Overlay{Target: messages.Seq(r.Seq), Seq: messages.Seq(e.Seq), At: e.At, Retract: true})
		}
		if e.GetEvent() != nil {
			b.Snapshot = w.snapshot(messages.Seq(e.Seq), ms)
		}
	}
	w.heads[c] = messages.Seq(entries[len(entries)-1].Seq)
	done := make(chan error, 1)
	w.store.Append(b, func(err error) { done <- err })
	w.check(<-done)
	return entries
}

// snapshot is that of a group whose members are those of ms that did not go.
func (w *hookWorld) snapshot(at messages.Seq, ms []persistence.Membership) []byte {
	s := &messages.Snapshot{StateSeq: uint64(at)}
	for _, m := range ms {
		if m.Ended == 0 {
			s.Members = append(s.Members, &messages.SnapshotMember{User: string(m.User), Joined: uint64(m.Joined)})
		}
	}
	encoded, err := proto.Marshal(s)
	w.check(err)
	return encoded
}

// say appends a text of ana to bo.
func (w *hookWorld) say() []*messages.Entry {
	w.Helper()
	return w.append(anaAndBo, []*messages.Entry{text("ana")}, pairOf(anaAndBo)...)
}

func pairOf(c messages.ConversationID) []persistence.Membership {
	low, high, _ := c.Pair()
	return []persistence.Membership{
		{User: low, Conversation: c, Joined: 1, From: 1}, {User: high, Conversation: c, Joined: 1, From: 1},
	}
}

func text(from string) *messages.Entry {
	return &messages.Entry{From: from, Kind: &messages.Entry_Text{Text: &messages.Text{Body: theBody}}}
}

// told waits for calls until they tell of n entries, and returns them.
func (w *hookWorld) told(n int) []hookEntry {
	var out []hookEntry
	for len(out) < n {
		out = append(out, (<-w.arrived).post.Entries...)
	}
	return out
}

// settled waits until n notes are gone, and checks that no other one is there.
func (w *hookWorld) settled(n int) {
	w.Helper()
	for range n {
		<-w.store.gone
	}
	w.pending(0)
}

func (w *hookWorld) pending(want int) {
	w.Helper()
	notes, err := w.store.PendingHooks(context.Background(), nil, 1000)
	w.check(err)
	if len(notes) != want {
		w.Fatalf("%d notes are in the outbox, want %d", len(notes), want)
	}
}

func TestHookTellsSignedAndWithoutContent(t *testing.T) {
	w := newHookWorld(t)
	h := w.hook(quick)
	h.Waiting(anaAndBo, w.say(), []messages.UserID{"ana", "bo"})
	c := <-w.arrived
	w.settled(1)

	mac := hmac.New(sha256.New, []byte(hookSecret))
	fmt.Fprintf(mac, "%d.%s", hookTime, c.body)
	want := fmt.Sprintf("t=%d,v1=%s", hookTime, hex.EncodeToString(mac.Sum(nil)))
	if got := c.header.Get("Troupe-Signature"); got != want {
		t.Errorf("Troupe-Signature: %s, want %s", got, want)
	}
	if id := c.header.Get("Troupe-Delivery"); len(id) != 32 || id != c.post.ID {
		t.Errorf("Troupe-Delivery: %q, the body has %q", id, c.post.ID)
	}
	wantBody := fmt.Sprintf(`{"id":%q,"entries":[{"user":"bo","conversation":"d:ana~bo","seq":1,"from":"ana","kind":"text","at":%d}]}`, c.post.ID, hookTime*1000)
	if c.body != wantBody {
		t.Errorf("told\n%s, want\n%s", c.body, wantBody)
	}
}

func TestHookRetriesWithOneID(t *testing.T) {
	w := newHookWorld(t)
	statuses := make(chan int, 4)
	for _, s := range []int{http.StatusInternalServerError, http.StatusFound, http.StatusTooManyRequests, http.StatusOK} {
		statuses <- s
	}
	w.answers(func(*http.Request) int {
		if len(w.store.gone) > 0 {
			t.Error("the note went before a post was taken")
		}
		return <-statuses
	})
	w.hook(quick).Waiting(anaAndBo, w.say(), []messages.UserID{"bo"})
	w.settled(1)
	calls := w.called()
	if len(calls) != 4 {
		t.Fatalf("%d calls, want 4", len(calls))
	}
	for _, c := range calls {
		if c.header.Get("Troupe-Delivery") != calls[0].header.Get("Troupe-Delivery") || c.body != calls[0].body {
			t.Error("a retry was another post")
		}
	}
}

func TestHookTellsAfterRestart(t *testing.T) {
	for _, crash := range []string{"before it was told", "while it was refused"} {
		t.Run(crash, func(t *testing.T) {
			w := newHookWorld(t)
			refused := make(chan struct{}, 1000)
			w.answers(func(*http.Request) int { refused <- struct{}{}; return http.StatusBadGateway })
			entries := w.say()
			if crash == "while it was refused" {
				h := w.hook(quick)
				h.Waiting(anaAndBo, entries, []messages.UserID{"bo"})
				<-refused
				h.Close()
			}
			w.reopen()
			w.pending(1)
			w.answers(nil)
			w.hook(quick)
			if got := w.told(1); len(got) != 1 || got[0].User != "bo" || got[0].Seq != 1 || got[0].Kind != "text" {
				t.Errorf("told %+v", got)
			}
			w.settled(1)
		})
	}
}

func TestHookOverflowLosesNothing(t *testing.T) {
	const appends = 100
	w := newHookWorld(t)
	gate := make(chan struct{})
	w.answers(func(*http.Request) int { <-gate; return http.StatusOK })
	h := w.hook(quick)
	for range appends {
		h.Waiting(anaAndBo, w.say(), []messages.UserID{"bo"})
		if held := len(h.room); held > quick.appends {
			t.Fatalf("%d appends in memory, at most %d", held, quick.appends)
		}
	}
	w.pending(appends)
	close(gate)
	seen := map[messages.Seq]bool{}
	for len(seen) < appends {
		for _, e := range w.told(1) {
			seen[e.Seq] = true
		}
	}
	w.settled(appends)
}

// Nothing is posted before a note goes, so the number of calls then is final.
func TestHookTellsNothing(t *testing.T) {
	for name, c := range map[string]struct {
		entry   *messages.Entry
		absent  []messages.UserID
		prepare func(*hookWorld)
	}{
		"nobody is absent":  {entry: text("ana"), absent: nil},
		"they have come":    {entry: text("ana"), absent: []messages.UserID{"bo"}, prepare: func(w *hookWorld) { w.connect("bo") }},
		"its author":        {entry: text("bo"), absent: []messages.UserID{"bo"}},
		"an edit":           {entry: &messages.Entry{From: "ana", Kind: &messages.Entry_Edit{Edit: &messages.Edit{Seq: 1, Body: theBody}}}, absent: []messages.UserID{"bo"}},
		"a reaction":        {entry: &messages.Entry{From: "ana", Kind: &messages.Entry_Reaction{Reaction: &messages.Reaction{Seq: 1}}}, absent: []messages.UserID{"bo"}},
		"an event":          {entry: &messages.Entry{From: "ana", Kind: &messages.Entry_Event{Event: &messages.Event{Kind: "renamed"}}}, absent: []messages.UserID{"bo"}},
		"muted":             {entry: text("ana"), absent: []messages.UserID{"bo"}, prepare: muted},
		"delivered already": {entry: text("ana"), absent: []messages.UserID{"bo"}, prepare: delivered},
		"a deleted account": {entry: text("ana"), absent: []messages.UserID{"bo"}, prepare: gone},
		"not a member":      {entry: text("ana"), absent: []messages.UserID{"cy"}, prepare: func(w *hookWorld) { w.user("cy") }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newHookWorld(t)
			if c.prepare != nil {
				c.prepare(w)
			}
			h := w.hook(quick)
			h.Waiting(anaAndBo, w.append(anaAndBo, []*messages.Entry{c.entry}, pairOf(anaAndBo)...), c.absent)
			w.settled(1)
			if calls := w.called(); len(calls) > 0 {
				t.Errorf("told %s", calls[0].body)
			}
		})
	}
}

func muted(w *hookWorld) {
	done := make(chan error, 1)
	w.store.SaveSettings("bo", anaAndBo, persistence.Settings{Muted: true}, func(err error) { done <- err })
	w.check(<-done)
}

func delivered(w *hookWorld) {
	done := make(chan error, 1)
	w.store.SaveMembers(anaAndBo, []persistence.MemberCursor{{User: "bo", Delivered: 1}}, 1, func(err error) { done <- err })
	w.check(<-done)
}

func gone(w *hookWorld) {
	w.check(w.store.UpdateAccount(context.Background(), "bo", func(a *persistence.Account) error {
		a.Deleted = true
		return nil
	}))
}

func TestHookFindsRecipientsInTheOutbox(t *testing.T) {
	const group = messages.ConversationID("g:abcdefghijklmnopqrstuvwxyz234567")
	w := newHookWorld(t)
	for _, u := range []messages.UserID{"cy", "di", "ed"} {
		w.user(u)
	}
	member := func(u messages.UserID, joined, ended messages.Seq) persistence.Membership {
		return persistence.Membership{User: u, Conversation: group, Joined: joined, From: joined, Ended: ended}
	}
	event := func(kind string, users ...string) *messages.Entry {
		return &messages.Entry{From: "ana", Kind: &messages.Entry_Event{Event: &messages.Event{Kind: kind, Users: users}}}
	}
	w.connect("cy")
	// One append: ed goes between two texts and di comes after them, and the
	// first text is taken back later.
	w.append(group, []*messages.Entry{event("created"), text("ana"), text("ana"), event("removed", "ed"), text("ana"), event("added", "di")},
		member("ana", 1, 0), member("bo", 1, 0), member("cy", 1, 0), member("ed", 1, 4), member("di", 6, 0))
	w.append(group, []*messages.Entry{{From: "ana", Kind: &messages.Entry_Retract{Retract: &messages.Retract{Seq: 2}}}})
	w.hook(quick)
	w.settled(2)
	var got []string
	for _, c := range w.called() {
		for _, e := range c.post.Entries {
			got = append(got, fmt.Sprint(e.User, " ", e.Seq))
		}
	}
	if slices.Sort(got); !slices.Equal(got, []string{"bo 3", "bo 5", "ed 3"}) {
		t.Errorf("told %q", got)
	}
}

func TestHookPostsAtMostAHundredEntries(t *testing.T) {
	w := newHookWorld(t)
	const group = messages.ConversationID("g:abcdefghijklmnopqrstuvwxyz234567")
	var users []messages.UserID
	ms := []persistence.Membership{{User: "ana", Conversation: group, Joined: 1, From: 1}}
	for i := range 120 {
		u := messages.UserID(fmt.Sprint("u", i))
		w.user(u)
		users = append(users, u)
		ms = append(ms, persistence.Membership{User: u, Conversation: group, Joined: 1, From: 1})
	}
	entries := w.append(group, []*messages.Entry{text("ana"), text("ana")}, ms...)
	w.hook(quick).Waiting(group, entries, users)
	w.settled(1)
	told := map[hookEntry]int{}
	for _, c := range w.called() {
		if len(c.post.Entries) > 100 {
			t.Errorf("a post of %d entries", len(c.post.Entries))
		}
		if strings.Contains(c.body, theBody) {
			t.Error("a post has content")
		}
		for _, e := range c.post.Entries {
			told[e]++
		}
	}
	if len(told) != 240 {
		t.Errorf("told of %d entries, want 240", len(told))
	}
}

func TestHookFollowsNoRedirectElsewhere(t *testing.T) {
	w := newHookWorld(t)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a redirect to another host was followed")
	}))
	defer elsewhere.Close()
	redirects := []string{elsewhere.URL, "/here"}
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/here" {
			w.serve(rw, r)
			return
		}
		to := redirects[0]
		redirects = redirects[1:]
		http.Redirect(rw, r, to, http.StatusTemporaryRedirect)
	}))
	defer front.Close()
	w.endpoint.URL = front.URL
	w.hook(quick).Waiting(anaAndBo, w.say(), []messages.UserID{"bo"})
	w.settled(1)
	if c := <-w.arrived; c.header.Get("Troupe-Signature") == "" || len(c.post.Entries) != 1 {
		t.Errorf("a redirect within the host lost something: %q", c.body)
	}
}

func TestHookSurvivesAFailingStore(t *testing.T) {
	w := newHookWorld(t)
	h := w.hook(quick)
	w.store.failReads.Store(3)
	h.Waiting(anaAndBo, w.say(), []messages.UserID{"bo"})
	w.settled(1)
	if n := len(w.called()); n != 1 {
		t.Errorf("told %d times, want once", n)
	}
	w.store.failDones.Store(2)
	h.Waiting(anaAndBo, w.say(), []messages.UserID{"bo"})
	w.settled(1)
	if n := len(w.called()); n != 4 { // a note that stays is told of again
		t.Errorf("told %d times, want 4", n)
	}
	if n := len(h.room); n != 0 {
		t.Errorf("%d appends are still in memory", n)
	}
}

func TestHookCloseEndsPosts(t *testing.T) {
	w := newHookWorld(t)
	begun, release := make(chan struct{}), make(chan struct{})
	w.answers(func(r *http.Request) int { close(begun); <-release; return http.StatusOK })
	h := w.hook(quick)
	h.Waiting(anaAndBo, w.say(), []messages.UserID{"bo"})
	<-begun
	h.Close()
	close(release)
	w.pending(1)
	h.Waiting(anaAndBo, w.say(), []messages.UserID{"bo"}) // an actor that ends later
	w.pending(2)
}

func TestHookPauses(t *testing.T) {
	h := &Hook{pace: defaultPace}
	for failures, most := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
		if p := h.pause(failures); p > most || p < most/2 {
			t.Errorf("after %d failures it waits for %s, want %s or up to half of it less", failures, p, most)
		}
	}
	for _, failures := range []int{9, 40, 1 << 40} {
		if p := h.pause(failures); p > 5*time.Minute || p < 150*time.Second {
			t.Errorf("after %d failures it waits for %s", failures, p)
		}
	}
}

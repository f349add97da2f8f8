package gateway

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// HookConfig says whom a Hook tells. All of it is needed.
type HookConfig struct {
	URL    string
	Secret []byte // signs every call
	Store  HookStore
	// Connected reports whether a user has a connection now. It must not block.
	Connected func(messages.UserID) bool
	Now       func() time.Time
	Logger    *slog.Logger
}

// HookStore is what a Hook needs of persistence.Store.
type HookStore interface {
	persistence.Outbox
	Load(ctx context.Context, c messages.ConversationID) (persistence.Head, []byte, error)
	Read(ctx context.Context, c messages.ConversationID, r persistence.Range) ([]persistence.Row, error)
	Membership(ctx context.Context, u messages.UserID, c messages.ConversationID) ([]persistence.Membership, error)
	MemberCursors(ctx context.Context, c messages.ConversationID, users []messages.UserID) ([]persistence.MemberCursor, error)
	Settings(ctx context.Context, u messages.UserID, cs []messages.ConversationID) ([]persistence.Settings, error)
	Unknown(ctx context.Context, users []messages.UserID) ([]messages.UserID, error)
}

// Hook tells a URL of entries that wait for users with nothing connected, each
// at least once. Every append is noted in the outbox of the store together
// with its entries, and its note goes only when the last of those users was
// told of. What does not fit into memory, and what a crash has left, is found
// in the outbox again.
//
//	Waiting ─► queue ─► feed: who waits still ─► posts of many entries ─► send, until 2xx
//	outbox  ─► scan ──┘
type Hook struct {
	cfg    HookConfig
	client *http.Client
	pace   hookPace

	room   chan struct{} // a token for each append in memory
	queue  chan *waking  // has room for all that have a token
	posts  chan *post
	missed chan struct{} // the outbox holds what memory does not

	mu   sync.Mutex
	held map[noteKey]bool // appends in memory; guarded by mu

	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup
}

// hookPace is what bounds a Hook.
type hookPace struct {
	appends  int           // in memory
	posts    int           // at once
	least    time.Duration // pause after the first failure of a post
	most     time.Duration // and after the last ones
	rescan   time.Duration // pause before the outbox is read because something was missed
	recheck  time.Duration // between two readings otherwise
	pageSize int           // notes
}

var defaultPace = hookPace{
	appends: 1024, posts: 4, least: time.Second, most: 5 * time.Minute,
	rescan: time.Second, recheck: 10 * time.Minute, pageSize: 64,
}

// waking is one append that waits for users.
type waking struct {
	note    persistence.Pending
	entries []hookEntry // without a user; nil where it was found in the outbox
	users   []messages.UserID
	left    atomic.Int32 // posts that hold some of it, and one while it is being read
}

// noteKey names a note: conversations' appends do not overlap.
type noteKey struct {
	conversation messages.ConversationID
	first        messages.Seq
}

func (w *waking) key() noteKey { return noteKey{w.note.Conversation, w.note.First} }

// NewHook returns a Hook that first tells what is in the outbox. It must be
// closed.
func NewHook(cfg HookConfig) *Hook { return newHook(cfg, defaultPace) }

func newHook(cfg HookConfig, pace hookPace) *Hook {
	h := &Hook{
		cfg: cfg, client: hookClient(pace.posts), pace: pace,
		room: make(chan struct{}, pace.appends), queue: make(chan *waking, pace.appends),
		posts: make(chan *post), missed: make(chan struct{}, 1), held: map[noteKey]bool{},
	}
	h.ctx, h.stop = context.WithCancel(context.Background())
	h.running.Go(h.feed)
	h.running.Go(h.scan)
	for range pace.posts {
		h.running.Go(h.send)
	}
	return h
}

// Close ends posts under way and returns when nothing runs any more. What was
// not told stays in the outbox.
func (h *Hook) Close() {
	h.stop()
	h.running.Wait()
	h.client.CloseIdleConnections()
}

// Waiting takes one append that is durable and noted in the outbox. absent are
// the users with nothing connected among those that it concerns. It never
// blocks, and may be called concurrently.
func (h *Hook) Waiting(c messages.ConversationID, entries []*messages.Entry, absent []messages.UserID) {
	first, last := entries[0].Seq, entries[len(entries)-1].Seq
	w := &waking{
		note:    persistence.Pending{Conversation: c, First: messages.Seq(first), Last: messages.Seq(last)},
		entries: wakeful(entries),
		users:   absent,
	}
	if len(w.entries) == 0 || len(w.users) == 0 {
		h.forget(w.note, func() {})
		return
	}
	select {
	case h.room <- struct{}{}:
		h.take(w)
	default:
		h.miss()
	}
}

// take queues an append for which there is room, unless it is in memory
// already.
func (h *Hook) take(w *waking) {
	h.mu.Lock()
	twice := h.held[w.key()]
	h.held[w.key()] = true
	h.mu.Unlock()
	if twice {
		<-h.room
		return
	}
	w.left.Store(1)
	h.queue <- w
}

// part ends one holder's part of an append. After the last one its note goes.
func (h *Hook) part(w *waking) {
	if w.left.Add(-1) == 0 {
		h.forget(w.note, func() { h.drop(w) })
	}
}

// forget removes a note and then calls then.
func (h *Hook) forget(note persistence.Pending, then func()) {
	h.cfg.Store.HookDone(note, func(err error) {
		then()
		if err != nil {
			h.cfg.Logger.Warn("removing a note of the webhook", "conversation", note.Conversation, "error", err)
			h.miss()
		}
	})
}

// drop makes room. An append whose note is still there will be found again.
func (h *Hook) drop(w *waking) {
	h.mu.Lock()
	delete(h.held, w.key())
	h.mu.Unlock()
	<-h.room
}

func (h *Hook) miss() {
	select {
	case h.missed <- struct{}{}:
	default:
	}
}

// scan reads the outbox at the start, when something was missed, and now and
// then.
func (h *Hook) scan() {
	recheck := time.NewTicker(h.pace.recheck)
	defer recheck.Stop()
	for {
		if err := h.readOutbox(); err != nil && h.ctx.Err() == nil {
			h.cfg.Logger.Warn("reading the outbox of the webhook", "error", err)
			h.miss()
		}
		select {
		case <-h.ctx.Done():
			return
		case <-recheck.C:
		case <-h.missed:
			h.sleep(h.pace.rescan)
		}
	}
}

// readOutbox queues all notes that are not in memory. It waits for room, so it
// is as quick as the posts are.
func (h *Hook) readOutbox() error {
	var after *persistence.Pending
	for {
		page, err := h.cfg.Store.PendingHooks(h.ctx, after, h.pace.pageSize)
		if err != nil {
			return err
		}
		for _, note := range h.strange(page) {
			select {
			case h.room <- struct{}{}:
				h.take(&waking{note: note})
			case <-h.ctx.Done():
				return h.ctx.Err()
			}
		}
		if len(page) < h.pace.pageSize {
			return nil
		}
		after = &page[len(page)-1]
	}
}

// strange returns the notes that are not in memory.
func (h *Hook) strange(notes []persistence.Pending) []persistence.Pending {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []persistence.Pending
	for _, n := range notes {
		if !h.held[noteKey{n.Conversation, n.First}] {
			out = append(out, n)
		}
	}
	return out
}

// feed makes posts of what waits. They fill up while all senders are busy.
func (h *Hook) feed() {
	for p := newPost(); ; {
		var ready chan *post
		if len(p.entries) > 0 {
			ready = h.posts
		}
		select {
		case <-h.ctx.Done():
			return
		case ready <- p:
			p = newPost()
		case w := <-h.queue:
			p = h.fill(p, w)
		}
	}
}

// fill adds to p what waits of an append, and returns the post to go on with.
func (h *Hook) fill(p *post, w *waking) *post {
	readers, err := h.readers(w)
	if err != nil {
		h.leave(w, err)
		return p
	}
	for _, r := range readers {
		for _, e := range w.entries {
			if !r.awaits(e) {
				continue
			}
			if len(p.entries) == postEntries {
				h.hand(p)
				p = newPost()
			}
			p.add(w, e, r.user)
		}
	}
	h.part(w)
	return p
}

// leave leaves an append to the next reading of the outbox.
func (h *Hook) leave(w *waking, err error) {
	if h.ctx.Err() == nil {
		h.cfg.Logger.Warn("looking up who waits for entries", "conversation", w.note.Conversation, "error", err)
	}
	h.drop(w)
	h.miss()
}

func (h *Hook) hand(p *post) {
	select {
	case h.posts <- p:
	case <-h.ctx.Done():
	}
}

// sleep waits for d, or until the hook is closed, and reports which.
func (h *Hook) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-h.ctx.Done():
		return false
	}
}

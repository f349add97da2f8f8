// Package world runs whole nodes in the process of a test, and people who use
// them through real sockets: w.As("ana").Says("bo", "hi") and
// w.As("bo").Sees("hi"). A node listens on ports of its own, keeps its data in
// a directory of the test, tells the time by a clock that the test moves, and
// works on a store that fails when it is told to. What every device did and
// saw is kept, and Judge compares it with the logs.
package world

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/cmd/troupe/node"
	"github.com/troupe-chat/troupe/gateway/accounts"
	"github.com/troupe-chat/troupe/internal/history"
	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
	"github.com/troupe-chat/troupe/persistence/faulty"
	"github.com/troupe-chat/troupe/persistence/memory"
	"github.com/troupe-chat/troupe/persistence/pebble"
)

// Patience is how long anything is waited for before the test fails. Nothing
// that works takes a noticeable part of it.
const Patience = time.Minute

// Clock is the time of a world: the machine's, moved ahead by a test.
type Clock struct{ ahead atomic.Int64 }

// Now tells the time.
func (c *Clock) Now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// Advance moves the clock.
func (c *Clock) Advance(d time.Duration) { c.ahead.Add(int64(d)) }

// World is one node and its users. Its methods may be called concurrently.
type World struct {
	Node  *node.Node
	Store *faulty.Store // what the node works on
	Clock *Clock

	t       testing.TB
	dir     string
	tokens  *accounts.Service
	history *history.History

	mu      sync.Mutex // guards what follows
	known   map[messages.UserID]bool
	people  map[string]*Client
	clients []*Client
	talks   map[messages.ConversationID]bool // that a device has met
}

// Start runs a node without rate limits, changed by options, until the test
// ends.
func Start(t testing.TB, options ...func(*node.Config)) *World {
	t.Helper()
	w := &World{t: t, dir: t.TempDir(), Clock: &Clock{}, history: history.New()}
	w.run("one", options)
	w.tokens = w.issuer(accounts.DefaultLifetime)
	return w
}

// issuer signs tokens that the nodes take, beside their own.
func (w *World) issuer(lifetime time.Duration) *accounts.Service {
	w.t.Helper()
	s, err := accounts.New(accounts.Config{
		Store: w.Store, Limiter: memory.NewLimiter(), TokenKey: w.keyFile(), Lifetime: lifetime, Now: w.Clock.Now,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	return s
}

// Beside runs another node on the same store: each believes to be alone, so
// that an identity can be active twice.
func (w *World) Beside(options ...func(*node.Config)) *World {
	w.t.Helper()
	other := &World{t: w.t, dir: w.dir, Clock: w.Clock, history: w.history, tokens: w.tokens}
	share := func(c *node.Config) {
		c.Wrap = func(own persistence.Store) persistence.Store { return borrowed{w.Store, own} }
	}
	other.run("two", append(options, share))
	other.Store = w.Store
	return other
}

// borrowed is the store of another node. Closing it closes what the borrower
// opened itself.
type borrowed struct {
	persistence.Store
	own persistence.Store
}

func (b borrowed) Close() error { return b.own.Close() }

func (w *World) keyFile() string { return filepath.Join(w.dir, "token.key") }

func (w *World) run(name string, options []func(*node.Config)) {
	w.t.Helper()
	w.known = map[messages.UserID]bool{}
	w.people = map[string]*Client{}
	w.talks = map[messages.ConversationID]bool{}
	n, err := node.Start(context.Background(), w.config(name, options))
	if err != nil {
		w.t.Fatal(err)
	}
	w.Node = n
	w.t.Cleanup(func() {
		for _, c := range w.all() {
			c.Close()
		}
		w.Stop()
	})
}

func (w *World) config(name string, options []func(*node.Config)) node.Config {
	cfg := node.Config{
		Name: name, Dir: filepath.Join(w.dir, name), Listen: "127.0.0.1:0", Admin: "127.0.0.1:0", Version: "test",
		Accounts: accounts.Config{TokenKey: w.keyFile(), MakeKey: true, Registration: true, LimitsOff: true},
		Limits:   messages.WithoutRates(messages.DefaultLimits()),
		Logger:   slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
		Now:      w.Clock.Now,
		Pebble:   pebble.Options{CacheBytes: 8 << 20, MemTableBytes: 4 << 20},
	}
	for _, o := range options {
		o(&cfg)
	}
	wrap := cfg.Wrap
	cfg.Wrap = func(s persistence.Store) persistence.Store {
		if wrap != nil {
			s = wrap(s)
		}
		w.Store = faulty.Wrap(s)
		return w.Store
	}
	return cfg
}

// Stop stops the node. Later calls do nothing.
func (w *World) Stop() {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	if err := w.Node.Stop(ctx); err != nil {
		w.t.Errorf("stopping: %v", err)
	}
}

func (w *World) all() []*Client {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*Client(nil), w.clients...)
}

// ---------------------------------------------------------------- users

// Users makes accounts.
func (w *World) Users(users ...string) {
	w.t.Helper()
	for _, u := range users {
		w.user(messages.UserID(u))
	}
}

func (w *World) user(u messages.UserID) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known[u] {
		return
	}
	err := w.Store.CreateAccount(context.Background(), persistence.Account{User: u, Created: w.Clock.Now().UnixMilli()})
	if err != nil && !errors.Is(err, persistence.ErrExists) {
		w.t.Fatal(err)
	}
	w.known[u] = true
}

// Token returns a token of a user, whose account is made where there is none.
func (w *World) Token(user string) string {
	w.t.Helper()
	return w.token(w.tokens, user)
}

// Brief returns a token of a user that expires after lifetime.
func (w *World) Brief(user string, lifetime time.Duration) string {
	w.t.Helper()
	return w.token(w.issuer(lifetime), user)
}

func (w *World) token(by *accounts.Service, user string) string {
	w.t.Helper()
	w.user(messages.UserID(user))
	token, err := by.Issue(context.Background(), messages.UserID(user))
	if err != nil {
		w.t.Fatal(err)
	}
	return token.Token
}

// DeletedToken returns a token of a user whose account is deleted.
func (w *World) DeletedToken(user string) string {
	w.t.Helper()
	ctx := context.Background()
	if a, err := w.Store.Account(ctx, messages.UserID(user)); err == nil && a.Deleted {
		w.setDeleted(user, false)
	}
	token := w.Token(user)
	w.setDeleted(user, true)
	return token
}

func (w *World) setDeleted(user string, deleted bool) {
	w.t.Helper()
	err := w.Store.UpdateAccount(context.Background(), messages.UserID(user), func(a *persistence.Account) error {
		a.Deleted = deleted
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// Forget ends a device's connection and keeps nothing of it.
func (w *World) Forget(c *Client) {
	c.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clients = slices.DeleteFunc(w.clients, func(x *Client) bool { return x == c })
}

// As returns the user's phone, connected.
func (w *World) As(user string) *Client {
	w.t.Helper()
	w.mu.Lock()
	c := w.people[user]
	w.mu.Unlock()
	if c != nil {
		return c
	}
	c = w.Connect(Device{User: user, Name: "phone"})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.people[user] = c
	return c
}

// ---------------------------------------------------------------- what operators see

// Metric returns a figure of the operators' port: the sum of its series.
func (w *World) Metric(name string) float64 {
	w.t.Helper()
	answer, err := http.Get(w.Node.AdminURL() + "/metrics")
	if err != nil {
		w.t.Fatal(err)
	}
	defer answer.Body.Close()
	sum, found := 0.0, false
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		series, value, _ := strings.Cut(lines.Text(), " ")
		if base, _, _ := strings.Cut(series, "{"); base != name {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			w.t.Fatal(err)
		}
		sum, found = sum+v, true
	}
	if !found {
		w.t.Fatalf("there is no metric %s (%s)", name, answer.Status)
	}
	return sum
}

// Until waits for a condition that nothing tells of.
func (w *World) Until(what string, holds func() bool) {
	w.t.Helper()
	until := time.Now().Add(Patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Now().After(until) {
			w.t.Fatalf("waited in vain until %s", what)
		}
		<-tick.C
	}
}

// ---------------------------------------------------------------- logs

// Log reads a whole log from the store.
func (w *World) Log(c messages.ConversationID) []*messages.Entry {
	w.t.Helper()
	var log []*messages.Entry
	for {
		rows, err := w.Store.Read(context.Background(), c, persistence.Range{After: messages.Seq(len(log)), Limit: 1000})
		if err != nil {
			w.t.Fatal(err)
		}
		for _, row := range rows {
			e := &messages.Entry{}
			if err := proto.Unmarshal(row.Entry, e); err != nil {
				w.t.Fatal(err)
			}
			log = append(log, e)
		}
		if len(rows) == 0 {
			return log
		}
	}
}

// Judge waits for what is on its way, ends every connection of these worlds,
// and compares what their devices did and saw with the logs and the promises.
func (w *World) Judge(others ...*World) {
	w.t.Helper()
	for _, x := range append(others, w) {
		for _, c := range x.all() {
			if c.listens() {
				c.Settle()
			}
			c.Close()
		}
		for _, c := range x.met() {
			var entries []history.Entry
			for _, e := range x.Log(c) {
				entries = append(entries, history.EntryOf(e))
			}
			w.history.Log(c, entries)
		}
	}
	for _, v := range w.history.Check(history.Options{}) {
		w.t.Error(v)
	}
}

func (w *World) met() []messages.ConversationID {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ids []messages.ConversationID
	for id := range w.talks {
		ids = append(ids, id)
	}
	return ids
}

func (w *World) meet(c messages.ConversationID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.talks[c] = true
}

// Names makes n user ids with accounts.
func (w *World) Names(prefix string, n int) []string {
	w.t.Helper()
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%s%04d", prefix, i)
	}
	var group sync.WaitGroup
	for part := range 16 {
		group.Go(func() {
			for i := part; i < n; i += 16 {
				w.create(names[i])
			}
		})
	}
	group.Wait()
	return names
}

// create makes an account; many at once share the store's syncs.
func (w *World) create(user string) {
	err := w.Store.CreateAccount(context.Background(), persistence.Account{User: messages.UserID(user)})
	if err != nil {
		w.t.Error(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.known[messages.UserID(user)] = true
}

// Stored returns how far a device has a conversation, by what is stored.
func (w *World) Stored(user, device, conversation string) messages.Seq {
	w.t.Helper()
	ctx := context.Background()
	devices, err := w.Store.Devices(ctx, messages.UserID(user))
	for _, d := range devices {
		if string(d.ID) != device {
			continue
		}
		key := persistence.DeviceKey{User: messages.UserID(user), Incarnation: d.Incarnation}
		var at []messages.Seq
		if at, err = w.Store.DevicePositions(ctx, key, []messages.ConversationID{messages.ConversationID(conversation)}); err == nil {
			return at[0]
		}
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return 0
}

// CursorWrites is how many writes of cursors were asked for.
func (w *World) CursorWrites() int {
	return w.Store.Calls(faulty.SaveDevice) + w.Store.Calls(faulty.SaveMembers)
}

// Connected is how many connections a user's session knows.
func (w *World) Connected(user string) int {
	w.t.Helper()
	answer, err := http.Get(w.Node.AdminURL() + "/admin/v1/sessions/" + user)
	if err != nil {
		w.t.Fatal(err)
	}
	defer answer.Body.Close()
	var session struct{ Sessions, Devices, Connections []json.RawMessage }
	if err := json.NewDecoder(answer.Body).Decode(&session); err != nil {
		w.t.Fatal(err)
	}
	return len(session.Sessions) + len(session.Devices) + len(session.Connections)
}

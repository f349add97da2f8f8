package client_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/troupe-chat/troupe/gateway/client"
	"github.com/troupe-chat/troupe/gateway/client/clienttest"
	"github.com/troupe-chat/troupe/messages"
)

// world is a server without a network, in a bubble where time is a fake.
type world struct {
	*testing.T
	server *clienttest.Server
	ctx    context.Context
	stop   context.CancelFunc
}

// inWorld runs a test in a world with the users ana and bo.
func inWorld(t *testing.T, test func(*world)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		w := &world{T: t, server: clienttest.New(), ctx: ctx, stop: cancel}
		var wg sync.WaitGroup
		wg.Go(func() { w.server.Pipe(ctx) })
		defer func() {
			cancel()
			wg.Wait()
		}()
		w.server.AddUser("ana", "a password")
		w.server.AddUser("bo", "a password")
		test(w)
	})
}

// app is an application that writes down what it is told.
type app struct {
	*client.Client
	user string
	stop context.CancelFunc
	done chan struct{}

	mu      sync.Mutex
	entries []*messages.Entry
	events  []string
	states  []client.State
	err     error
	tokens  int
}

// start runs a client of user until the test or its own stop ends it.
func (w *world) start(user string, change func(*client.Options)) *app {
	w.Helper()
	a := w.prepare(user, change)
	w.run(a)
	return a
}

func (w *world) prepare(user string, change func(*client.Options)) *app {
	w.Helper()
	a := &app{user: user, done: make(chan struct{})}
	o := client.Options{
		Server: "http://troupe.test",
		Device: messages.DeviceID(user + "-1"),
		Client: "test/1",
		Dial:   w.server.Dial,
		Token: func(context.Context) (string, error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.tokens++
			return w.server.AddUser(user, "a password"), nil
		},
		Handler: a.handler(),
	}
	if change != nil {
		change(&o)
	}
	c, err := client.New(o)
	if err != nil {
		w.Fatal(err)
	}
	a.Client = c
	return a
}

func (w *world) run(a *app) {
	ctx, cancel := context.WithCancel(w.ctx)
	a.stop = cancel
	go func() {
		defer close(a.done)
		err := a.Run(ctx)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.err = err
	}()
}

func (a *app) end() error {
	a.stop()
	<-a.done
	return a.err
}

func (a *app) handler() client.Handler {
	note := func(s string) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.events = append(a.events, s)
	}
	return client.Handler{
		Entry: func(e *messages.Entry) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.entries = append(a.entries, e)
		},
		Receipt:  func(r *messages.Receipt) { note(fmt.Sprintf("receipt %s %d/%d", r.User, r.Delivered, r.Read)) },
		Typing:   func(t *messages.Typing) { note(fmt.Sprintf("typing %s %t", t.User, t.Active)) },
		Presence: func(p *messages.Presence) { note(fmt.Sprintf("presence %s %t", p.User, p.Online)) },
		CaughtUp: func() { note("caught up") },
		State: func(s client.State) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.states = append(a.states, s)
		},
	}
}

// bodies returns the texts that the application got, in order.
func (a *app) bodies() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for _, e := range a.entries {
		out = append(out, e.GetText().GetBody())
	}
	return out
}

func (a *app) noted() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.events)
}

// tokensGot returns how often the client asked for a token.
func (a *app) tokensGot() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.tokens
}

// waits returns how long the client chose to wait, each time.
func (a *app) waits() []client.State {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []client.State
	for _, s := range a.states {
		if s.Phase == client.Waiting {
			out = append(out, s)
		}
	}
	return out
}

func (w *world) want(got, want []string) {
	w.Helper()
	if !slices.Equal(got, want) {
		w.Fatalf("got %q\nwant %q", got, want)
	}
}

// only returns the one connection of user.
func (w *world) only(user string) *clienttest.Conn {
	w.Helper()
	conns := w.server.Conns(user)
	if len(conns) != 1 {
		w.Fatalf("%s has %d connections, want 1", user, len(conns))
	}
	return conns[0]
}

func must[T any](t testing.TB, v T, err error) func() T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return func() T { return v }
}

const anaBo = messages.ConversationID("d:ana~bo")

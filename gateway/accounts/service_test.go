package accounts

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

const password = "correct horse"

// fixture is a service with its store, clock and hooks.
type fixture struct {
	*Service
	t       testing.TB
	store   *fakeStore
	limiter *fakeLimiter
	log     *bytes.Buffer

	mu       sync.Mutex // guards all below
	now      time.Time
	signOuts []string // user/device/reason
	deleted  []context.Context
}

// start returns a service; adjust changes its configuration first.
func start(t testing.TB, adjust ...func(*Config)) *fixture {
	t.Helper()
	f := &fixture{t: t, store: newFakeStore(), limiter: &fakeLimiter{}, log: &bytes.Buffer{}}
	f.now = time.Date(2030, 1, 2, 3, 4, 5, 678e6, time.UTC)
	cfg := Config{
		Store: f.store, Limiter: f.limiter, Registration: true,
		TokenKey: filepath.Join(t.TempDir(), "token.key"), MakeKey: true,
		Now: f.clock, SignOut: f.signOutHook, Deleted: f.deletedHook,
		Logger: slog.New(slog.NewTextHandler(f.log, nil)),
	}
	for _, a := range adjust {
		a(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	f.Service = s
	return f
}

func (f *fixture) clock() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fixture) wait(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
}

func (f *fixture) signOutHook(u messages.UserID, d messages.DeviceID, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.signOuts = append(f.signOuts, string(u)+"/"+string(d)+"/"+reason)
}

func (f *fixture) deletedHook(ctx context.Context, _ messages.UserID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deleted = append(f.deleted, ctx)
}

// call makes an HTTP call; a token and X-Forwarded-For may follow the body.
func (f *fixture) call(method, path, body string, more ...string) answer {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if len(more) > 0 && more[0] != "" {
		r.Header.Set("Authorization", "Bearer "+more[0])
	}
	if len(more) > 1 {
		r.Header.Set("X-Forwarded-For", more[1])
	}
	w := httptest.NewRecorder()
	f.Handler().ServeHTTP(w, r)
	return answer{f.t, w}
}

type answer struct {
	t testing.TB
	w *httptest.ResponseRecorder
}

// is checks the status and, where it is not empty, the error's code.
func (a answer) is(status int, code string) answer {
	a.t.Helper()
	if a.w.Code != status {
		a.t.Fatalf("status %d, want %d: %s", a.w.Code, status, a.w.Body)
	}
	var e struct {
		Error struct{ Code, Message string }
	}
	if code != "" {
		a.decode(&e)
		if e.Error.Code != code || e.Error.Message == "" {
			a.t.Fatalf("error %+v, want %s", e.Error, code)
		}
	}
	if a.w.Header().Get("Cache-Control") != "no-store" {
		a.t.Fatal("the answer may be cached")
	}
	return a
}

func (a answer) decode(v any) {
	a.t.Helper()
	if err := json.Unmarshal(a.w.Body.Bytes(), v); err != nil {
		a.t.Fatalf("%v: %s", err, a.w.Body)
	}
}

func (a answer) token() string {
	a.t.Helper()
	var t tokenAnswer
	a.decode(&t)
	return t.Token
}

func credentialsOf(user, password string) string {
	b, _ := json.Marshal(map[string]string{"user": user, "password": password})
	return string(b)
}

func (f *fixture) register(user string) string {
	f.t.Helper()
	return f.call("POST", "/v1/users", credentialsOf(user, password)).is(201, "").token()
}

func (f *fixture) login(user, password string) answer {
	return f.call("POST", "/v1/tokens", credentialsOf(user, password))
}

// device stores a device of u that used token.
func (f *fixture) device(u messages.UserID, id messages.DeviceID, token string) {
	f.t.Helper()
	d := persistence.Device{ID: id, Incarnation: uint64(len(id)), Client: "test/1", Created: 1, LastSeen: f.clock().UnixMilli()}
	if token != "" {
		who, err := f.Verify(context.Background(), token)
		if err != nil {
			f.t.Fatal(err)
		}
		d.Tokens = []string{who.TokenID}
	}
	_ = f.store.UpdateDevices(context.Background(), u, func(ds []persistence.Device) ([]persistence.Device, error) {
		return append(ds, d), nil
	})
}

// valid reports whether token is, and fails on any doubt.
func (f *fixture) valid(token string) bool {
	f.t.Helper()
	_, err := f.Verify(context.Background(), token)
	if err != nil && messages.FailureOf(err).Code != messages.CodeUnauthenticated {
		f.t.Fatal(err)
	}
	return err == nil
}

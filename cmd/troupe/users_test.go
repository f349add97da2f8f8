package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/troupe-chat/troupe/gateway/console"
	"github.com/troupe-chat/troupe/messages"
)

// book is the users of a node, with their passwords.
type book struct {
	users map[messages.UserID]*bookUser
}

type bookUser struct {
	console.User
	password string
	gone     int // times disconnected
}

func (b *book) Create(_ context.Context, u messages.UserID, password string) error {
	if b.users[u] != nil {
		return messages.Fail(messages.CodeConflict, "this name is taken")
	}
	b.users[u] = &bookUser{User: console.User{User: u, CreatedAt: 1893553445000}, password: password}
	return nil
}

func (b *book) change(u messages.UserID, f func(*bookUser)) error {
	if b.users[u] == nil {
		return messages.Fail(messages.CodeNotFound, "there is no such user")
	}
	f(b.users[u])
	return nil
}

func (b *book) SetPassword(_ context.Context, u messages.UserID, password string) error {
	return b.change(u, func(x *bookUser) { x.password = password })
}

func (b *book) SetDisabled(_ context.Context, u messages.UserID, disabled bool) error {
	return b.change(u, func(x *bookUser) { x.Disabled = disabled })
}

func (b *book) Disconnect(_ context.Context, u messages.UserID) error {
	return b.change(u, func(x *bookUser) { x.gone++ })
}

func (b *book) Users(_ context.Context, after messages.UserID, limit int) (all []console.User, _ error) {
	for u, x := range b.users {
		if u > after {
			all = append(all, x.User)
		}
	}
	slices.SortFunc(all, func(a, b console.User) int { return cmp.Compare(a.User, b.User) })
	return all[:min(limit, len(all))], nil
}

// operators starts an operators' port with a token, and returns the flags that
// reach it.
func operators(t *testing.T) (*book, []string) {
	t.Helper()
	b := &book{users: make(map[messages.UserID]*bookUser)}
	s := httptest.NewServer(console.New(console.Config{Users: b, Metrics: prometheus.NewRegistry(), Address: "127.0.0.1:0", Token: "s3cret"}))
	t.Cleanup(s.Close)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return b, []string{"--admin", strings.TrimPrefix(s.URL, "http://"), "--admin-token-file", file}
}

func TestUsers(t *testing.T) {
	b, reach := operators(t)
	do := func(in string, args ...string) result {
		t.Helper()
		r := troupe(t, in, slices.Concat([]string{"users"}, args, reach)...)
		if r.code != 0 {
			t.Fatalf("%v: %+v", args, r)
		}
		return r
	}
	made, ok := strings.CutPrefix(do("", "create", "ana").out, "created ana; password: ")
	if made = strings.TrimSpace(made); !ok || len(made) < 20 || b.users["ana"].password != made {
		t.Fatalf("made %q", made)
	}
	if out := do("a good one\n", "create", "bo", "--password-file", "-").out; out != "created bo\n" || b.users["bo"].password != "a good one" {
		t.Fatalf("got %q, %+v", out, b.users["bo"])
	}
	var answer struct{ User, Done, Password string }
	if err := json.Unmarshal([]byte(do("", "password", "ana", "--json").out), &answer); err != nil || answer.Password != b.users["ana"].password || answer.Done != "changed" {
		t.Fatalf("got %+v, %v", answer, err)
	}
	do("", "disable", "bo")
	do("", "disconnect", "ana")
	if !b.users["bo"].Disabled || b.users["ana"].gone != 1 {
		t.Fatal("not done")
	}
	want := "USER  STATE     CREATED              LAST SEEN\n" +
		"ana   active    2030-01-02 03:04:05  -\n" +
		"bo    disabled  2030-01-02 03:04:05  -\n"
	if out := do("", "list").out; out != want {
		t.Fatalf("got\n%swant\n%s", out, want)
	}
	do("", "enable", "bo")
	if b.users["bo"].Disabled {
		t.Fatal("not enabled")
	}
}

func TestUsersListGoesOnToTheLast(t *testing.T) {
	b, reach := operators(t)
	for i := range 2500 {
		_ = b.Create(t.Context(), messages.UserID(fmt.Sprintf("u%04d", i)), "x")
	}
	var all []console.User
	r := troupe(t, "", append([]string{"users", "list", "--json"}, reach...)...)
	if err := json.Unmarshal([]byte(r.out), &all); err != nil || len(all) != 2500 || all[2499].User != "u2499" {
		t.Fatalf("got %d, %v", len(all), err)
	}
}

func TestUsersMistakesAndFailures(t *testing.T) {
	b, reach := operators(t)
	_ = b.Create(t.Context(), "ana", "x")
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"", 2, "create, disable"},
		{"promote ana", 2, "create, disable"},
		{"create", 2, "help users"},
		{"list ana", 2, "help users"},
		{"disable ana bo", 2, `"bo"`},
		{"create cy --password-file /nowhere", 2, "/nowhere"},
		{"create ana", 1, "conflict: this name is taken"},
		{"disable bo", 1, "not_found: there is no such user"},
		{"disable ../../x", 1, "invalid"},
	} {
		r := troupe(t, "", slices.Concat([]string{"users"}, strings.Fields(c.args), reach)...)
		if r.code != c.code || !strings.Contains(r.err, c.says) || strings.Count(r.err, "\n") != 1 {
			t.Errorf("users %s: got %+v", c.args, r)
		}
	}
}

func TestUsersWithoutTheTokenOrANode(t *testing.T) {
	_, reach := operators(t)
	if r := troupe(t, "", "users", "list", reach[0], reach[1]); r.code != 1 || !strings.Contains(r.err, "unauthenticated") {
		t.Errorf("without the token: %+v", r)
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	r := troupe(t, "", "users", "list", "--admin", strings.TrimPrefix(gone.URL, "http://"))
	if r.code != 1 || !strings.Contains(r.err, "no node answers") {
		t.Errorf("without a node: %+v", r)
	}
}

func TestReachable(t *testing.T) {
	for given, want := range map[string]string{
		"0.0.0.0:1": "127.0.0.1:1", ":1": "127.0.0.1:1", "[::]:1": "127.0.0.1:1", "[::1]:1": "[::1]:1", "ops.example:1": "ops.example:1",
	} {
		if got := reachable(given); got != want {
			t.Errorf("%s: got %s", given, got)
		}
	}
}

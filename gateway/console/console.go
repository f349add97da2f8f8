// Package console is the operators' port: what runs where, and accounts, as
// JSON under /admin/v1; metrics and profiles; and a page that shows an
// overview. It shows ids, types and figures, never content and never tokens.
package console

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/troupe-chat/troupe/gateway/httpjson"
	"github.com/troupe-chat/troupe/messages"
)

// Cluster is what a node knows of what runs where. Its methods may be called
// concurrently.
type Cluster interface {
	Members(ctx context.Context) ([]Member, error)
	// Actors returns the activations that f selects, and no more than f.Limit.
	Actors(ctx context.Context, f Filter) ([]Actor, error)
	// Actor describes one identity without activating it.
	Actor(ctx context.Context, kind, id string) (ActorDetail, error)
	// Session returns a user's connected devices, without activating anything.
	Session(ctx context.Context, u messages.UserID) ([]Connection, error)
}

// Users manages accounts. Its errors are Failures where an operator can do
// something about them. Its methods may be called concurrently.
type Users interface {
	Create(ctx context.Context, u messages.UserID, password string) error
	SetPassword(ctx context.Context, u messages.UserID, password string) error
	SetDisabled(ctx context.Context, u messages.UserID, disabled bool) error
	Disconnect(ctx context.Context, u messages.UserID) error
	// Users returns up to limit users with names beyond after, in order.
	Users(ctx context.Context, after messages.UserID, limit int) ([]User, error)
}

// Member is one node. Times are ms since the epoch, sizes bytes.
type Member struct {
	ID          string         `json:"id"`
	Name        string         `json:"name"`
	Address     string         `json:"address"`
	State       string         `json:"state"`
	Kinds       []string       `json:"kinds"`
	Actors      map[string]int `json:"actors"` // by kind
	Share       float64        `json:"share"`  // of the hash space, 0 to 1
	Connections int            `json:"connections"`
	Memory      uint64         `json:"memory"`
	Started     int64          `json:"started"`
	Uptime      int64          `json:"uptime"` // seconds
	Version     string         `json:"version"`
}

// Actor is one live activation.
type Actor struct {
	Kind        string  `json:"kind"`
	ID          string  `json:"id"`
	Member      string  `json:"member"`
	Mailbox     int     `json:"mailbox"`
	Handled     uint64  `json:"handled"`
	Rate        float64 `json:"rate"`  // messages a second
	Since       int64   `json:"since"` // ms since the epoch
	Age         float64 `json:"age"`   // seconds
	LastMessage string  `json:"last_message"`
	LastAt      int64   `json:"last_at"` // ms since the epoch
}

// ActorDetail is what there is to say of one identity, active or not.
type ActorDetail struct {
	Kind     string `json:"kind"`
	ID       string `json:"id"`
	Owner    string `json:"owner"` // the member where it belongs by hash
	Active   bool   `json:"active"`
	Actor    *Actor `json:"actor,omitempty"`    // where it is active
	Messages []Seen `json:"messages,omitempty"` // the latest, oldest first
	State    any    `json:"state,omitempty"`    // as the actor itself describes it
}

// Seen is one message that an actor handled: its type and timing.
type Seen struct {
	Type string `json:"type"`
	At   int64  `json:"at"`      // ms since the epoch
	Took int64  `json:"took_us"` // µs
}

// Connection is one connected device.
type Connection struct {
	Device   messages.DeviceID `json:"device"`
	Node     string            `json:"node"`
	Protocol string            `json:"protocol"`
	Client   string            `json:"client"`
	Since    int64             `json:"since"` // ms since the epoch
	InFlight int               `json:"in_flight"`
}

// User is one account.
type User struct {
	User      messages.UserID `json:"user"`
	CreatedAt int64           `json:"created_at"` // ms since the epoch
	LastSeen  int64           `json:"last_seen"`  // ms since the epoch; 0: never
	Disabled  bool            `json:"disabled"`
	Deleted   bool            `json:"deleted"`
}

// Config says what a console shows. Cluster, Users and Metrics are needed.
type Config struct {
	Cluster Cluster
	Users   Users
	Metrics prometheus.Gatherer
	Address string       // HOST:PORT as configured; requests must name it or loopback
	Token   string       // that every request must carry; empty: none
	Logger  *slog.Logger // nil: slog.Default
}

type console struct {
	Config
	guard guard
}

// New returns the handler of the operators' port.
func New(cfg Config) http.Handler {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	c := &console{cfg, newGuard(cfg.Address, cfg.Token)}
	mux := http.NewServeMux()
	// Tells whoever watches the process that it lives, and nothing else.
	mux.Handle("/healthz", httpjson.Methods{"GET": http.HandlerFunc(alive)})
	mux.Handle("/", c.guard.wrap(c.guarded()))
	return mux
}

func alive(w http.ResponseWriter, _ *http.Request) {
	httpjson.Write(w, http.StatusOK, map[string]string{"status": "ok"})
}

func (c *console) guarded() http.Handler {
	mux := http.NewServeMux()
	get := func(path string, f func(http.ResponseWriter, *http.Request) error) {
		mux.Handle(path, httpjson.Methods{"GET": c.answer(f)})
	}
	get("/admin/v1/members", c.members)
	get("/admin/v1/actors", c.actors)
	get("/admin/v1/actors/{kind}/{id}", c.actor)
	get("/admin/v1/sessions/{user}", c.session)
	mux.Handle("/admin/v1/members/{id}/drain", httpjson.Methods{"POST": c.answer(drain)})
	mux.Handle("/admin/v1/users", httpjson.Methods{"GET": c.answer(c.listUsers), "POST": c.answer(c.createUser)})
	mux.Handle("/admin/v1/users/{user}/{action}", httpjson.Methods{"POST": c.answer(c.changeUser)})
	mux.Handle("/metrics", httpjson.Methods{"GET": promhttp.HandlerFor(c.Metrics, promhttp.HandlerOpts{})})
	// Not pprof.Cmdline: flags may hold passwords.
	mux.Handle("/debug/pprof/", httpjson.Methods{"GET": http.HandlerFunc(pprof.Index)})
	mux.Handle("/debug/pprof/cmdline", http.HandlerFunc(httpjson.NotFound))
	mux.Handle("/debug/pprof/profile", httpjson.Methods{"GET": http.HandlerFunc(pprof.Profile)})
	mux.Handle("/debug/pprof/symbol", httpjson.Methods{"GET": http.HandlerFunc(pprof.Symbol)})
	mux.Handle("/debug/pprof/trace", httpjson.Methods{"GET": http.HandlerFunc(pprof.Trace)})
	get("/{$}", c.page)
	get("/console.css", style)
	mux.HandleFunc("/", httpjson.NotFound)
	return mux
}

// answer serves f, and logs what went wrong inside.
func (c *console) answer(f func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := f(w, r)
		if err == nil {
			return
		}
		if _, ok := errors.AsType[*messages.Failure](err); !ok && r.Context().Err() == nil {
			c.Logger.Error("an operators' call failed", "method", r.Method, "path", r.Pattern, "error", err)
		}
		httpjson.WriteError(w, err)
	})
}

// list answers items under a name, and an empty list as one.
func list[T any](w http.ResponseWriter, name string, items []T) {
	if items == nil {
		items = []T{}
	}
	httpjson.Write(w, http.StatusOK, map[string][]T{name: items})
}

func drain(http.ResponseWriter, *http.Request) error {
	return messages.Fail(messages.CodeUnavailable, "draining a member is not built in this version; stop it with SIGTERM")
}

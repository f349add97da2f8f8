// Package node puts a whole node together: store, actors, gateway, accounts
// and the operators' port. It is the one place that knows them all.
package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/troupe-chat/troupe/actors"
	"github.com/troupe-chat/troupe/cluster"
	"github.com/troupe-chat/troupe/gateway"
	"github.com/troupe-chat/troupe/gateway/accounts"
	"github.com/troupe-chat/troupe/gateway/console"
	"github.com/troupe-chat/troupe/internal/crew"
	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
	"github.com/troupe-chat/troupe/persistence/memory"
	"github.com/troupe-chat/troupe/persistence/pebble"
)

// Config is what a node is told. Name, Dir and Limits are needed.
type Config struct {
	Name    string
	Dir     string // of the embedded store
	Listen  string // HOST:PORT for clients
	Admin   string // HOST:PORT for operators
	Actors  string // HOST:PORT for other nodes; empty: none
	Version string

	Advertise  string
	TLSCert    string
	TLSKey     string
	Origins    []string
	AdminToken string

	Accounts accounts.Config // its stores and hooks are filled in here
	Limits   *messages.Limits
	Hook     *Hook // nil: none

	IdleAfter time.Duration
	Logger    *slog.Logger
	Now       func() time.Time // nil: time.Now

	Pebble pebble.Options
	// Wrap, in tests, stands between the node and its store.
	Wrap func(persistence.Store) persistence.Store
	// Reached, in tests, is told of points between steps.
	Reached func(actors.Point)
}

// Hook is the webhook that is told of entries that wait.
type Hook struct {
	URL    string
	Secret []byte
}

// blockingWork is how many goroutines wait for the store at once, at most.
const blockingWork = 64

// gatewayService is the gateway's name among a node's services.
const gatewayService = "gateway"

// expireEvery is how often the store drops what has had its time.
const expireEvery = time.Hour

// Node is a running node. Its methods may be called concurrently.
type Node struct {
	cfg      Config
	log      *slog.Logger
	store    persistence.Store
	disk     *pebble.Store
	pool     *crew.Crew
	env      *actors.Env
	cluster  *cluster.Node
	gateway  *gateway.Server
	accounts *accounts.Service
	hook     *gateway.Hook

	deletions *deletions

	clients, operators    *http.Server
	clientPort, adminPort net.Listener

	running sync.WaitGroup
	stop    context.CancelFunc
	ctx     context.Context
	once    sync.Once
	stopErr error
	failed  chan error
}

// Start opens the store, starts the actors and takes clients. What it returns
// must be stopped. An error tells in one line what is wrong.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	n := &Node{cfg: cfg, log: cfg.Logger, deletions: newDeletions(), failed: make(chan error, 2)}
	if n.cfg.Now == nil {
		n.cfg.Now = time.Now
	}
	n.ctx, n.stop = context.WithCancel(context.WithoutCancel(ctx))
	for _, step := range []func(context.Context) error{n.bind, n.openStore, n.openAccounts, n.startActors, n.startHook, n.listen} {
		if err := step(ctx); err != nil {
			n.abandon()
			return nil, err
		}
	}
	n.running.Go(n.expire)
	n.running.Go(n.eraseDeleted)
	return n, nil
}

func (n *Node) openStore(context.Context) error {
	options := n.cfg.Pebble
	options.Logger, options.Now = n.log, n.cfg.Now
	disk, err := pebble.Open(n.cfg.Dir, options)
	if err != nil {
		return err
	}
	n.disk, n.store = disk, disk
	if n.cfg.Wrap != nil {
		n.store = n.cfg.Wrap(disk)
	}
	return nil
}

func (n *Node) openAccounts(context.Context) error {
	cfg := n.cfg.Accounts
	cfg.Store, cfg.Limiter = n.store, memory.NewLimiter()
	cfg.Now, cfg.Logger = n.cfg.Now, n.log
	cfg.SignOut = n.signOut
	cfg.Deleted = n.erase
	service, err := accounts.New(cfg)
	n.accounts = service
	return err
}

// startActors makes the actors and the gateway, which know each other through
// the node.
func (n *Node) startActors(ctx context.Context) error {
	n.pool = crew.New(blockingWork, blockingWork)
	n.env = &actors.Env{
		Node: n.cfg.Name, Store: n.store, Presence: memory.NewPresence(), Cluster: n, Gateways: &reach{n},
		Routes: actors.NewRoutes(), Limits: n.cfg.Limits, Pool: n.pool,
		Now: n.cfg.Now, Log: n.log, Metrics: &actors.Metrics{}, Reached: n.cfg.Reached,
	}
	n.gateway = gateway.New(gateway.Config{
		Node: n.cfg.Name, Actors: n, Auth: authenticator{n.accounts}, Log: n.store, Limiter: n.accounts.Limiter,
		Limits: n.cfg.Limits, Pool: n.pool, Logger: n.log, Origins: n.cfg.Origins, Now: n.cfg.Now,
		Drained: n.drained(),
	})
	started, err := cluster.Start(ctx, cluster.Config{
		Name: n.cfg.Name, Listen: n.cfg.Actors, Advertise: n.cfg.Advertise, Kinds: kinds(n.env),
		IdleAfter: n.cfg.IdleAfter, Logger: n.log, Now: n.cfg.Now, OnEnded: n.ended,
	})
	if err != nil {
		return err
	}
	n.cluster = started
	n.cluster.Serve(gatewayService, n.gateway.Receive)
	return nil
}

// drained tells of the gateway's point, where anybody is told of points.
func (n *Node) drained() func() {
	if n.cfg.Reached == nil {
		return nil
	}
	return func() { n.cfg.Reached(actors.MidDrain) }
}

func kinds(env *actors.Env) []cluster.Kind {
	return []cluster.Kind{
		{Name: messages.ActorConversation, New: func(id string) cluster.Behaviour { return actors.NewConversation(env, id) }},
		{Name: messages.ActorGroup, New: func(id string) cluster.Behaviour { return actors.NewGroup(env, id) }},
		{Name: messages.ActorSession, New: func(id string) cluster.Behaviour { return actors.NewSession(env, id) }},
		{Name: messages.ActorInbox, New: func(id string) cluster.Behaviour { return actors.NewInbox(env, id) }},
	}
}

// ended makes the connections of a session that was lost join a new one.
func (n *Node) ended(kind, identity string, cause cluster.EndCause) {
	if kind == messages.ActorSession && cause != cluster.Passivated && cause != cluster.Stopped {
		n.gateway.SessionEnded(messages.UserID(identity))
	}
}

// bind opens the ports. It comes first: a start that finds one in use has not
// touched the store. The actors' port is only tried, the cluster opens it.
func (n *Node) bind(context.Context) (err error) {
	if n.clientPort, err = n.open("listen", n.cfg.Listen); err != nil {
		return err
	}
	if n.adminPort, err = n.open("admin", n.cfg.Admin); err != nil {
		return err
	}
	if n.cfg.Actors != "" {
		tried, err := n.open("actors", n.cfg.Actors)
		if err != nil {
			return err
		}
		tried.Close()
	}
	return n.secure()
}

// listen serves the ports. Nobody is served before everything stands.
func (n *Node) listen(context.Context) error {
	n.clients = n.serve(n.clientPort, n.gateway.Handler(n.accounts.Handler(), n.ready))
	n.operators = n.serve(n.adminPort, n.console())
	return nil
}

func (n *Node) open(what, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w; stop what uses it, or choose another with --%s", what, address, err, what)
	}
	return l, nil
}

// secure puts TLS on the clients' port, where it is configured.
func (n *Node) secure() error {
	if n.cfg.TLSCert == "" {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(n.cfg.TLSCert, n.cfg.TLSKey)
	if err != nil {
		return fmt.Errorf("tls-cert %s: %w", n.cfg.TLSCert, err)
	}
	n.clientPort = tls.NewListener(n.clientPort, &tls.Config{
		Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
	})
	return nil
}

func (n *Node) serve(l net.Listener, h http.Handler) *http.Server {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}
	n.running.Go(func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			n.failed <- fmt.Errorf("serving %s: %w", l.Addr(), err)
		}
	})
	return s
}

// ready tells why the node can't take clients, or "".
func (n *Node) ready() string {
	ctx, cancel := context.WithTimeout(n.ctx, time.Second)
	defer cancel()
	if _, err := n.store.Accounts(ctx, "", 1); err != nil {
		return "the store can't be reached"
	}
	return ""
}

// expire drops what has had its time from the store.
func (n *Node) expire() {
	ticker := time.NewTicker(expireEvery)
	defer ticker.Stop()
	for {
		if err := n.disk.Expire(n.ctx, n.cfg.Now()); err != nil && n.ctx.Err() == nil {
			n.log.Warn("expiring", "error", err)
		}
		select {
		case <-n.ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// ClientURL is where clients find the node.
func (n *Node) ClientURL() string {
	if n.cfg.TLSCert != "" {
		return "https://" + n.clientPort.Addr().String()
	}
	return "http://" + n.clientPort.Addr().String()
}

// AdminURL is where operators find the node.
func (n *Node) AdminURL() string { return "http://" + n.adminPort.Addr().String() }

// Failed gives the error that ends the node's service, if one does.
func (n *Node) Failed() <-chan error { return n.failed }

// Stop sends the clients away, lets the actors finish and closes the store, in
// this order. ctx bounds how long the clients are waited for.
func (n *Node) Stop(ctx context.Context) error {
	n.once.Do(func() { n.stopErr = n.shutdown(ctx) })
	return n.stopErr
}

func (n *Node) shutdown(ctx context.Context) error {
	n.stop()
	errs := []error{n.clients.Shutdown(ctx), n.gateway.Drain(ctx), n.operators.Shutdown(ctx)}
	if n.hook != nil {
		n.hook.Close()
	}
	errs = append(errs, n.cluster.Stop(ctx))
	n.pool.Close()
	n.accounts.Close()
	n.running.Wait()
	return errors.Join(append(errs, n.closeStore(ctx))...)
}

// closeStore does not wait for ever: on a full disk the store would. What was
// acknowledged is safe without it.
func (n *Node) closeStore(ctx context.Context) error {
	closed := make(chan error, 1)
	go func() { closed <- n.store.Close() }()
	select {
	case err := <-closed:
		return err
	case <-ctx.Done():
		return fmt.Errorf("closing the store: %w", context.Cause(ctx))
	}
}

// abandon undoes a start that failed.
func (n *Node) abandon() {
	n.stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if n.hook != nil {
		n.hook.Close()
	}
	if n.cluster != nil {
		_ = n.cluster.Stop(ctx)
	}
	if n.gateway != nil {
		_ = n.gateway.Close(ctx)
	}
	if n.accounts != nil {
		n.accounts.Close()
	}
	if n.store != nil {
		_ = n.store.Close()
	}
	for _, port := range []net.Listener{n.clientPort, n.adminPort} {
		if port != nil {
			_ = port.Close()
		}
	}
}

// TokenKeyIn returns where a data directory keeps the key that signs tokens.
func TokenKeyIn(dir string) string { return filepath.Join(dir, "token.key") }

func (n *Node) console() http.Handler {
	return console.New(console.Config{
		Cluster: operatorsView{n}, Users: n.accountsView(), Metrics: n.metrics(),
		Address: n.cfg.Admin, Token: n.cfg.AdminToken, Logger: n.log,
	})
}

package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gorilla/websocket"

	"github.com/troupe-chat/troupe/internal/crew"
	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// Actors hands messages to virtual actors. Tell never blocks on I/O; messages
// of one goroutine to one identity arrive in order.
type Actors interface {
	Tell(kind, identity string, m any) error
}

// Identity is whom a token speaks for.
type Identity struct {
	User    messages.UserID
	TokenID string
	Expires time.Time
}

// Authenticator judges tokens. The error of a token that is not good is a
// *messages.Failure.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (Identity, error)
}

// Log is what the delivery loop reads.
type Log interface {
	Read(ctx context.Context, c messages.ConversationID, r persistence.Range) ([]persistence.Row, error)
	Membership(ctx context.Context, u messages.UserID, c messages.ConversationID) ([]persistence.Membership, error)
	Settings(ctx context.Context, u messages.UserID, cs []messages.ConversationID) ([]persistence.Settings, error)
	DevicePositions(ctx context.Context, d persistence.DeviceKey, cs []messages.ConversationID) ([]messages.Seq, error)
}

// Pool runs work that blocks. Do never blocks.
type Pool interface {
	Do(func())
}

// Config is what a gateway needs. All but Origins, Now and Drained must be set.
type Config struct {
	Node    string // this node's name
	Actors  Actors
	Auth    Authenticator
	Log     Log
	Limiter persistence.Limiter
	Limits  *messages.Limits
	Pool    Pool
	Logger  *slog.Logger
	Origins []string         // further origins of browsers; "*" is any
	Now     func() time.Time // the clock; time.Now where nil
	Drained func()           // told, in tests of crashes, of each entry that is read for a device; nil: nobody
}

// Times of a gateway.
const (
	heartbeat     = 25 * time.Second
	missedPongs   = 2
	ackWithin     = 2 * time.Minute // with the window full
	writeTimeout  = 20 * time.Second
	closeTimeout  = 2 * time.Second
	sweepEvery    = time.Second
	ackEvery      = 100 * time.Millisecond
	netEvery      = 10 * time.Minute // the full pass that finds what every hint missed
	reconnectOver = 5 * time.Second  // a drained server's clients come back within
)

// What one node takes on at once, over all connections.
const (
	maxAppends     = 16 << 10
	maxAppendBytes = 64 << 20
)

// keptWorkers is how many goroutines wait for the next busy connection, to read
// or to write. More are made while clients are slow, one for each at most: one
// that is stuck keeps nobody waiting.
const keptWorkers = 256

// Server is the gateway of one node: its sockets, and the delivery loop beside
// each. Safe for concurrent use.
type Server struct {
	cfg      Config
	upgrader websocket.Upgrader
	nextID   atomic.Uint64
	appends  atomic.Int64 // sends without an answer
	bytes    atomic.Int64 // of them
	Metrics  Metrics

	mu       sync.RWMutex // guards what follows
	conns    map[uint64]*conn
	draining bool
	closed   bool // no connection is added any more

	ackMu  sync.Mutex // guards acking
	acking []*conn    // with acknowledgements to hand on at the next tick

	readers *crew.Crew
	writers *crew.Crew
	poller  *poller        // nil: readers wait for what comes
	running sync.WaitGroup // connections, and all other goroutines
	stop    context.CancelFunc
	ctx     context.Context
}

// Metrics counts what a gateway did. Safe for concurrent use.
type Metrics struct {
	Connections atomic.Int64 // now
	Accepted    atomic.Int64
	FramesIn    atomic.Int64
	Delivered   atomic.Int64 // entries handed to sockets, by deliver frames
	Sent        atomic.Int64 // and by sent frames
	Hints       atomic.Int64 // entries delivered from a hint, without a read
	Reads       atomic.Int64 // reads of the log by delivery loops
	Refused     atomic.Int64 // rate_limited and overloaded answers
}

// New starts a gateway. Close it.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{
		cfg: cfg, conns: map[uint64]*conn{},
		readers: crew.New(0, keptWorkers), writers: crew.New(0, keptWorkers),
	}
	poller, err := newPoller(func(id uint64) { s.with(id, (*conn).readable) })
	if err != nil {
		cfg.Logger.Info("every connection needs a goroutine here", "error", err)
	}
	s.poller = poller
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.upgrader = websocket.Upgrader{
		HandshakeTimeout: messages.HelloWithin,
		ReadBufferSize:   readBuffer,
		WriteBufferSize:  4 << 10,
		WriteBufferPool:  &sync.Pool{},
		CheckOrigin:      s.originAllowed,
	}
	s.running.Go(s.sweep)
	s.running.Go(s.flushAcks)
	return s
}

// readBuffer is small because every idle connection holds one; a payload
// larger than it is read past it.
const readBuffer = 128

// ServeWebSocket accepts a client. The handler returns at once, so that
// net/http's goroutine and buffers are let go.
func (s *Server) ServeWebSocket(w http.ResponseWriter, r *http.Request) {
	protocol, header, ok := subprotocol(websocket.Subprotocols(r))
	if !ok {
		http.Error(w, "offer "+ProtocolProto+" or "+ProtocolJSON+" as WebSocket subprotocol", http.StatusBadRequest)
		return
	}
	h := &hijacker{ResponseWriter: w}
	ws, err := s.upgrader.Upgrade(h, r, header)
	if err != nil {
		return // Upgrade has answered
	}
	if s.poller == nil {
		h.stream = nil
	}
	c := newConn(s, ws, h.stream, codecOf(protocol))
	if !s.add(c) {
		_ = ws.Close()
		return
	}
	c.begin()
	if !s.Ready() {
		c.close(messages.CloseRestarting, "restarting")
	}
}

// subprotocol chooses the first that this server knows. A client that offers
// none gets JSON, and nothing in the answer.
func subprotocol(offered []string) (string, http.Header, bool) {
	if len(offered) == 0 {
		return ProtocolJSON, nil, true
	}
	for _, p := range offered {
		switch p { // not p itself: it holds on to the request's header
		case ProtocolProto:
			return ProtocolProto, http.Header{"Sec-Websocket-Protocol": {ProtocolProto}}, true
		case ProtocolJSON:
			return ProtocolJSON, http.Header{"Sec-Websocket-Protocol": {ProtocolJSON}}, true
		}
	}
	return "", nil, false
}

// add makes c known, unless the server is closed.
func (s *Server) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.running.Add(1)
	s.conns[c.id] = c
	s.Metrics.Connections.Add(1)
	s.Metrics.Accepted.Add(1)
	return true
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c.id)
	s.Metrics.Connections.Add(-1)
	s.running.Done()
}

// Connection returns the live connection id.
func (s *Server) Connection(id uint64) (*Conn, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c, ok := s.conns[id]
	return (*Conn)(c), ok
}

// Receive takes what actors tell the gateway: Answer, Attached, News and
// Expel. It never blocks on a client.
func (s *Server) Receive(m proto.Message) {
	switch m := m.(type) {
	case *messages.Answer:
		s.with(m.Connection, func(c *conn) { c.answered(m.Token, m.Frame) })
	case *messages.Attached:
		s.with(m.Connection, func(c *conn) { c.attached(m) })
	case *messages.News:
		s.with(m.Connection, func(c *conn) { c.news(m) })
	case *messages.Expel:
		s.with(m.Connection, func(c *conn) { c.close(int(m.Close), m.Reason) })
	}
}

func (s *Server) with(id uint64, f func(*conn)) {
	if c, ok := s.Connection(id); ok {
		f((*conn)(c))
	}
}

// SessionEnded tells that a session activation ended with its connections
// attached: they attach again, and check what they may have missed.
func (s *Server) SessionEnded(u messages.UserID) {
	for _, c := range s.all() {
		if c.belongsTo(u) {
			c.reattach()
		}
	}
}

func (s *Server) all() []*conn {
	s.mu.RLock()
	defer s.mu.RUnlock()
	conns := make([]*conn, 0, len(s.conns))
	for _, c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}

// Ready reports whether new clients are taken.
func (s *Server) Ready() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return !s.draining
}

// Drain tells every client to come back later and closes its connection with
// CloseRestarting, then waits until they are gone or ctx ends.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	for _, c := range s.all() {
		wait := time.Duration(rand.Int64N(int64(reconnectOver)))
		c.closing("restarting", wait)
	}
	return s.Close(ctx)
}

// Close ends every connection and waits for its goroutines, or until ctx ends.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	for _, c := range s.all() {
		c.close(messages.CloseRestarting, "restarting")
	}
	s.stop()
	done := make(chan struct{})
	go func() {
		s.running.Wait()
		s.readers.Close()
		s.writers.Close()
		if s.poller != nil {
			s.poller.close()
		}
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		for _, c := range s.all() {
			c.drop()
		}
		<-done
		return fmt.Errorf("closing clients: %w", context.Cause(ctx))
	}
}

// sweep looks after every connection each second: heartbeats, deadlines,
// expired tokens.
func (s *Server) sweep() {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-ticker.C:
			now := s.now()
			for _, c := range s.all() {
				c.tick(now)
			}
		}
	}
}

// flushAcks hands on acknowledgements that were held back to be coalesced.
func (s *Server) flushAcks() {
	ticker := time.NewTicker(ackEvery / 2)
	defer ticker.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-ticker.C:
			s.ackMu.Lock()
			due := s.acking
			s.acking = nil
			s.ackMu.Unlock()
			for _, c := range due {
				c.flushAcks()
			}
		}
	}
}

func (s *Server) ackLater(c *conn) {
	s.ackMu.Lock()
	defer s.ackMu.Unlock()
	s.acking = append(s.acking, c)
}

// tell hands m to an actor. A failure to place it is answered as unavailable
// by whoever waits for the answer.
func (s *Server) tell(kind, identity string, m any) error {
	err := s.cfg.Actors.Tell(kind, identity, m)
	if err != nil && !errors.Is(err, context.Canceled) {
		s.cfg.Logger.Warn("telling an actor", "kind", kind, "id", identity, "error", err)
	}
	return err
}

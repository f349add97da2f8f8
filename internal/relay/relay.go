// Package relay is the least server that carries direct messages durably:
// gorilla/websocket, Pebble with Sync, and a map. It has no actors, accounts,
// windows, cursors or deduplication. It commits what all senders wait for in
// one batch and coalesces what it writes, so it shows what the machine, the
// disk and the sockets can do: the benchmarks compare Troupe to it.
//
// It speaks as much of troupe.v1.proto as that takes. The token of a hello is
// the user's name; send goes to a user; every other command is ignored.
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/gorilla/websocket"

	"github.com/troupe-chat/troupe/messages"
)

// writers is how many goroutines write to sockets.
const writers = 4

// Server is a relay. Make one with Open.
type Server struct {
	db       *pebble.DB
	log      *slog.Logger
	upgrader websocket.Upgrader
	commits  *queue[send]
	fanout   *queue[committed]
	flushes  *queue[*conn]

	readers sync.WaitGroup // one for each connection
	workers sync.WaitGroup

	mu     sync.Mutex
	users  map[string]*conn                  // the newest of each; guarded by mu
	talks  map[messages.ConversationID]*talk // guarded by mu
	conns  map[*conn]struct{}                // guarded by mu
	closed bool                              // guarded by mu
}

// talk is the direct conversation of two users.
type talk struct {
	id    messages.ConversationID
	users [2]string
	key   []byte // of its rows, without the seq
	seq   uint64 // of the last row; owned by the committer
}

func (t *talk) other(user string) string {
	if t.users[0] == user {
		return t.users[1]
	}
	return t.users[0]
}

// Open starts a relay over the database in dir, which starts empty.
func Open(dir string, log *slog.Logger) (*Server, error) {
	db, err := pebble.Open(dir, &pebble.Options{
		ErrorIfExists: true,
		Logger:        quiet{},
		MemTableSize:  64 << 20,
	})
	if err != nil {
		return nil, fmt.Errorf("open the relay's database: %w", err)
	}
	s := &Server{
		db:  db,
		log: log,
		upgrader: websocket.Upgrader{
			Subprotocols:    []string{"troupe.v1.proto"},
			ReadBufferSize:  4096,
			WriteBufferSize: 512,
			WriteBufferPool: &sync.Pool{},
		},
		commits: newQueue[send](),
		fanout:  newQueue[committed](),
		flushes: newQueue[*conn](),
		users:   make(map[string]*conn),
		talks:   make(map[messages.ConversationID]*talk),
		conns:   make(map[*conn]struct{}),
	}
	s.workers.Go(s.commitAll)
	s.workers.Go(s.fanOutAll)
	for range writers {
		s.workers.Go(s.flushAll)
	}
	return s, nil
}

// Handler serves clients at /v1/ws and a heap profile at /debug/pprof/heap.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/ws", s.accept)
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	mux.Handle("GET /debug/pprof/heap", pprof.Handler("heap"))
	return mux
}

// Close ends all connections and the database.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.ws.Close()
	}
	s.mu.Unlock()
	s.readers.Wait()
	s.commits.close()
	s.workers.Wait()
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close the relay's database: %w", err)
	}
	return nil
}

// Serve runs a relay with its data in dir on l until ctx ends.
func Serve(ctx context.Context, l net.Listener, dir string, log *slog.Logger) error {
	s, err := Open(dir, log)
	if err != nil {
		return err
	}
	h := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(stopped)
		h.Close()
	})
	err = h.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		<-stopped
		err = nil
	}
	return errors.Join(err, s.Close())
}

func (s *Server) accept(w http.ResponseWriter, r *http.Request) {
	ws, err := s.upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // the upgrader has answered
	}
	c := &conn{server: s, ws: ws, peers: make(map[string]*talk)}
	if !s.join(c) {
		ws.Close()
		return
	}
	// A goroutine of its own lets the handler return, and with it net/http's
	// buffers go.
	go c.run()
}

func (s *Server) join(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[c] = struct{}{}
	s.readers.Add(1)
	return true
}

func (s *Server) leave(c *conn) {
	c.ws.Close()
	s.mu.Lock()
	delete(s.conns, c)
	if s.users[c.user] == c {
		delete(s.users, c.user)
	}
	s.mu.Unlock()
	s.readers.Done()
}

func (s *Server) named(c *conn, user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.user = user
	s.users[user] = c
}

// talkOf returns the conversation of two users, made on first use.
func (s *Server) talkOf(a, b string) *talk {
	id := messages.Direct(messages.UserID(a), messages.UserID(b))
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.talks[id]
	if t == nil {
		t = &talk{id: id, users: [2]string{a, b}, key: append([]byte(id), 0)}
		s.talks[id] = t
	}
	return t
}

// quiet drops what Pebble tells about its own housekeeping.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf("pebble: "+format, args...))
}

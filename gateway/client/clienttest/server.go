// Package clienttest is a small Troupe server in memory for the tests of
// programs that use package client. It keeps no promise but those that a test
// needs, and does on demand what a real server does seldom: cut connections,
// close them with a code, refuse, repeat, leave out.
package clienttest

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/troupe-chat/troupe/messages"
)

// Server is an http.Handler. Its methods may be called concurrently.
type Server struct {
	// Intercept, where it is set, sees each command first and returns true
	// for those that it has dealt with. Set before the first connection. It is
	// called on the connection's reader and may use the methods of c.
	Intercept func(c *Conn, f *messages.ClientFrame) bool

	upgrader websocket.Upgrader
	mux      *http.ServeMux
	pipes    chan net.Conn

	mu            sync.Mutex
	changed       *sync.Cond                           // signalled on every change
	limits        *messages.Limits                     // guarded by mu
	passwords     map[string]string                    // guarded by mu: by user
	tokens        map[string]string                    // guarded by mu: user by token
	profiles      map[string]*messages.ProfileInfo     // guarded by mu
	blocks        map[[2]string]bool                   // guarded by mu: who, whom
	conversations map[string]*conversation             // guarded by mu
	devices       map[[2]string]map[string]uint64      // guarded by mu: acknowledged positions by user and device
	conns         map[*Conn]bool                       // guarded by mu
	watchers      map[*Conn]map[string]bool            // guarded by mu
	frames        []*messages.ClientFrame              // guarded by mu: all that came
	appended      map[[3]string]*messages.Entry        // guarded by mu: by conversation, author and client id
	groups        map[[2]string]string                 // guarded by mu: conversation by creator and client id
	settings      map[[2]string]*messages.Conversation // guarded by mu: muted, archived, pinned by user and conversation
}

// New returns a server without users.
func New() *Server {
	s := &Server{
		upgrader: websocket.Upgrader{
			Subprotocols: []string{"troupe.v1.proto", "troupe.v1.json"},
			CheckOrigin:  func(*http.Request) bool { return true },
		},
		mux:           http.NewServeMux(),
		pipes:         make(chan net.Conn),
		limits:        messages.DefaultLimits(),
		passwords:     map[string]string{},
		tokens:        map[string]string{},
		profiles:      map[string]*messages.ProfileInfo{},
		blocks:        map[[2]string]bool{},
		conversations: map[string]*conversation{},
		devices:       map[[2]string]map[string]uint64{},
		conns:         map[*Conn]bool{},
		watchers:      map[*Conn]map[string]bool{},
		appended:      map[[3]string]*messages.Entry{},
		groups:        map[[2]string]string{},
		settings:      map[[2]string]*messages.Conversation{},
	}
	s.changed = sync.NewCond(&s.mu)
	s.mux.HandleFunc("GET /v1/ws", s.socket)
	s.mux.HandleFunc("POST /v1/users", s.register)
	s.mux.HandleFunc("POST /v1/tokens", s.login)
	s.mux.HandleFunc("POST /v1/password", s.password)
	s.mux.HandleFunc("GET /v1/devices", s.listDevices)
	s.mux.HandleFunc("DELETE /v1/devices/{id}", s.signOut)
	s.mux.HandleFunc("DELETE /v1/account", s.deleteAccount)
	return s
}

// ServeHTTP serves the interface of a Troupe server.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Pipe serves connections that Dial makes, without a network, until ctx ends.
func (s *Server) Pipe(ctx context.Context) {
	server := &http.Server{Handler: s}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	server.Serve(&pipeListener{pipes: s.pipes, done: make(chan struct{})})
}

// Dial connects to a server that Pipe serves, whatever the address.
func (s *Server) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case s.pipes <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type pipeListener struct {
	pipes chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.pipes:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// AddUser makes an account, without the cost of HTTP, and returns a token.
func (s *Server) AddUser(user, password string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passwords[user] = password
	return s.mint(user)
}

func (s *Server) mint(user string) string {
	token := "token-" + user + "-" + strconv.Itoa(len(s.tokens))
	s.tokens[token] = user
	return token
}

// Revoke makes all tokens of user worthless.
func (s *Server) Revoke(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for token, u := range s.tokens {
		if u == user {
			s.tokens[token] = ""
		}
	}
}

// SetLimits changes what welcome says from now on.
func (s *Server) SetLimits(l *messages.Limits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits = l
}

func (s *Server) maxMessage() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.limits.MessageBytes)
}

// Frames returns the commands that have come, oldest first, which are so.
func (s *Server) Frames(so func(*messages.ClientFrame) bool) []*messages.ClientFrame {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*messages.ClientFrame
	for _, f := range s.frames {
		if so(f) {
			out = append(out, f)
		}
	}
	return out
}

// Conns returns the connections of user that have said hello.
func (s *Server) Conns(user string) []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*Conn
	for c := range s.conns {
		if c.user == user {
			out = append(out, c)
		}
	}
	return out
}

// AwaitConn waits for a connection of user.
func (s *Server) AwaitConn(user string) *Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for c := range s.conns {
			if c.user == user {
				return c
			}
		}
		s.changed.Wait()
	}
}

// Log returns the entries of a conversation.
func (s *Server) Log(id messages.ConversationID) []*messages.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.conversations[string(id)]; c != nil {
		return append([]*messages.Entry(nil), c.entries...)
	}
	return nil
}

// Say appends a text from one user to another, and delivers it.
func (s *Server) Say(from, to, body string) *messages.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, _ := s.send(from, &messages.Send{
		User: to, ClientId: "say-" + strconv.Itoa(len(s.appended)),
		Content: &messages.Send_Text{Text: &messages.Text{Body: body}},
	})
	s.deliverAll()
	return e
}

// Append appends a text without telling anyone until something else does.
func (s *Server) Append(from, to, body string) *messages.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, _ := s.send(from, &messages.Send{
		User: to, ClientId: "append-" + strconv.Itoa(len(s.appended)),
		Content: &messages.Send_Text{Text: &messages.Text{Body: body}},
	})
	return e
}

// ---- HTTP

type credentials struct {
	User        string `json:"user"`
	Password    string `json:"password"`
	NewPassword string `json:"new_password"`
}

func (s *Server) register(w http.ResponseWriter, r *http.Request) {
	var c credentials
	if json.NewDecoder(r.Body).Decode(&c) != nil || !messages.UserID(c.User).Valid() || len(c.Password) < 8 {
		fail(w, messages.Fail(messages.CodeInvalid, "bad name or password"))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.passwords[c.User]; taken {
		fail(w, messages.Fail(messages.CodeConflict, "the name is taken"))
		return
	}
	s.passwords[c.User] = c.Password
	reply(w, http.StatusCreated, map[string]any{"user": c.User, "token": s.mint(c.User), "expires_at": expiry()})
}

func expiry() int64 { return time.Now().Add(time.Hour).UnixMilli() }

func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	var c credentials
	s.mu.Lock()
	defer s.mu.Unlock()
	if json.NewDecoder(r.Body).Decode(&c) != nil || s.passwords[c.User] == "" || s.passwords[c.User] != c.Password {
		fail(w, messages.Fail(messages.CodeUnauthenticated, "wrong name or password"))
		return
	}
	reply(w, http.StatusOK, map[string]any{"token": s.mint(c.User), "expires_at": expiry()})
}

// caller returns who calls, with mu held, or answers and returns "".
func (s *Server) caller(w http.ResponseWriter, r *http.Request) string {
	user := s.tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	if user == "" {
		fail(w, messages.Fail(messages.CodeUnauthenticated, "no valid token"))
	}
	return user
}

func (s *Server) password(w http.ResponseWriter, r *http.Request) {
	var c credentials
	s.mu.Lock()
	defer s.mu.Unlock()
	user := s.caller(w, r)
	if user == "" {
		return
	}
	if json.NewDecoder(r.Body).Decode(&c) != nil || s.passwords[user] != c.Password {
		fail(w, messages.Fail(messages.CodeForbidden, "wrong password"))
		return
	}
	s.passwords[user] = c.NewPassword
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) listDevices(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	user := s.caller(w, r)
	if user == "" {
		return
	}
	devices := []map[string]any{}
	for key := range s.devices {
		if key[0] == user {
			devices = append(devices, map[string]any{"id": key[1], "last_seen": time.Now().UnixMilli()})
		}
	}
	reply(w, http.StatusOK, map[string]any{"devices": devices})
}

func (s *Server) signOut(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	user := s.caller(w, r)
	if user == "" {
		return
	}
	id := r.PathValue("id")
	for c := range s.conns {
		if c.user == user && (id == "all" || c.device == id) {
			c.Close(messages.CloseUnauthenticated, "signed out")
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) deleteAccount(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if user := s.caller(w, r); user != "" {
		s.passwords[user] = ""
		w.WriteHeader(http.StatusNoContent)
	}
}

func fail(w http.ResponseWriter, f *messages.Failure) {
	reply(w, f.Status(), map[string]any{"error": map[string]any{"code": f.Code, "message": f.Message}})
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/troupe-chat/troupe/messages"
)

const (
	dialWithin    = 10 * time.Second
	welcomeWithin = 15 * time.Second
	writeWithin   = 10 * time.Second
	partWithin    = time.Second
	// A server message is at most messages.MaxServerMessage in binary; its
	// JSON is larger.
	maxReceived = 8 * messages.MaxServerMessage
)

var (
	errLost    = errors.New("the connection was lost")
	errFlooded = errors.New("the application is too far behind")
)

// link is one connection.
type link struct {
	ws    *websocket.Conn
	codec codec

	mu      sync.Mutex
	frames  [][]byte                               // guarded by mu: encoded, to be written
	pending map[uint32]func(*messages.ServerFrame) // guarded by mu: who waits for an answer
	lastID  uint32                                 // guarded by mu
	max     int                                    // guarded by mu: bytes of one message
	ended   bool                                   // guarded by mu
	wake    chan struct{}                          // holds a token while frames may be waiting
	done    chan struct{}                          // closed by end

	silence atomic.Int64 // ns without a byte after which the server is gone; 0: parting

	// Owned by the reader.
	welcome *messages.Welcome
	refused *messages.Failure // the answer to hello, where it was an error
	closing *messages.Closing
}

func newLink(ws *websocket.Conn, c codec) *link {
	l := &link{
		ws:      ws,
		codec:   c,
		pending: map[uint32]func(*messages.ServerFrame){},
		max:     int(messages.DefaultLimits().MessageBytes),
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
	}
	l.silence.Store(int64(welcomeWithin))
	ws.SetReadLimit(maxReceived)
	ws.SetPingHandler(l.ping)
	return l
}

func (l *link) ping(data string) error {
	l.heard()
	err := l.ws.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(writeWithin))
	if errors.Is(err, websocket.ErrCloseSent) {
		return nil
	}
	return err
}

// heard puts off the moment at which the server counts as gone.
func (l *link) heard() {
	d := l.silence.Load()
	if d == 0 {
		return
	}
	l.ws.SetReadDeadline(time.Now().Add(time.Duration(d)))
	if l.silence.Load() == 0 { // part came in between
		l.ws.SetReadDeadline(time.Now().Add(partWithin))
	}
}

// post queues a command that has no answer.
func (l *link) post(f *messages.ClientFrame) error {
	return l.ask(f, nil)
}

// ask queues a command. answered is called once, on the reader's goroutine,
// with the answer, or with nil when the connection ended without one. It is
// not called when ask returns an error: errLost, or a failure that says why
// the command can never be sent.
func (l *link) ask(f *messages.ClientFrame, answered func(*messages.ServerFrame)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return errLost
	}
	if answered != nil {
		l.lastID++
		f.Id = l.lastID
	}
	b, err := l.codec.frame(f)
	if err != nil {
		return messages.Fail(messages.CodeInvalid, "this cannot be encoded: use valid UTF-8")
	}
	if len(b)+l.codec.overhead > l.max {
		return messages.Fail(messages.CodeTooLarge, "this is %d bytes; the server takes %d", len(b), l.max)
	}
	if answered != nil {
		l.pending[f.Id] = answered
	}
	l.frames = append(l.frames, b)
	l.signal()
	return nil
}

func (l *link) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// take returns who waits for the answer to id.
func (l *link) take(id uint32) func(*messages.ServerFrame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	answered := l.pending[id]
	delete(l.pending, id)
	return answered
}

// write writes what is queued, as much as fits in each message, until the
// connection ends.
func (l *link) write() {
	for {
		select {
		case <-l.wake:
		case <-l.done:
			return
		}
		for batch := l.next(); batch != nil; batch = l.next() {
			l.ws.SetWriteDeadline(time.Now().Add(writeWithin))
			if err := l.ws.WriteMessage(l.codec.messageType, batch); err != nil {
				l.ws.Close() // the reader finds out and says why
				return
			}
		}
	}
}

// next returns the next message to write, or nil.
func (l *link) next() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, size := 0, l.codec.overhead
	for n < len(l.frames) && (n == 0 || size+len(l.frames[n])+l.codec.overhead <= l.max) {
		size += len(l.frames[n]) + l.codec.overhead
		n++
	}
	if n == 0 {
		return nil
	}
	batch := l.codec.batch(l.frames[:n])
	l.frames = l.frames[n:]
	return batch
}

// read hands each frame that is not an answer to handle, until the connection
// ends or handle fails.
func (l *link) read(handle func(*messages.ServerFrame) error) error {
	for {
		l.heard()
		_, b, err := l.ws.ReadMessage()
		if err != nil {
			return err
		}
		frames, err := l.codec.decode(b)
		if err != nil {
			return err
		}
		if err := l.route(frames, handle); err != nil {
			return err
		}
	}
}

func (l *link) route(frames []*messages.ServerFrame, handle func(*messages.ServerFrame) error) error {
	for _, f := range frames {
		if answered := l.take(f.Re); answered != nil {
			answered(f)
			continue
		}
		if err := handle(f); err != nil {
			return err
		}
	}
	return nil
}

// greeted notes the server's welcome.
func (l *link) greeted(w *messages.Welcome) {
	l.welcome = w
	if beat := w.GetHeartbeatSeconds(); beat > 0 {
		l.silence.CompareAndSwap(int64(welcomeWithin), int64(time.Duration(beat)*time.Second*5/2))
	}
	if n := w.GetLimits().GetMessageBytes(); n > 0 {
		l.mu.Lock()
		l.max = int(n)
		l.mu.Unlock()
	}
}

// refuse notes that hello was refused and gives the server a moment to close
// with the code that says what to do.
func (l *link) refuse(f *messages.Failure) {
	l.refused = f
	l.silence.Store(0)
	l.ws.SetReadDeadline(time.Now().Add(partWithin))
}

// part says goodbye; the reader ends when the server has answered, or soon.
func (l *link) part() {
	l.silence.Store(0)
	l.ws.WriteControl(websocket.CloseMessage,
		websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(partWithin))
	l.ws.SetReadDeadline(time.Now().Add(partWithin))
}

// end closes the connection and tells everyone who waits for an answer.
func (l *link) end() {
	l.ws.Close()
	l.mu.Lock()
	waiting := l.pending
	l.pending, l.frames, l.ended = nil, nil, true
	l.mu.Unlock()
	close(l.done)
	for _, answered := range waiting {
		answered(nil)
	}
}

// dial opens a connection.
func (c *Client) dial(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	d := websocket.Dialer{
		NetDialContext:  c.options.Dial,
		Subprotocols:    []string{c.codec.subprotocol},
		WriteBufferPool: &writeBuffers,
	}
	ws, answer, err := d.DialContext(ctx, c.url, nil)
	if answer != nil && err != nil {
		return nil, &handshakeError{status: answer.StatusCode, err: err}
	}
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", c.url, err)
	}
	if ws.Subprotocol() != c.codec.subprotocol {
		ws.Close()
		return nil, &handshakeError{status: answer.StatusCode, err: fmt.Errorf("the server does not speak %s", c.codec.subprotocol)}
	}
	return newLink(ws, c.codec), nil
}

// writeBuffers are shared by all connections of the process.
var writeBuffers sync.Pool

// handshakeError is an answer of HTTP in place of a socket.
type handshakeError struct {
	status int
	err    error
}

func (e *handshakeError) Error() string {
	return fmt.Sprintf("the server answered the handshake with HTTP %d: %v", e.status, e.err)
}

func (e *handshakeError) Unwrap() error { return e.err }

// final reports whether trying again later would be of no use: this is no
// Troupe server, or not one that takes this client.
func (e *handshakeError) final() bool {
	switch e.status {
	case 408, 425, 429:
		return false
	}
	return e.status < 500
}

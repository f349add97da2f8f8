package gateway

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/troupe-chat/troupe/messages"
)

// Conn is one client's socket, as the actors see it.
type Conn conn

// reading and writing are a connection as a task.
type (
	reading conn
	writing conn
)

// Run reads and handles what has come.
func (r *reading) Run() { (*conn)(r).serve() }

// Run writes what waits.
func (w *writing) Run() { (*conn)(w).write() }

// phase is how far a connection is.
type phase uint8

const (
	phaseNew       phase = iota // no hello yet
	phaseAttaching              // hello is being answered
	phaseLive
	phaseClosed // nothing more is written but what waits and the close frame
)

// call is a command without an answer.
type call struct {
	token    uint64
	re       uint32
	cost     int
	bytes    int // admitted to the node's appends; 0: not a send
	deadline instant
	// A send's, so that its entry is recognised.
	conversation messages.ConversationID
	clientID     messages.ClientID
}

// conn is one client's socket: a reader only while something has come, a
// writer only while something waits to be written, and the delivery loop's
// state. Actors append to it and never write.
type conn struct {
	srv *Server
	ws  *websocket.Conn
	in  *stream // below ws; nil: its reader waits for what comes
	id  uint64

	frames  []*messages.ClientFrame // read and not handled yet. Owned by the reader.
	reading atomic.Uint32

	refusals  int32      // guarded by mu, like what follows
	mu        sync.Mutex // an idle connection is small: flags stand together
	phase     phase
	writing   bool // a writer has it
	waiting   bool // nobody reads until there is room
	pingDue   bool
	pings     int8 // without a pong
	closeCode uint16
	out       outbox
	slots     map[slot]*messages.ServerFrame // overwritten while the client is slow
	owed      int                            // commands whose answer is not written
	owedCost  int                            // what those answers may take, in bytes
	calls     []call                         // unanswered, oldest first
	token     uint64                         // of the last call

	user     messages.UserID
	device   messages.DeviceID
	client   string
	number   uint64 // of this connection, given by the session
	session  string // activation that it is attached to
	tokenID  string
	expires  instant
	hello    *helloState // while attaching
	delivery delivery
	since    instant
	nextPing instant
	nextNet  instant
	pong     []byte // to answer the client's ping with; nil: none
	reason   string // for closeCode
}

// slot names what a frame is about: a later one takes its place.
type slot struct {
	kind         string
	conversation string
	user         string
}

// What a connection may have under way.
const (
	maxOwed    = 32
	maxPending = 1 << 20
	maxSlots   = 512
)

func newConn(s *Server, ws *websocket.Conn, in *stream, c codec) *conn {
	now := s.now()
	conn := &conn{srv: s, ws: ws, in: in, id: s.nextID.Add(1), out: outbox{codec: c}, since: now}
	conn.nextPing = now.add(heartbeat/2 + rand.N(heartbeat/2))
	conn.nextNet = now.add(netEvery/2 + rand.N(netEvery))
	conn.reading.Store(workerReads)
	ws.SetPingHandler(conn.onPing)
	ws.SetPongHandler(conn.onPong)
	ws.SetCloseHandler(func(int, string) error { return nil })
	return conn
}

// ---------------------------------------------------------------- reading

// Who reads a connection.
const (
	nobodyReads uint32 = iota // the poller tells when something comes
	workerReads               // or the connection is held back, or has ended
	moreToRead                // a worker does, and something has come since
)

// begin has a new connection read. Nobody else does before: it is made in the
// hands of a worker.
func (c *conn) begin() {
	if c.in != nil {
		if err := c.srv.poller.watch(c.in, c.id); err != nil {
			c.srv.cfg.Logger.Warn("waiting for a client", "connection", c.id, "error", err)
			c.in = nil
		}
	}
	c.srv.readers.Go((*reading)(c))
}

// readable has the connection read, unless somebody does already: something
// has come, or it has ended.
func (c *conn) readable() {
	for {
		switch c.reading.Load() {
		case nobodyReads:
			if c.reading.CompareAndSwap(nobodyReads, workerReads) {
				c.srv.readers.Go((*reading)(c))
				return
			}
		case workerReads:
			if c.reading.CompareAndSwap(workerReads, moreToRead) {
				return
			}
		case moreToRead:
			return
		}
	}
}

// rest ends a worker's turn, or returns false where something has come since
// it last looked.
func (c *conn) rest() bool {
	if c.reading.CompareAndSwap(workerReads, nobodyReads) {
		return true
	}
	c.reading.Store(workerReads)
	return false
}

// serve handles what the client has sent, on one of the server's readers, as
// long as there is something and room for its answers. An idle connection
// holds no goroutine.
func (c *conn) serve() {
	for {
		switch c.handle() {
		case takesLater:
			return // whoever makes room has it served again
		case takesNone:
			c.finish(nil)
			return
		}
		ready, err := c.in.ready()
		if ready {
			c.frames, err = c.next()
		}
		if err != nil {
			c.finish(err)
			return
		}
		if !ready && c.rest() {
			return
		}
	}
}

// handle handles the frames that have been read, as far as there is room.
func (c *conn) handle() taking {
	for len(c.frames) > 0 {
		if r := c.room(); r != takesMore {
			return r
		}
		f := c.frames[0]
		c.frames = c.frames[1:]
		c.srv.Metrics.FramesIn.Add(1)
		c.command(f)
	}
	c.frames = nil
	if !c.open() {
		return takesNone
	}
	return takesMore
}

// finish is the last that a reader does for a connection. err is what reading
// ended with, if anything.
func (c *conn) finish(err error) {
	switch {
	case errors.Is(err, errTooLarge):
		c.close(messages.CloseTooLarge, "message too large")
	case errors.Is(err, errBadFrame):
		c.close(messages.CloseBadFrame, errBadFrame.Error())
	case err != nil:
		c.close(websocket.CloseNormalClosure, "")
	}
	c.frames = nil
	c.leave()
	c.drainReads(err)
	c.end()
}

var errTooLarge = errors.New("message too large")

var readBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// next reads the frames of one WebSocket message. It waits without a buffer.
func (c *conn) next() ([]*messages.ClientFrame, error) {
	kind, r, err := c.ws.NextReader()
	if err != nil {
		return nil, fmt.Errorf("waiting for a message: %w", err)
	}
	buf := readBuffers.Get().(*[]byte)
	defer readBuffers.Put(buf)
	b, err := readAll(r, (*buf)[:0], int(c.srv.cfg.Limits.MessageBytes))
	*buf = b[:0]
	if err != nil {
		return nil, err
	}
	return c.out.codec.decode(kind, b)
}

// readAll is io.ReadAll with a limit, into b.
func readAll(r io.Reader, b []byte, limit int) ([]byte, error) {
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case len(b) > limit:
			return b, errTooLarge
		case err == io.EOF:
			return b, nil
		case err != nil:
			return b, fmt.Errorf("reading a message: %w", err)
		}
	}
}

// taking says whether a connection takes another command.
type taking uint8

const (
	takesMore taking = iota
	takesLater
	takesNone
)

// room tells whether another command may be taken now. It is what bounds a
// client that asks and never reads: its socket is not read either, until
// release. Nor is anything taken before hello is answered.
func (c *conn) room() taking {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.phase == phaseClosed:
		return takesNone
	case c.phase != phaseAttaching && c.owed < maxOwed && c.owedCost+c.out.size() < maxPending:
		return takesMore
	}
	c.waiting = true
	return takesLater
}

// release has a connection that waits for room looked at again. Called with mu
// held.
func (c *conn) release() {
	if c.waiting {
		c.waiting = false
		c.srv.readers.Go((*reading)(c))
	}
}

func (c *conn) open() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.phase != phaseClosed
}

// drainReads reads what the client still sends until it has seen the close
// frame or given up: a socket closed with unread data resets the peer, which
// then may lose the close frame. err is what reading ended with, if anything.
func (c *conn) drainReads(err error) {
	ours := err == nil || errors.Is(err, errTooLarge) || errors.Is(err, errBadFrame)
	if _, closed := errors.AsType[*websocket.CloseError](err); !ours && !closed {
		return // there is nobody to read it
	}
	_ = c.socket().SetReadDeadline(time.Now().Add(closeTimeout))
	_, _ = io.Copy(io.Discard, io.LimitReader(c.socket(), maxDrained))
}

// maxDrained bounds what is read of a client that was told to go.
const maxDrained = 4 << 20

// leave takes the connection out of its session: from here on its user is not
// connected here.
func (c *conn) leave() {
	c.mu.Lock()
	c.phase = phaseClosed
	c.release()
	calls := c.calls
	c.calls = nil
	number := c.number
	c.number = 0
	origin := c.origin(0)
	c.mu.Unlock()
	for _, call := range calls {
		c.srv.done(call)
	}
	if number == 0 {
		return
	}
	c.flushAcks()
	_ = c.srv.tell(messages.ActorSession, origin.User, &messages.Detach{Origin: origin, Number: number})
}

func (c *conn) end() {
	c.in.discard()
	_ = c.socket().Close()
	c.srv.remove(c)
}

func (c *conn) origin(token uint64) *messages.Origin {
	return &messages.Origin{
		Node: c.srv.cfg.Node, Connection: c.id, User: string(c.user), Device: string(c.device), Token: token,
	}
}

func (c *conn) belongsTo(u messages.UserID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.phase == phaseLive && c.user == u
}

// ---------------------------------------------------------------- writing

// wake makes sure that somebody writes. Called with mu held.
func (c *conn) wake() {
	if !c.writing {
		c.writing = true
		c.srv.writers.Go((*writing)(c))
	}
}

// write writes until nothing waits, on one of the server's writers.
func (c *conn) write() {
	for {
		w, ok := c.nextWrite()
		if !ok {
			return
		}
		err := c.flush(w)
		if w.buf != nil {
			w.buf.release()
		}
		c.written(w)
		if err != nil || w.closeCode != 0 {
			c.drop()
			return
		}
	}
}

// work is what a writing goroutine has taken.
type work struct {
	buf       *buffer
	answers   int
	cost      int
	ping      bool
	pong      []byte
	closeCode int
	reason    string
}

func (c *conn) nextWrite() (work, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out.empty() && c.phase != phaseClosed {
		c.emptySlots()
	}
	var w work
	w.buf, w.answers, w.cost = c.out.take()
	w.ping, w.pong = c.pingDue, c.pong
	c.pingDue, c.pong = false, nil
	if w.buf == nil && !w.ping && w.pong == nil {
		w.closeCode, w.reason = int(c.closeCode), c.reason
		c.closeCode = 0
		if w.closeCode == 0 {
			c.writing = false
			return w, false
		}
	}
	return w, true
}

// emptySlots moves the frames that were held back into the outbox.
func (c *conn) emptySlots() {
	for _, f := range c.slots {
		c.out.frame(f)
	}
	c.slots = nil
}

func (c *conn) flush(w work) error {
	deadline := time.Now().Add(writeTimeout)
	if w.closeCode != 0 {
		deadline = time.Now().Add(closeTimeout)
		return c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(w.closeCode, w.reason), deadline)
	}
	_ = c.ws.SetWriteDeadline(deadline)
	if w.pong != nil {
		if err := c.ws.WriteControl(websocket.PongMessage, w.pong, deadline); err != nil {
			return err
		}
	}
	if w.ping {
		if err := c.ws.WriteControl(websocket.PingMessage, nil, deadline); err != nil {
			return err
		}
	}
	if w.buf == nil {
		return nil
	}
	return w.buf.each(c.out.codec, func(b []byte) error { return c.ws.WriteMessage(c.out.codec.messageType(), b) })
}

func (c *conn) written(w work) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owed -= w.answers
	c.owedCost -= w.cost
	c.release()
}

// drop ends the connection without ceremony; who reads it notices.
func (c *conn) drop() {
	c.mu.Lock()
	c.phase = phaseClosed
	c.release()
	c.mu.Unlock()
	socket, deadline := c.socket(), time.Now()
	if tcp, ok := socket.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
		deadline = deadline.Add(closeTimeout)
	}
	_ = socket.SetReadDeadline(deadline)
	c.readable()
}

// socket is the connection below all that reads ahead.
func (c *conn) socket() net.Conn {
	if s, ok := c.ws.NetConn().(*stream); ok {
		return s.TCPConn
	}
	return c.ws.NetConn()
}

// close ends the connection after what waits has been written. The first code
// wins.
func (c *conn) close(code int, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeLocked(code, reason)
}

func (c *conn) closeLocked(code int, reason string) {
	if c.phase == phaseClosed {
		return
	}
	c.phase = phaseClosed
	c.closeCode, c.reason = uint16(code), reason
	c.release()
	c.wake()
}

// closing tells the client why and when to come back, then closes.
func (c *conn) closing(reason string, after time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase == phaseClosed {
		return
	}
	if c.phase == phaseLive {
		c.out.frame(&messages.ServerFrame{Event: &messages.ServerFrame_Closing{
			Closing: &messages.Closing{Reason: reason, ReconnectAfterMs: after.Milliseconds()},
		}})
	}
	c.closeLocked(messages.CloseRestarting, reason)
}

// push writes a frame that answers no command. Called with mu held.
func (c *conn) push(f *messages.ServerFrame) {
	c.out.frame(f)
	c.wake()
}

// ID is the gateway's number of the connection.
func (c *Conn) ID() uint64 { return c.id }

// InFlight is how many entries wait for the device's acknowledgement.
func (c *Conn) InFlight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, _ := c.delivery.window.InFlight()
	return n
}

// Notify shows a frame about something that later ones replace.
func (c *Conn) Notify(f *messages.ServerFrame) { (*conn)(c).notify(f) }

func (c *conn) notify(f *messages.ServerFrame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != phaseLive {
		return
	}
	if !c.writing || c.out.size() < maxPending/64 {
		c.push(f)
		return
	}
	if c.slots == nil {
		c.slots = map[slot]*messages.ServerFrame{}
	}
	key := slotOf(f)
	if _, ok := c.slots[key]; ok || len(c.slots) < maxSlots {
		c.slots[key] = f
	}
}

func slotOf(f *messages.ServerFrame) slot {
	switch e := f.Event.(type) {
	case *messages.ServerFrame_Receipt:
		return slot{"receipt", e.Receipt.Conversation, e.Receipt.User}
	case *messages.ServerFrame_Typing:
		return slot{"typing", e.Typing.Conversation, e.Typing.User}
	case *messages.ServerFrame_Presence:
		return slot{"presence", "", e.Presence.User}
	}
	return slot{}
}

// ---------------------------------------------------------------- time

func (c *conn) onPing(payload string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != phaseClosed {
		c.pong = []byte(payload)
		c.wake()
	}
	return nil
}

func (c *conn) onPong(string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pings = 0
	return nil
}

// instant is a time in ms since the epoch; 0: none. A connection keeps several,
// and each is a third of a time.Time.
type instant int64

func instantOf(t time.Time) instant {
	if t.IsZero() {
		return 0
	}
	return instant(t.UnixMilli())
}

func (i instant) add(d time.Duration) instant { return i + instant(d.Milliseconds()) }

func (i instant) sub(j instant) time.Duration { return time.Duration(i-j) * time.Millisecond }

func (s *Server) now() instant { return instant(s.cfg.Now().UnixMilli()) }

// tick does what is due at now.
func (c *conn) tick(now instant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.phase == phaseClosed:
		return
	case c.phase != phaseLive && now.sub(c.since) > messages.HelloWithin:
		c.closeLocked(messages.CloseTimeout, "no hello in time")
		return
	case c.expires != 0 && now > c.expires:
		c.closeLocked(messages.CloseUnauthenticated, "the token has expired")
		return
	case c.delivery.overdue(now):
		c.closeLocked(messages.CloseTimeout, "acknowledgements are missing")
		return
	case c.pings >= missedPongs && now > c.nextPing:
		c.closeLocked(messages.CloseTimeout, "no answer to pings")
		return
	}
	c.expireCalls(now)
	if now > c.nextPing {
		c.nextPing = now.add(heartbeat - heartbeat/20 + rand.N(heartbeat/10))
		c.pings++
		c.pingDue = true
		c.wake()
	}
	if c.phase == phaseLive && now > c.nextNet {
		c.nextNet = now.add(netEvery - netEvery/10 + rand.N(netEvery/5))
		c.catchUp(false)
	}
}

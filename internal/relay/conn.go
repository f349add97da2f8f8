package relay

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/internal/load/wire"
	"github.com/troupe-chat/troupe/messages"
)

// conn is one client. Its goroutine, run, owns what is not guarded.
type conn struct {
	server *Server
	ws     *websocket.Conn
	user   string
	peers  map[string]*talk
	buf    []byte

	mu      sync.Mutex
	pending []byte // a ServerBatch to write; guarded by mu
	busy    bool   // queued for a writer or with one; guarded by mu
	spare   []byte // owned by the writer
}

var errNoHello = errors.New("the first frame must be hello")

func (c *conn) run() {
	defer c.server.leave(c)
	for {
		message, err := c.read()
		if err == nil {
			err = c.batch(message)
		}
		if err != nil {
			c.server.log.Debug("a connection ended", "user", c.user, "error", err)
			return
		}
	}
}

// read returns the next message, valid until the next call.
func (c *conn) read() ([]byte, error) {
	_, r, err := c.ws.NextReader()
	if err != nil {
		return nil, err
	}
	b := c.buf[:0]
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if errors.Is(err, io.EOF) {
			c.buf = b
			return b, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// batch hands the sends of one message to the committer together.
func (c *conn) batch(message []byte) error {
	var sends []send
	arena := make([]byte, 0, len(message)+256)
	frames := wire.Walk(message)
	for frames.Next() {
		f, err := wire.ParseFrame(frames.Bytes)
		if err != nil {
			return err
		}
		switch {
		case f.Kind == wire.CommandHello:
			err = c.hello(f)
		case c.user == "":
			err = errNoHello
		case f.Kind == wire.CommandSend:
			var s send
			s, arena, err = c.send(f, arena)
			sends = append(sends, s)
		}
		if err != nil {
			return err
		}
	}
	if len(sends) > 0 {
		c.server.commits.put(sends...)
	}
	return frames.Err()
}

func (c *conn) hello(f wire.Frame) error {
	var h messages.Hello
	if err := proto.Unmarshal(f.Body, &h); err != nil {
		return fmt.Errorf("decode a hello: %w", err)
	}
	if c.user != "" || !messages.UserID(h.Token).Valid() {
		return errNoHello
	}
	c.server.named(c, h.Token)
	b, err := wire.AppendFrame(nil, &messages.ServerFrame{Re: f.ID, Event: &messages.ServerFrame_Welcome{
		Welcome: &messages.Welcome{User: h.Token, Device: h.Device, ServerTime: time.Now().UnixMilli()},
	}})
	if err != nil {
		return err
	}
	if c.add(b) {
		c.server.flushes.put(c)
	}
	return nil
}

// send makes the part of an entry that does not depend on its place.
func (c *conn) send(f wire.Frame, arena []byte) (send, []byte, error) {
	p, err := wire.ParseSend(f.Body)
	if err != nil {
		return send{}, arena, err
	}
	t := c.peers[string(p.User)]
	if t == nil {
		if !messages.UserID(p.User).Valid() || string(p.User) == c.user {
			return send{}, arena, fmt.Errorf("%q is nobody to send to", p.User)
		}
		t = c.server.talkOf(c.user, string(p.User))
		c.peers[string(p.User)] = t
	}
	now := time.Now().UnixMilli()
	start := len(arena)
	arena = append(arena, p.ClientID...)
	id := arena[start:len(arena):len(arena)]
	start = len(arena)
	arena = wire.AppendEntryTail(arena, c.user, id, now, p.Text)
	return send{from: c, talk: t, re: f.ID, clientID: id, at: now, tail: arena[start:len(arena):len(arena)]}, arena, nil
}

// add adds b to what is written next. It reports whether the connection must
// be given to a writer.
func (c *conn) add(b []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending = append(c.pending, b...)
	wake := !c.busy
	c.busy = true
	return wake
}

// flush writes until nothing is pending.
func (c *conn) flush() {
	for {
		c.mu.Lock()
		b := c.pending
		if len(b) == 0 {
			c.busy = false
			c.mu.Unlock()
			return
		}
		c.pending = c.spare[:0]
		c.mu.Unlock()
		if err := c.ws.WriteMessage(websocket.BinaryMessage, b); err != nil {
			c.ws.Close() // run finds out, and leaves
		}
		c.spare = b
	}
}

func (s *Server) flushAll() {
	for {
		c, ok := s.flushes.take()
		if !ok {
			return
		}
		c.flush()
	}
}

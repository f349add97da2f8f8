package clienttest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

// Conn is a connection that a client made.
type Conn struct {
	server *Server
	ws     *websocket.Conn
	json   bool

	user, device string            // guarded by Server.mu
	sent         map[string]uint64 // guarded by Server.mu: the last entry sent, by conversation

	mu    sync.Mutex
	queue []outgoing    // guarded by mu
	wake  chan struct{} // holds a token while queue may hold something
	done  chan struct{}
}

// outgoing is a message to write, or the code to close with after it.
type outgoing struct {
	frames []*messages.ServerFrame
	code   int
	reason string
}

func (s *Server) socket(w http.ResponseWriter, r *http.Request) {
	ws, err := s.upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	c := &Conn{
		server: s, ws: ws, json: ws.Subprotocol() != "troupe.v1.proto",
		sent: map[string]uint64{}, wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	var wg sync.WaitGroup
	wg.Go(c.write)
	c.read()
	s.forget(c)
	close(c.done)
	wg.Wait()
	ws.Close()
}

func (c *Conn) read() {
	for {
		_, b, err := c.ws.ReadMessage()
		if err != nil {
			return
		}
		if len(b) > c.server.maxMessage() {
			c.Close(messages.CloseTooLarge, "message too large")
			continue
		}
		frames, err := c.decode(b)
		if err != nil {
			c.Close(messages.CloseBadFrame, "bad frame")
			continue
		}
		for _, f := range frames {
			if c.server.Intercept == nil || !c.server.Intercept(c, f) {
				c.server.Do(c, f)
			}
		}
	}
}

func (c *Conn) decode(b []byte) ([]*messages.ClientFrame, error) {
	if !c.json {
		batch := &messages.ClientBatch{}
		err := proto.Unmarshal(b, batch)
		return batch.Frames, err
	}
	raw := []json.RawMessage{b}
	if bytes.HasPrefix(b, []byte{'['}) {
		if err := json.Unmarshal(b, &raw); err != nil {
			return nil, err
		}
	}
	var frames []*messages.ClientFrame
	for _, r := range raw {
		f := &messages.ClientFrame{}
		if err := protojson.Unmarshal(r, f); err != nil {
			return nil, err
		}
		frames = append(frames, f)
	}
	return frames, nil
}

// Write sends frames as they are, in one WebSocket message.
func (c *Conn) Write(frames ...*messages.ServerFrame) { c.add(outgoing{frames: frames}) }

// Deliver sends entries in one deliver frame, due or not.
func (c *Conn) Deliver(entries ...*messages.Entry) {
	c.Write(&messages.ServerFrame{Event: &messages.ServerFrame_Deliver{Deliver: &messages.Deliver{Entries: entries}}})
}

// Refuse answers f with a failure.
func (c *Conn) Refuse(f *messages.ClientFrame, why *messages.Failure) { c.Write(why.Frame(f.Id)) }

// Close closes with a code, after what was written before.
func (c *Conn) Close(code int, reason string) { c.add(outgoing{code: code, reason: reason}) }

// Drop cuts the connection without a word.
func (c *Conn) Drop() { c.ws.NetConn().Close() }

func (c *Conn) add(o outgoing) {
	c.mu.Lock()
	c.queue = append(c.queue, o)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *Conn) write() {
	for {
		select {
		case <-c.wake:
		case <-c.done:
			return
		}
		c.mu.Lock()
		queue := c.queue
		c.queue = nil
		c.mu.Unlock()
		for _, o := range queue {
			c.put(o)
		}
	}
}

func (c *Conn) put(o outgoing) {
	if o.code != 0 {
		c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(o.code, o.reason), time.Now().Add(time.Second))
		c.ws.Close()
		return
	}
	if !c.json {
		b, _ := proto.Marshal(&messages.ServerBatch{Frames: o.frames})
		c.ws.WriteMessage(websocket.BinaryMessage, b)
		return
	}
	var parts [][]byte
	for _, f := range o.frames {
		parts = append(parts, messages.CompactJSON(f))
	}
	c.ws.WriteMessage(websocket.TextMessage, append(append([]byte{'['}, bytes.Join(parts, []byte{','})...), ']'))
}

package world

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/internal/history"
	"github.com/troupe-chat/troupe/messages"
)

// The subprotocols.
const (
	Proto = "troupe.v1.proto"
	JSON  = "troupe.v1.json"
)

// Device says how a device connects.
type Device struct {
	User, Name string
	Protocol   string // "": they take turns
	Token      string // "": a new one
	NoAck      bool   // acknowledges nothing by itself
	Quiet      bool   // keeps no entries, only counts them, and each answer once
	Hello      func(*messages.Hello)
}

// Client is one device: at most one connection at a time, and what it saw on
// all of them. Its methods may be called concurrently; those that wait end the
// test when they waited in vain, and so belong on its goroutine.
type Client struct {
	Device
	w    *World
	tape *history.Tape

	writing sync.Mutex // held while something is written

	mu       sync.Mutex    // guards what follows
	changed  chan struct{} // closed when something is
	ws       *websocket.Conn
	frames   []*messages.ServerFrame // all it has seen
	since    int                     // where those of this connection begin
	close    int                     // code that ended the connection; 0: it stands
	paused   bool
	nextID   uint32
	asked    map[uint32]*messages.ClientFrame         // not answered yet, on this connection
	answers  map[uint32]*messages.ServerFrame         // on this connection
	last     map[messages.ConversationID]messages.Seq // on this connection
	high     map[messages.ConversationID]messages.Seq // delivered, ever
	count    int                                      // entries that deliver frames brought
	problems []string
}

// Raw opens a socket that has said nothing yet. protocol "" offers none.
func (w *World) Raw(protocol string) *Client {
	w.t.Helper()
	c := w.client(Device{Protocol: protocol})
	c.dial()
	return c
}

// Connect opens a device's socket, says hello and waits for welcome.
func (w *World) Connect(d Device) *Client {
	w.t.Helper()
	c := w.client(d)
	c.Reconnect()
	return c
}

func (w *World) client(d Device) *Client {
	c := &Client{Device: d, w: w, changed: make(chan struct{}), high: map[messages.ConversationID]messages.Seq{}}
	w.mu.Lock()
	defer w.mu.Unlock()
	if d.User != "" {
		if c.Protocol == "" {
			c.Protocol = [...]string{Proto, JSON}[len(w.clients)%2]
		}
		if !d.Quiet {
			c.tape = w.history.Tape(messages.UserID(d.User), messages.DeviceID(d.Name))
		}
	}
	w.clients = append(w.clients, c)
	return c
}

// Reconnect ends the connection, if there is one, and makes another.
func (c *Client) Reconnect() {
	c.w.t.Helper()
	c.Close()
	if f := c.Greet(); f.GetWelcome() == nil {
		c.w.t.Fatalf("%s/%s was not welcomed: %v", c.User, c.Name, f)
	}
}

// Greet opens a socket, says hello and returns the answer.
func (c *Client) Greet() *messages.ServerFrame {
	c.w.t.Helper()
	hello := &messages.Hello{Token: c.Token, Device: c.Name, Client: "test/1"}
	if c.Token == "" {
		hello.Token = c.w.Token(c.User)
	}
	if c.Hello != nil {
		c.Hello(hello)
	}
	c.dial()
	c.noteHello(hello)
	return c.Ask(Do(hello))
}

func (c *Client) noteHello(h *messages.Hello) {
	if c.tape == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tape.Connect(h.Start == "head")
	for _, p := range h.Positions {
		c.tape.Resume(messages.ConversationID(p.Conversation), messages.Seq(p.Seq))
	}
}

// receiveBuffer keeps what the machine itself holds for a device small.
const receiveBuffer = 64 << 10

func (c *Client) dial() {
	c.w.t.Helper()
	dialer := websocket.Dialer{HandshakeTimeout: Patience, NetDialContext: dialSmall}
	if c.Protocol != "" {
		dialer.Subprotocols = []string{c.Protocol}
	}
	ws, answer, err := dialer.Dial(c.w.SocketURL(), nil)
	if err != nil {
		c.w.t.Fatalf("dialling: %v (%v)", err, answer)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ws, c.close, c.since, c.paused = ws, 0, len(c.frames), false
	c.asked = map[uint32]*messages.ClientFrame{}
	c.answers = map[uint32]*messages.ServerFrame{}
	c.last = map[messages.ConversationID]messages.Seq{}
	go c.read(ws)
}

func dialSmall(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(receiveBuffer)
	}
	return conn, err
}

// SocketURL is where sockets are opened.
func (w *World) SocketURL() string {
	return "ws" + strings.TrimPrefix(w.Node.ClientURL(), "http") + "/v1/ws"
}

// Close ends the connection without a word, as a lost one ends, and waits
// until the device has noticed.
func (c *Client) Close() {
	c.mu.Lock()
	ws, ended := c.ws, c.close != 0
	c.paused = false
	c.change()
	c.mu.Unlock()
	if ws == nil || ended {
		return
	}
	_ = ws.NetConn().Close()
	c.Closed()
}

// Pause stops reading from the socket, after what is being read.
func (c *Client) Pause() { c.pause(true) }

// Resume reads on.
func (c *Client) Resume() { c.pause(false) }

func (c *Client) pause(paused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = paused
	c.change()
}

// Mute makes the device acknowledge nothing by itself, or everything again.
func (c *Client) Mute(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.NoAck = on
}

// High is the highest entry of a conversation that deliver frames ever brought.
func (c *Client) High(conversation string) messages.Seq {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.high[messages.ConversationID(conversation)]
}

// change tells those who wait that something has. Called with mu held.
func (c *Client) change() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// ---------------------------------------------------------------- reading

func (c *Client) read(ws *websocket.Conn) {
	for {
		c.awaitUnpaused()
		_, b, err := ws.ReadMessage()
		if err != nil {
			c.ended(ws, err)
			return
		}
		frames, err := c.decode(b)
		if err != nil {
			c.problem("a message that can't be read: %v", err)
		}
		if acks := c.take(frames, len(b)); len(acks) > 0 {
			c.Ack(acks...)
		}
	}
}

func (c *Client) awaitUnpaused() {
	c.mu.Lock()
	for c.paused {
		changed := c.changed
		c.mu.Unlock()
		<-changed
		c.mu.Lock()
	}
	c.mu.Unlock()
}

func (c *Client) ended(ws *websocket.Conn, err error) {
	code := websocket.CloseAbnormalClosure
	if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
		code = closed.Code
	}
	_ = ws.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.close = code
	c.change()
}

func (c *Client) decode(b []byte) ([]*messages.ServerFrame, error) {
	if c.Protocol == Proto {
		var batch messages.ServerBatch
		err := proto.Unmarshal(b, &batch)
		return batch.Frames, err
	}
	raw := []json.RawMessage{b}
	if b[0] == '[' {
		if err := json.Unmarshal(b, &raw); err != nil {
			return nil, err
		}
	}
	frames := make([]*messages.ServerFrame, len(raw))
	for i, r := range raw {
		frames[i] = &messages.ServerFrame{}
		if err := protojson.Unmarshal(r, frames[i]); err != nil {
			return nil, err
		}
	}
	return frames, nil
}

// take notes the frames of a message, and returns what there is to
// acknowledge.
func (c *Client) take(frames []*messages.ServerFrame, size int) []*messages.Position {
	c.mu.Lock()
	defer c.mu.Unlock()
	if size > messages.MaxServerMessage {
		c.note("a message of %d bytes", size)
	}
	got := map[string]uint64{}
	for _, f := range frames {
		c.order(f)
		c.keep(f)
		for _, e := range f.GetDeliver().GetEntries() {
			got[e.Conversation] = e.Seq
		}
	}
	c.change()
	if c.NoAck {
		return nil
	}
	return positions(got)
}

func positions(at map[string]uint64) []*messages.Position {
	var out []*messages.Position
	for id, seq := range at {
		out = append(out, &messages.Position{Conversation: id, Seq: seq})
	}
	return out
}

// keep adds a frame to the record. Called with mu held.
func (c *Client) keep(f *messages.ServerFrame) {
	c.count += len(f.GetDeliver().GetEntries())
	if c.tape != nil {
		c.record(f)
	}
	if f.Re != 0 {
		delete(c.asked, f.Re)
		c.answers[f.Re] = f
	}
	if !c.Quiet || f.GetDeliver() == nil && f.GetPage() == nil && f.GetSent() == nil {
		c.frames = append(c.frames, f)
	}
}

// record puts what a frame tells on the tape.
func (c *Client) record(f *messages.ServerFrame) {
	switch e := f.Event.(type) {
	case *messages.ServerFrame_Deliver:
		for _, p := range e.Deliver.Starts {
			c.tape.Join(messages.ConversationID(p.Conversation), messages.Seq(p.Seq))
		}
		for _, entry := range e.Deliver.Entries {
			c.w.meet(messages.ConversationID(entry.Conversation))
			c.tape.Deliver(history.EntryOf(entry))
		}
	case *messages.ServerFrame_Sent:
		id := messages.ConversationID(e.Sent.Conversation)
		c.w.meet(id)
		c.tape.Sent(id, messages.ClientID(e.Sent.ClientId), messages.Seq(e.Sent.Seq), e.Sent.Duplicate)
	case *messages.ServerFrame_Page:
		for _, entry := range e.Page.Entries {
			c.tape.Page(history.EntryOf(entry))
		}
	case *messages.ServerFrame_Receipt:
		r := e.Receipt
		c.w.meet(messages.ConversationID(r.Conversation))
		c.tape.Receipt(messages.ConversationID(r.Conversation), messages.UserID(r.User), messages.Seq(r.Delivered), messages.Seq(r.Read))
	case *messages.ServerFrame_Error:
		if s := c.asked[f.Re].GetSend(); s != nil {
			c.tape.Refused(c.target(s), messages.ClientID(s.ClientId), e.Error.Code)
		}
	}
}

// order looks at once whether entries come ascending and without a gap, and
// in no frames that are too large.
func (c *Client) order(f *messages.ServerFrame) {
	if s := f.GetSent(); s != nil {
		id, seq := messages.ConversationID(s.Conversation), messages.Seq(s.Seq)
		if last := c.last[id]; !s.Duplicate && last != 0 && seq != last+1 {
			c.note("sent %d of %s after %d", seq, id, last)
		}
		if !s.Duplicate || seq == c.last[id]+1 && seq > 1 {
			c.last[id] = seq
		}
	}
	d := f.GetDeliver()
	if len(d.GetEntries()) > messages.MaxDeliver {
		c.note("%d entries in one frame", len(d.Entries))
	}
	starts := map[messages.ConversationID]messages.Seq{}
	for _, p := range d.GetStarts() {
		starts[messages.ConversationID(p.Conversation)] = messages.Seq(p.Seq)
	}
	for _, e := range d.GetEntries() {
		id, seq := messages.ConversationID(e.Conversation), messages.Seq(e.Seq)
		if last := c.last[id]; last != 0 && seq != last+1 && starts[id] != seq {
			c.note("%s delivers %d after %d", id, seq, last)
		}
		c.last[id] = seq
		c.high[id] = max(c.high[id], seq)
	}
}

func (c *Client) note(format string, args ...any) {
	if len(c.problems) < 10 {
		c.problems = append(c.problems, fmt.Sprintf(format, args...))
		c.w.t.Errorf("%s/%s: "+format, append([]any{c.User, c.Name}, args...)...)
	}
}

func (c *Client) problem(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note(format, args...)
}

// ---------------------------------------------------------------- writing

// Post sends commands in one message, each with an id of its own where it has
// none, and returns the last id.
func (c *Client) Post(frames ...*messages.ClientFrame) uint32 {
	id := c.number(frames)
	b, err := c.encode(frames)
	if err != nil {
		c.problem("encoding: %v", err)
	}
	c.Write(b)
	return id
}

func (c *Client) number(frames []*messages.ClientFrame) (id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range frames {
		if f.Id == 0 {
			c.nextID++
			f.Id = c.nextID
		}
		id = f.Id
		c.asked[id] = f
		c.recordCommand(f)
	}
	return id
}

func (c *Client) recordCommand(f *messages.ClientFrame) {
	if c.tape == nil {
		return
	}
	if s := f.GetSend(); s != nil {
		c.w.meet(c.target(s))
		c.tape.Sending(c.target(s), messages.ClientID(s.ClientId), history.HashOf(s))
	}
	for _, p := range f.GetAck().GetPositions() {
		c.tape.Ack(messages.ConversationID(p.Conversation), messages.Seq(p.Seq))
	}
}

func (c *Client) target(s *messages.Send) messages.ConversationID {
	if s.User != "" {
		return messages.Direct(messages.UserID(c.User), messages.UserID(s.User))
	}
	return messages.ConversationID(s.Conversation)
}

func (c *Client) encode(frames []*messages.ClientFrame) ([]byte, error) {
	if c.Protocol == Proto {
		return proto.Marshal(&messages.ClientBatch{Frames: frames})
	}
	parts := make([]string, len(frames))
	for i, f := range frames {
		b, err := protojson.Marshal(f)
		if err != nil {
			return nil, err
		}
		parts[i] = string(b)
	}
	if len(parts) == 1 {
		return []byte(parts[0]), nil
	}
	return []byte("[" + strings.Join(parts, ",") + "]"), nil
}

// Write sends one WebSocket message as it is. What a closing socket does to it
// the reader finds out.
func (c *Client) Write(b []byte) {
	kind := websocket.TextMessage
	if c.Protocol == Proto {
		kind = websocket.BinaryMessage
	}
	c.WriteAs(kind, b)
}

// WriteAs sends one WebSocket message of that kind.
func (c *Client) WriteAs(kind int, b []byte) {
	c.mu.Lock()
	ws := c.ws
	c.mu.Unlock()
	c.writing.Lock()
	defer c.writing.Unlock()
	_ = ws.WriteMessage(kind, b)
}

// Ack acknowledges.
func (c *Client) Ack(at ...*messages.Position) {
	c.Post(Do(&messages.Ack{Positions: at}))
}

// ---------------------------------------------------------------- waiting

// wait waits until holds, called with mu held, or the connection has ended,
// and reports which.
func (c *Client) wait(what string, holds func() bool) bool {
	c.w.t.Helper()
	patience := time.NewTimer(Patience)
	defer patience.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for !holds() {
		if c.close != 0 {
			return false
		}
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
			c.mu.Lock()
		case <-patience.C:
			c.mu.Lock()
			c.w.t.Fatalf("%s/%s waited in vain for %s; its last frames: %v", c.User, c.Name, what, c.frames[max(0, len(c.frames)-4):])
		}
	}
	return true
}

// mustWait is wait that needs the connection to stand.
func (c *Client) mustWait(what string, holds func() bool) {
	c.w.t.Helper()
	if !c.wait(what, holds) {
		c.w.t.Fatalf("%s/%s waited for %s, and was closed with %d", c.User, c.Name, what, c.Closed())
	}
}

// Await returns the first frame of this connection that is looked for.
func (c *Client) Await(what string, is func(*messages.ServerFrame) bool) *messages.ServerFrame {
	c.w.t.Helper()
	var found *messages.ServerFrame
	seen := 0
	c.mustWait(what, func() bool {
		frames := c.frames[c.since:]
		for ; seen < len(frames) && found == nil; seen++ {
			if is(frames[seen]) {
				found = frames[seen]
			}
		}
		return found != nil
	})
	return found
}

// Answer waits for the answer to a command.
func (c *Client) Answer(id uint32) *messages.ServerFrame {
	c.w.t.Helper()
	var answer *messages.ServerFrame
	c.mustWait(fmt.Sprintf("the answer to %d", id), func() bool {
		if answer = c.answers[id]; answer != nil && c.Quiet {
			delete(c.answers, id)
		}
		return answer != nil
	})
	return answer
}

// TryAnswer is Answer for any goroutine: false where the connection ended, or
// it waited in vain.
func (c *Client) TryAnswer(id uint32) (*messages.ServerFrame, bool) {
	patience := time.NewTimer(Patience)
	defer patience.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.answers[id] == nil {
		if c.close != 0 {
			return nil, false
		}
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
			c.mu.Lock()
		case <-patience.C:
			c.mu.Lock()
			return nil, false
		}
	}
	return c.answers[id], true
}

// Refused sends a command and fails the test unless its answer is an error with
// that code.
func (c *Client) Refused(t testing.TB, what string, m proto.Message, code string) {
	t.Helper()
	if f := c.Ask(Do(m)); f.GetError().GetCode() != code {
		t.Errorf("%s, %s: answered %v, not %s", c.Protocol, what, f, code)
	}
}

// Ask sends a command and waits for its answer.
func (c *Client) Ask(f *messages.ClientFrame) *messages.ServerFrame {
	c.w.t.Helper()
	return c.Answer(c.Post(f))
}

// Closed waits for the end of the connection and returns its close code.
func (c *Client) Closed() int {
	c.w.t.Helper()
	c.wait("the close", func() bool { return c.close != 0 })
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.close
}

// Count waits until deliver frames brought n entries in all.
func (c *Client) Count(n int) {
	c.w.t.Helper()
	c.mustWait(fmt.Sprintf("%d entries", n), func() bool { return c.count >= n })
}

// Counted is how many entries deliver frames brought so far.
func (c *Client) Counted() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

// Frames returns what came on this connection so far.
func (c *Client) Frames() []*messages.ServerFrame {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*messages.ServerFrame(nil), c.frames[c.since:]...)
}

// listens reports whether the device is connected, and takes and acknowledges
// what comes.
func (c *Client) listens() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.User != "" && c.ws != nil && c.close == 0 && !c.paused && !c.NoAck && !c.Quiet
}

// Settle waits until everything that the server had for this device before is
// here.
func (c *Client) Settle() {
	c.w.t.Helper()
	c.Ask(Do(&messages.Ping{}))
}

//go:build linux

package nemesis

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/internal/history"
	"github.com/troupe-chat/troupe/messages"
)

// Device is one device over all its connections. Its own goroutine connects,
// reads and answers; others only nudge it and look at it.
type Device struct {
	User      messages.UserID
	ID        messages.DeviceID
	crowd     *Crowd
	forgetful bool
	plan      Plan

	mu         sync.Mutex      // guards what follows
	ws         *websocket.Conn // nil: away
	live       bool            // welcomed on ws
	closing    time.Duration   // how long the server has said to stay away
	rng        *rand.Rand
	tape       *history.Tape
	have       map[messages.ConversationID]messages.Seq              // everything up to it
	ahead      map[messages.ConversationID]map[messages.Seq]struct{} // beyond have, by answers to retries
	unanswered []*outgoing                                           // in order
	answered   *outgoing                                             // a send that is sent again at times
	reads      map[uint32]*messages.Position                         // by command
	commands   uint32
	sends      int // made
	unacked    int
	moved      map[messages.ConversationID]struct{} // to be acknowledged
}

// outgoing is a command that is sent until it is answered.
type outgoing struct {
	frame *messages.ClientFrame // its id is that of the last attempt
	talk  messages.ConversationID
	id    messages.ClientID
	hash  uint64
	again bool // it was answered before
}

const (
	inFlight     = 4 // commands of a device without an answer
	ackAt        = 32
	writeTimeout = 30 * time.Second
	comeBack     = 50 * time.Millisecond // at most, where the server names no time
)

func newDevice(c *Crowd, user messages.UserID, id messages.DeviceID, rng *rand.Rand) *Device {
	return &Device{
		User: user, ID: id, crowd: c, rng: rng,
		tape:  c.history.Tape(user, id),
		have:  make(map[messages.ConversationID]messages.Seq),
		ahead: make(map[messages.ConversationID]map[messages.Seq]struct{}),
		reads: make(map[uint32]*messages.Position),
		moved: make(map[messages.ConversationID]struct{}),
	}
}

// Order has a command sent now, besides what is planned.
func (d *Device) Order(f *messages.ClientFrame) {
	d.mu.Lock()
	defer d.mu.Unlock()
	o := d.queue(f)
	if d.live {
		d.write([]*messages.ClientFrame{d.attempt(o)})
	}
}

// ---------------------------------------------------------------- connections

// run keeps the device connected until ctx ends.
func (d *Device) run(ctx context.Context) {
	for ctx.Err() == nil {
		d.ended(ctx, d.connection(ctx))
		d.stayAway(ctx)
	}
}

// connection lives through one connection.
func (d *Device) connection(ctx context.Context) error {
	ws, err := d.crowd.dial(ctx)
	if err != nil {
		return err
	}
	defer ws.Close()
	defer context.AfterFunc(ctx, func() { ws.Close() })()
	token, err := d.crowd.Tokens(ctx, string(d.User))
	if err != nil {
		return err
	}
	positions := d.begin(ws)
	if err := write(ws, hello(token, d.ID, "", positions)); err != nil {
		return err
	}
	for {
		frames, err := read(ws)
		if err != nil {
			return err
		}
		d.take(frames, positions)
	}
}

// begin makes ws the device's connection, and returns what it has.
func (d *Device) begin(ws *websocket.Conn) []*messages.Position {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ws, d.closing, d.unacked = ws, 0, 0
	if d.forgetful {
		return nil
	}
	var positions []*messages.Position
	for talk, seq := range d.have {
		positions = append(positions, &messages.Position{Conversation: string(talk), Seq: uint64(seq)})
	}
	return positions
}

// ended notes the end of a connection.
func (d *Device) ended(ctx context.Context, err error) {
	d.mu.Lock()
	live := d.live
	d.ws, d.live = nil, false
	clear(d.reads)
	d.mu.Unlock()
	var closed *websocket.CloseError
	if !errors.As(err, &closed) || ctx.Err() != nil {
		return
	}
	if live {
		d.crowd.note(func() { d.crowd.closes[closed.Code]++ })
	}
	if messages.ReturnAfter(closed.Code) == messages.ReturnNever {
		d.crowd.fault("%s/%s was sent away for good: %w", d.User, d.ID, err)
	}
}

// stayAway waits before the next connection: as long as the server has said,
// or a moment.
func (d *Device) stayAway(ctx context.Context) {
	d.mu.Lock()
	wait := d.closing
	if wait == 0 {
		wait = time.Duration(d.rng.Int64N(int64(comeBack)))
	}
	d.mu.Unlock()
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (d *Device) online() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.live
}

// waits reports whether something has no answer yet.
func (d *Device) waits() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.unanswered) > 0
}

// open names the commands without an answer.
func (d *Device) open() (names []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, o := range d.unanswered {
		names = append(names, fmt.Sprintf("%s/%s (live: %v, has %d): %T %s in %s",
			d.User, d.ID, d.live, d.have[o.talk], o.frame.Command, o.id, o.talk))
	}
	return names
}

// has reports whether the device has everything of a conversation up to seq.
func (d *Device) has(talk messages.ConversationID, seq messages.Seq) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.have[talk] >= seq
}

// nudge makes the device look whether there is something to send.
func (d *Device) nudge() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.write(d.fill())
}

// ---------------------------------------------------------------- frames

// take handles what one WebSocket message brought.
func (d *Device) take(frames []*messages.ServerFrame, positions []*messages.Position) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.crowd.note(func() {})
	var out []*messages.ClientFrame
	for _, f := range frames {
		if f.GetWelcome() != nil {
			out = append(out, d.welcomed(positions)...)
			continue
		}
		d.frame(f)
	}
	if !d.live {
		return
	}
	out = append(out, d.fill()...)
	out = append(out, d.acks()...)
	d.write(append(out, d.read()...))
}

func (d *Device) frame(f *messages.ServerFrame) {
	switch e := f.Event.(type) {
	case *messages.ServerFrame_Deliver:
		d.deliver(e.Deliver)
	case *messages.ServerFrame_Sent:
		d.sent(e.Sent)
	case *messages.ServerFrame_Group:
		d.changed(f.Re, e.Group)
	case *messages.ServerFrame_Receipt:
		r := e.Receipt
		d.tape.Receipt(messages.ConversationID(r.Conversation), messages.UserID(r.User), messages.Seq(r.Delivered), messages.Seq(r.Read))
	case *messages.ServerFrame_Ok:
		if p := d.reads[f.Re]; p != nil {
			d.tape.Read(messages.ConversationID(p.Conversation), messages.Seq(p.Seq))
		}
	case *messages.ServerFrame_Error:
		d.refused(f.Re, e.Error)
	case *messages.ServerFrame_Closing:
		d.closing = time.Duration(e.Closing.ReconnectAfterMs) * time.Millisecond
		d.crowd.note(func() { d.crowd.figures.Closings++ })
	}
}

// welcomed begins a connection: what was not answered is sent again, and at
// times what was.
func (d *Device) welcomed(positions []*messages.Position) []*messages.ClientFrame {
	d.live = true
	d.tape.Connect(false)
	for _, p := range positions {
		d.tape.Resume(messages.ConversationID(p.Conversation), messages.Seq(p.Seq))
	}
	d.crowd.note(func() { d.crowd.figures.Connects++ })
	var out []*messages.ClientFrame
	for _, o := range d.unanswered {
		out = append(out, d.attempt(o))
	}
	if o := d.again(2); o != nil {
		out = append(out, o)
	}
	return out
}

func (d *Device) deliver(m *messages.Deliver) {
	for _, s := range m.Starts {
		talk, seq := messages.ConversationID(s.Conversation), messages.Seq(s.Seq)
		d.tape.Join(talk, seq)
		if seq > 0 && d.have[talk] < seq-1 {
			d.have[talk] = seq - 1
		}
	}
	repeats := 0
	for _, e := range m.Entries {
		entry := EntryOf(e)
		d.tape.Deliver(entry)
		if entry.Seq <= d.have[entry.Conversation] {
			repeats++
		}
		d.reached(entry.Conversation, entry.Seq)
		d.unacked++
		d.moved[entry.Conversation] = struct{}{}
	}
	d.crowd.note(func() {
		d.crowd.figures.Repeats += repeats
		d.crowd.figures.Delivered += len(m.Entries) - repeats
	})
}

// reached moves what the device has over seq, and over what answers to retries
// have told of what follows.
func (d *Device) reached(talk messages.ConversationID, seq messages.Seq) {
	have := max(d.have[talk], seq)
	ahead := d.ahead[talk]
	for next := have + 1; ; next++ {
		if _, ok := ahead[next]; !ok {
			break
		}
		delete(ahead, next)
		have = next
	}
	d.have[talk] = have
}

func (d *Device) sent(s *messages.Sent) {
	talk, id, seq := messages.ConversationID(s.Conversation), messages.ClientID(s.ClientId), messages.Seq(s.Seq)
	i := slices.IndexFunc(d.unanswered, func(o *outgoing) bool { return o.talk == talk && o.id == id })
	if i < 0 {
		d.crowd.fault("%s/%s was answered %s of %s, which it was before, or never sent", d.User, d.ID, id, talk)
		return
	}
	o := d.unanswered[i]
	d.unanswered = slices.Delete(d.unanswered, i, i+1)
	d.tape.Sent(talk, id, seq, s.Duplicate)
	switch have := d.have[talk]; {
	case !s.Duplicate || seq == have+1:
		d.reached(talk, seq)
	case seq > have:
		if d.ahead[talk] == nil {
			d.ahead[talk] = make(map[messages.Seq]struct{})
		}
		d.ahead[talk][seq] = struct{}{}
	}
	if s.Duplicate {
		d.crowd.note(func() { d.crowd.figures.Repeats++ })
	}
	switch {
	case !o.again:
		d.answered = o
		d.crowd.acknowledged()
	case !s.Duplicate:
		d.crowd.fault("%s of %s was answered twice as new to %s/%s", id, talk, d.User, d.ID)
	}
}

// changed takes the answer to a change of a group.
func (d *Device) changed(re uint32, g *messages.Group) {
	o := d.answers(re)
	if o == nil {
		d.crowd.fault("%s/%s got a group that it did not ask for", d.User, d.ID)
		return
	}
	d.crowd.note(func() {
		d.crowd.figures.Changes++
		d.crowd.changes[changeKey{messages.ConversationID(g.Conversation), d.User, o.id}] = struct{}{}
	})
}

// answers takes the command re off those without an answer.
func (d *Device) answers(re uint32) *outgoing {
	i := slices.IndexFunc(d.unanswered, func(o *outgoing) bool { return re != 0 && o.frame.Id == re })
	if i < 0 {
		return nil
	}
	o := d.unanswered[i]
	d.unanswered = slices.Delete(d.unanswered, i, i+1)
	return o
}

// refused takes an error. What is refused for now is sent again on another
// connection; what a former member may not do is given up.
func (d *Device) refused(re uint32, e *messages.Error) {
	if d.reads[re] != nil || !d.live {
		return
	}
	o := d.answers(re)
	if o == nil {
		d.crowd.fault("%s/%s got an error for nothing: %s: %s", d.User, d.ID, e.Code, e.Message)
		return
	}
	send := o.frame.GetSend() != nil
	if send {
		d.tape.Refused(o.talk, o.id, e.Code)
	}
	switch {
	case e.Code == messages.CodeUnavailable || e.Code == messages.CodeOverloaded:
		d.unanswered = append([]*outgoing{o}, d.unanswered...)
		d.ws.Close()
	case e.Code == messages.CodeNotFound && send:
	default:
		d.crowd.fault("%s/%s was refused: %s: %s", d.User, d.ID, e.Code, e.Message)
	}
}

// ---------------------------------------------------------------- commands

// fill returns what the plan says to send, as far as the device may have it in
// flight. A change of a group is waited for.
func (d *Device) fill() (out []*messages.ClientFrame) {
	for d.live && d.plan != nil && d.crowd.sending.Load() && !d.busy() {
		if f := d.again(16); f != nil {
			out = append(out, f)
			continue
		}
		f := d.plan(d.rng)
		if f == nil {
			return out
		}
		out = append(out, d.attempt(d.queue(f)))
	}
	return out
}

func (d *Device) busy() bool {
	n := len(d.unanswered)
	return n >= inFlight || n > 0 && d.unanswered[n-1].frame.GetSend() == nil
}

// queue makes a command that has no answer yet, with a client id where it has
// none.
func (d *Device) queue(f *messages.ClientFrame) *outgoing {
	o := &outgoing{frame: f}
	d.sends++
	id := fmt.Sprintf("%s-%d", d.ID, d.sends)
	switch cmd := f.Command.(type) {
	case *messages.ClientFrame_Send:
		cmd.Send.ClientId = id
		o.talk = messages.ConversationID(cmd.Send.Conversation)
		o.hash = hashOf(cmd.Send.GetText().GetBody())
	case *messages.ClientFrame_ChangeGroup:
		cmd.ChangeGroup.ClientId = id
	case *messages.ClientFrame_CreateGroup:
		id = cmd.CreateGroup.ClientId
	}
	o.id = messages.ClientID(id)
	d.unanswered = append(d.unanswered, o)
	return o
}

// again has the last send that was answered sent again, once in n times.
func (d *Device) again(n int) *messages.ClientFrame {
	if d.answered == nil || d.rng.IntN(n) != 0 {
		return nil
	}
	o := *d.answered
	o.again, o.frame = true, proto.CloneOf(o.frame)
	d.answered = nil
	d.unanswered = append(d.unanswered, &o)
	return d.attempt(&o)
}

// attempt returns the frame of the next attempt at a command.
func (d *Device) attempt(o *outgoing) *messages.ClientFrame {
	d.commands++
	o.frame.Id = d.commands
	if o.frame.GetSend() != nil {
		d.crowd.talked(o.talk)
		d.tape.Sending(o.talk, o.id, o.hash)
	}
	return o.frame
}

// acks acknowledges at times, and always when enough has come or nothing more
// is sent.
func (d *Device) acks() []*messages.ClientFrame {
	due := d.unacked >= ackAt || !d.crowd.sending.Load() || d.rng.IntN(4) == 0
	if len(d.moved) == 0 || !due {
		return nil
	}
	ack := &messages.Ack{}
	for talk := range d.moved {
		ack.Positions = append(ack.Positions, &messages.Position{Conversation: string(talk), Seq: uint64(d.have[talk])})
		d.tape.Ack(talk, d.have[talk])
	}
	clear(d.moved)
	d.unacked = 0
	return []*messages.ClientFrame{{Command: &messages.ClientFrame_Ack{Ack: ack}}}
}

// read says now and then that a conversation is read. A forgetful device does
// not: it would be told again what it has read.
func (d *Device) read() []*messages.ClientFrame {
	if d.forgetful || d.rng.IntN(50) != 0 {
		return nil
	}
	for talk, seq := range d.have {
		if seq == 0 || talk.Kind() != messages.KindDirect {
			continue
		}
		d.commands++
		d.reads[d.commands] = &messages.Position{Conversation: string(talk), Seq: uint64(seq)}
		return []*messages.ClientFrame{{Id: d.commands, Command: &messages.ClientFrame_Read{
			Read: &messages.Read{Conversation: string(talk), Seq: uint64(seq)},
		}}}
	}
	return nil
}

// write sends frames. Its error is that of the reading, too.
func (d *Device) write(frames []*messages.ClientFrame) {
	if d.live && len(frames) > 0 {
		_ = write(d.ws, frames...)
	}
}

// ---------------------------------------------------------------- the wire

func (c *Crowd) dial(ctx context.Context) (*websocket.Conn, error) {
	dialer := websocket.Dialer{Subprotocols: []string{"troupe.v1.proto"}, HandshakeTimeout: readyWithin}
	ws, resp, err := dialer.DialContext(ctx, "ws://"+c.Address+"/v1/ws", nil)
	if resp != nil {
		resp.Body.Close()
	}
	return ws, err
}

func hello(token string, device messages.DeviceID, start string, positions []*messages.Position) *messages.ClientFrame {
	return &messages.ClientFrame{Command: &messages.ClientFrame_Hello{Hello: &messages.Hello{
		Token: token, Device: string(device), Client: "nemesis/1", Start: start, Positions: positions,
	}}}
}

func write(ws *websocket.Conn, frames ...*messages.ClientFrame) error {
	b, err := proto.Marshal(&messages.ClientBatch{Frames: frames})
	if err != nil {
		return fmt.Errorf("encode frames: %w", err)
	}
	_ = ws.SetWriteDeadline(time.Now().Add(writeTimeout))
	return ws.WriteMessage(websocket.BinaryMessage, b)
}

func read(ws *websocket.Conn) ([]*messages.ServerFrame, error) {
	_, b, err := ws.ReadMessage()
	if err != nil {
		return nil, err
	}
	var batch messages.ServerBatch
	if err := proto.Unmarshal(b, &batch); err != nil {
		return nil, fmt.Errorf("decode frames: %w", err)
	}
	return batch.Frames, nil
}

// EntryOf returns what a tape or a log holds of an entry.
func EntryOf(e *messages.Entry) history.Entry {
	h := history.Entry{
		Conversation: messages.ConversationID(e.Conversation), Seq: messages.Seq(e.Seq),
		Author: messages.UserID(e.From), ClientID: messages.ClientID(e.ClientId), At: e.At, Event: e.GetEvent(),
	}
	if text := e.GetText(); text != nil {
		h.Hash = hashOf(text.Body)
	}
	return h
}

func hashOf(s string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s))
	return h.Sum64()
}

// Text is a plan's send of a text.
func Text(talk messages.ConversationID, body string) *messages.ClientFrame {
	return &messages.ClientFrame{Command: &messages.ClientFrame_Send{Send: &messages.Send{
		Conversation: string(talk), Content: &messages.Send_Text{Text: &messages.Text{Body: body}},
	}}}
}

package gateway

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/troupe-chat/troupe/internal/crew"
	"github.com/troupe-chat/troupe/messages"
)

// transport is a way in which connections are read.
type transport uint8

const (
	polled    transport = iota // by the poller
	unwatched                  // by a worker each, as the poller takes no more
	waiting                    // by a worker each, as on systems without one
	secured                    // by a worker each, through TLS
)

// onEach runs a test over every transport.
func onEach(t *testing.T, test func(*desk)) {
	for i, name := range []string{"polled", "unwatched", "waiting", "secured"} {
		t.Run(name, func(t *testing.T) { test(newDesk(t, transport(i))) })
	}
}

// desk is a gateway whose actors let everybody in, and note what they are told.
type desk struct {
	*testing.T
	s     *Server
	port  *httptest.Server
	told  chan proto.Message
	asked chan *messages.Command // without an answer
	left  chan uint64            // connections that were detached
	owed  atomic.Int32           // commands without an answer
	most  atomic.Int32           // of them, ever
	ended sync.WaitGroup
}

func newDesk(t *testing.T, by transport) *desk {
	d := &desk{
		T: t, told: make(chan proto.Message, 1<<14),
		asked: make(chan *messages.Command, 1<<10), left: make(chan uint64, 1<<12),
	}
	limits := messages.DefaultLimits()
	limits.Connects, limits.Sends, limits.Typings = 0, 0, 0
	pool := crew.New(4, 4)
	d.s = New(Config{
		Node: "test", Actors: d, Auth: d, Limits: limits, Pool: pool,
		Logger: slog.New(slog.DiscardHandler),
	})
	if d.s.poller != nil && (by == unwatched || by == waiting) {
		d.s.poller.close()
	}
	if by == waiting {
		d.s.poller = nil
	}
	d.ended.Go(d.actors)
	d.port = httptest.NewUnstartedServer(http.HandlerFunc(d.s.ServeWebSocket))
	if by == secured {
		d.port.StartTLS()
	} else {
		d.port.Start()
	}
	t.Cleanup(func() {
		d.port.Close()
		if err := d.s.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if n := d.s.Metrics.Connections.Load(); n != 0 || len(d.s.conns) != 0 {
			t.Errorf("%d connections are left", n)
		}
		close(d.told)
		d.ended.Wait()
		pool.Close()
	})
	return d
}

// Authenticate takes a token for its user.
func (d *desk) Authenticate(_ context.Context, token string) (Identity, error) {
	return Identity{User: messages.UserID(token)}, nil
}

// Tell is the actors' mailbox.
func (d *desk) Tell(_, _ string, m any) error {
	d.told <- m.(proto.Message)
	return nil
}

func (d *desk) actors() {
	for m := range d.told {
		switch m := m.(type) {
		case *messages.Attach:
			d.s.Receive(&messages.Attached{Connection: m.Origin.Connection, Number: 1, Incarnation: 1, Session: "s"})
		case *messages.CatchUp:
			d.s.Receive(&messages.News{Connection: m.Origin.Connection})
		case *messages.Command:
			d.most.Store(max(d.most.Load(), d.owed.Add(1)))
			d.asked <- m
		case *messages.Detach:
			d.left <- m.Origin.Connection
		}
	}
}

func (d *desk) answer(m *messages.Command) {
	d.owed.Add(-1)
	d.s.Receive(&messages.Answer{
		Connection: m.Origin.Connection, Token: m.Origin.Token,
		Frame: &messages.ServerFrame{Event: &messages.ServerFrame_Ok{Ok: &messages.Ok{}}},
	})
}

func (d *desk) check(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

// until waits for something that nobody tells of.
func (d *desk) until(what string, holds func() bool) {
	d.Helper()
	for end := time.Now().Add(patience); !holds(); runtime.Gosched() {
		if time.Now().After(end) {
			d.Fatal("waited in vain until ", what)
		}
	}
}

// patience is how long a test waits before it fails.
const patience = time.Minute

// client writes bytes as they are, and reads answers.
type client struct {
	d  *desk
	ws *websocket.Conn
	re []uint32 // of answers that were read and not asked for
}

func (d *desk) dial() *client {
	d.Helper()
	dialer := websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Subprotocols: []string{ProtocolJSON}}
	ws, res, err := dialer.Dial("ws"+strings.TrimPrefix(d.port.URL, "http"), nil)
	d.check(err)
	res.Body.Close()
	d.Cleanup(func() { ws.Close() })
	d.check(ws.SetReadDeadline(time.Now().Add(patience)))
	return &client{d: d, ws: ws}
}

// helloRe is the id of every hello, far from those of pings.
const helloRe = 1 << 30

func hello(user string) []byte {
	return textFrame(fmt.Sprintf(`{"id":%d,"hello":{"token":%q,"device":"phone"}}`, helloRe, user))
}

// join dials and says hello.
func (d *desk) join(user string) *client {
	d.Helper()
	c := d.dial()
	c.write(hello(user))
	c.mustAnswer(helloRe, helloRe)
	return c
}

func (c *client) write(b []byte) {
	c.d.Helper()
	_, err := c.ws.NetConn().Write(b)
	c.d.check(err)
}

// answers reads until first to last are answered, in this order.
func (c *client) answers(first, last uint32) error {
	for want := first; want <= last; want++ {
		for len(c.re) == 0 {
			if err := c.read(); err != nil {
				return fmt.Errorf("waiting for the answer to %d: %w", want, err)
			}
		}
		if c.re[0] != want {
			return fmt.Errorf("%d is answered, want %d", c.re[0], want)
		}
		c.re = c.re[1:]
	}
	return nil
}

func (c *client) mustAnswer(first, last uint32) {
	c.d.Helper()
	c.d.check(c.answers(first, last))
}

// read reads one message.
func (c *client) read() error {
	_, b, err := c.ws.ReadMessage()
	if err != nil {
		return err
	}
	if b[0] != '[' {
		b = slices.Concat([]byte("["), b, []byte("]"))
	}
	var frames []struct{ Re uint32 }
	if err := json.Unmarshal(b, &frames); err != nil {
		return err
	}
	for _, f := range frames {
		if f.Re != 0 { // the others answer nothing
			c.re = append(c.re, f.Re)
		}
	}
	return nil
}

// closed reads until the server closes with code.
func (c *client) closed(code int) error {
	for {
		err := c.read()
		if closed, ok := errors.AsType[*websocket.CloseError](err); ok && closed.Code == code {
			_ = c.ws.Close()
			return nil
		}
		if err != nil {
			return fmt.Errorf("waiting for close code %d: %w", code, err)
		}
	}
}

func (c *client) mustClose(code int) {
	c.d.Helper()
	c.d.check(c.closed(code))
}

// mustLeave waits until a connection has left its session.
func (d *desk) mustLeave() {
	d.Helper()
	select {
	case <-d.left:
	case <-time.After(patience):
		d.Fatal("the connection was not missed")
	}
}

// ---------------------------------------------------------------- bytes

const (
	opContinue = 0
	opText     = 1
	opPing     = 9
	final      = 0x80
)

// frameOf is one frame, masked as clients must.
func frameOf(head byte, payload []byte) []byte {
	b := []byte{head}
	switch n := len(payload); {
	case n < length16:
		b = append(b, maskBit|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, maskBit|length16), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, maskBit|length64), uint64(n))
	}
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	b = append(b, key[:]...)
	for i, x := range payload {
		b = append(b, x^key[i%4])
	}
	return b
}

func textFrame(payload string) []byte { return frameOf(final|opText, []byte(payload)) }

func ping(id int) string { return fmt.Sprintf(`{"id":%d,"ping":{}}`, id) }

// medley is three pings in a row: a frame, two fragments with a control frame
// between and one after, and a frame with a long length. ends are the places
// where each is complete.
func medley(first int) (b []byte, ends []int) {
	add := func(frames ...[]byte) {
		b = append(b, slices.Concat(frames...)...)
		ends = append(ends, len(b))
	}
	add(textFrame(ping(first)))
	cut := []byte(ping(first + 1))
	add(frameOf(opText, cut[:5]), frameOf(final|opPing, []byte("there?")), frameOf(opContinue, nil),
		frameOf(final|opContinue, cut[5:]))
	add(frameOf(final|opPing, nil), textFrame(ping(first+2)+strings.Repeat(" ", 130)))
	return b, ends
}

// ---------------------------------------------------------------- tests

// Messages are taken wherever the network cuts them.
func TestReadCutAnywhere(t *testing.T) {
	onEach(t, func(d *desk) {
		c := d.join("ana")
		whole, _ := medley(1)
		for cut, next := 1, 1; cut < len(whole); cut, next = cut+1, next+3 {
			b, ends := medley(next)
			whole := uint32(0)
			for whole < 3 && ends[whole] <= cut {
				whole++
			}
			id := uint32(next)
			c.write(b[:cut])
			c.mustAnswer(id, id+whole-1)
			c.write(b[cut:])
			c.mustAnswer(id+whole, id+2)
		}
	})
}

// They are taken byte by byte, too.
func TestReadByteByByte(t *testing.T) {
	onEach(t, func(d *desk) {
		c := d.join("ana")
		b, _ := medley(1)
		for i := range b {
			c.write(b[i : i+1])
		}
		c.mustAnswer(1, 3)
	})
}

// What one write brings is handled to the last, however much is read ahead and
// however much fewer answers are owed at once.
func TestReadManyAtOnce(t *testing.T) {
	onEach(t, func(d *desk) {
		c := d.join("ana")
		const pings = 3000
		var b []byte
		for i := range pings {
			b = append(b, textFrame(ping(i+1))...)
		}
		if len(b) < 3*len(ahead{}.bytes) {
			d.Fatal("the test needs more bytes")
		}
		var writing sync.WaitGroup
		writing.Go(func() { _, _ = c.ws.NetConn().Write(b) })
		c.mustAnswer(1, pings)
		writing.Wait()
	})
}

// What comes with hello is taken once hello is answered.
func TestReadBehindHello(t *testing.T) {
	onEach(t, func(d *desk) {
		c := d.dial()
		b, _ := medley(1)
		c.write(slices.Concat(hello("ana"), b))
		c.mustAnswer(helloRe, helloRe)
		c.mustAnswer(1, 3)
	})
}

// A message larger than what is read ahead is taken, one beyond the limit ends
// the connection.
func TestReadLarge(t *testing.T) {
	onEach(t, func(d *desk) {
		c := d.join("ana")
		c.write(slices.Concat(textFrame(ping(1)+strings.Repeat(" ", 60<<10)), textFrame(ping(2))))
		c.mustAnswer(1, 2)
		c.write(textFrame(ping(3) + strings.Repeat(" ", 64<<10)))
		c.mustClose(messages.CloseTooLarge)
		d.mustLeave()
	})
}

// What is no message of the subprotocol ends the connection after what came
// before it.
func TestReadBadFrame(t *testing.T) {
	onEach(t, func(d *desk) {
		c := d.join("ana")
		c.write(slices.Concat(textFrame(ping(1)), textFrame("no JSON"), textFrame(ping(2))))
		c.mustAnswer(1, 1)
		c.mustClose(messages.CloseBadFrame)
		d.mustLeave()
	})
}

// A client may go at any byte, with or without ceremony.
func TestReadEndsAnywhere(t *testing.T) {
	onEach(t, func(d *desk) {
		b, _ := medley(1)
		for cut := range len(b) + 1 {
			c := d.join("ana")
			c.write(b[:cut])
			if tcp, ok := c.ws.NetConn().(*net.TCPConn); ok && cut%2 == 0 {
				d.check(tcp.SetLinger(0)) // a reset
			}
			d.check(c.ws.Close())
			d.mustLeave()
		}
		d.until("every connection has ended", func() bool { return d.s.Metrics.Connections.Load() == 0 })
	})
}

// Nothing is taken while too many answers are owed; each that is written makes
// room for one more.
func TestReadHoldsBack(t *testing.T) {
	onEach(t, func(d *desk) {
		c := d.join("ana")
		const commands = 50
		var b []byte
		for i := range commands {
			b = append(b, textFrame(fmt.Sprintf(`{"id":%d,"conversations":{}}`, i+1))...)
		}
		c.write(b)
		for i := range commands {
			d.answer(<-d.asked)
			c.mustAnswer(uint32(i+1), uint32(i+1))
		}
		c.write(textFrame(ping(commands + 1)))
		c.mustAnswer(commands+1, commands+1)
		if most := d.most.Load(); most > maxPending/largeAnswer {
			d.Errorf("%d commands were under way", most)
		}
	})
}

// A connection that waits for room, and one in the middle of a frame, end with
// the server, as does one that never said hello.
func TestCloseFindsEveryConnection(t *testing.T) {
	onEach(t, func(d *desk) {
		idle, held, torn, silent := d.join("ana"), d.join("bo"), d.join("cy"), d.dial()
		for range 2 * maxOwed {
			held.write(textFrame(`{"conversations":{}}`))
		}
		torn.write(textFrame(ping(1))[:7])
		d.until("answers are owed", func() bool { return d.owed.Load() == maxPending/largeAnswer })
		var reading sync.WaitGroup
		for _, c := range []*client{idle, held, torn, silent} {
			reading.Go(func() {
				if err := c.closed(messages.CloseRestarting); err != nil {
					d.Error(err)
				}
			})
		}
		d.check(d.s.Close(d.Context()))
		reading.Wait()
	})
}

// Nor does the server wait longer than it is told for clients that don't close.
func TestCloseDoesNotWaitForClients(t *testing.T) {
	onEach(t, func(d *desk) {
		for i := range 20 {
			d.join(fmt.Sprint("ana", i)).write(textFrame(ping(1))[:i])
		}
		ctx, cancel := context.WithCancel(d.Context())
		cancel()
		if err := d.s.Close(ctx); err != nil && !errors.Is(err, context.Canceled) {
			d.Error(err)
		}
	})
}

// A client that never says hello is sent away, though nobody reads it.
func TestNoHello(t *testing.T) {
	onEach(t, func(d *desk) {
		c := d.dial()
		d.until("it is known", func() bool { return len(d.s.all()) == 1 })
		d.s.all()[0].tick(d.s.now().add(messages.HelloWithin + time.Second))
		c.mustClose(messages.CloseTimeout)
		d.until("it is gone", func() bool { return d.s.Metrics.Connections.Load() == 0 })
	})
}

// However a thousand connections come to rest and wake, each of their messages
// is answered.
func TestReadStress(t *testing.T) {
	onEach(t, func(d *desk) {
		const rounds = 12
		connections := 50
		if strings.HasSuffix(d.Name(), "polled") {
			connections = 1000
		}
		var running sync.WaitGroup
		for i := range connections {
			c := d.join(fmt.Sprint("ana", i))
			random := rand.New(rand.NewPCG(1, uint64(i)))
			running.Go(func() {
				if err := c.rounds(random, rounds); err != nil {
					d.Errorf("client %d: %v", i, err)
				}
			})
		}
		running.Wait()
	})
}

// rounds sends messages cut anywhere, and now and then waits for answers.
func (c *client) rounds(random *rand.Rand, rounds int) error {
	next, answered := uint32(1), uint32(1)
	for range rounds {
		var b []byte
		for range 1 + random.IntN(4) {
			more, _ := medley(int(next))
			b = append(b, more...)
			next += 3
		}
		if err := c.scatter(random, b); err != nil {
			return err
		}
		for some := random.IntN(3); some > 0 && answered < next; some-- {
			upTo := answered + random.Uint32N(next-answered)
			if err := c.answers(answered, upTo); err != nil {
				return err
			}
			answered = upTo + 1
		}
	}
	return c.answers(answered, next-1)
}

// scatter writes b in pieces.
func (c *client) scatter(random *rand.Rand, b []byte) error {
	for len(b) > 0 {
		n := 1 + random.IntN(len(b))
		if _, err := c.ws.NetConn().Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// A stream is handed on frame by frame: never is a byte of the next one with
// those of this one, however it is read.
func TestFrameBoundaries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b []byte
		ends := map[int]bool{}
		for range rapid.IntRange(1, 5).Draw(t, "frames") {
			size := rapid.OneOf(rapid.IntRange(0, 130), rapid.SampledFrom([]int{65535, 65536, 70_000})).Draw(t, "size")
			one := frameOf(final|opText, make([]byte, size))
			if rapid.Bool().Draw(t, "unmasked") {
				one = slices.Delete(one, len(one)-size-maskingKey, len(one)-size)
				one[1] &^= maskBit
			}
			b = append(b, one...)
			ends[len(b)] = true
		}
		var f frame
		for at := 0; at < len(b); {
			chunk := b[at:min(len(b), at+rapid.IntRange(1, 100_000).Draw(t, "chunk"))]
			sure := f.rest(len(chunk))
			n := f.advance(chunk)
			if n < sure || n == 0 {
				t.Fatalf("at %d: %d bytes are of the frame, %d surely", at, n, sure)
			}
			for i := at + 1; i < at+n; i++ {
				if ends[i] {
					t.Fatalf("from %d on %d bytes: a frame ends at %d", at, n, i)
				}
			}
			at += n
			if ended := f == (frame{}); ended != ends[at] {
				t.Fatalf("at %d: ended is %v", at, ended)
			}
			if n < len(chunk) && !ends[at] {
				t.Fatalf("at %d: stopped in the middle of a frame", at)
			}
		}
	})
}

//go:build linux

package load

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/troupe-chat/troupe/internal/load/wire"
	"github.com/troupe-chat/troupe/messages"
)

// collector keeps the frames that it gets.
type collector struct{ ids []uint32 }

func (c *collector) frame(f wire.Frame) error { c.ids = append(c.ids, f.ID); return nil }
func (c *collector) read()                    {}
func (c *collector) ended(error)              {}

// serverFrame is an unmasked frame.
func serverFrame(op byte, fin bool, payload []byte) []byte {
	b := appendMessage(nil, op, payload)
	head := len(b) - len(payload) - 4
	b = append(b[:head:head], payload...)
	b[1] &^= maskBit
	if !fin {
		b[0] &^= finBit
	}
	return b
}

// TestFramesSurviveAnyCut splits messages into fragments and the stream into
// reads, anywhere, and expects the same frames.
func TestFramesSurviveAnyCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		var want []uint32
		for i := range rapid.IntRange(1, 5).Draw(t, "messages") {
			id := uint32(i + 1)
			want = append(want, id)
			body := bytes.Repeat([]byte("x"), rapid.SampledFrom([]int{0, 1, 100, 125, 126, 300, 70_000}).Draw(t, "size"))
			b, err := proto.Marshal(&messages.ServerBatch{Frames: []*messages.ServerFrame{{
				Re: id, Event: &messages.ServerFrame_Error{Error: &messages.Error{Message: string(body)}},
			}}})
			if err != nil {
				t.Fatal(err)
			}
			cut := rapid.IntRange(0, len(b)).Draw(t, "fragment")
			if cut == 0 {
				stream = append(stream, serverFrame(opBinary, true, b)...)
				continue
			}
			stream = append(stream, serverFrame(opBinary, false, b[:cut])...)
			stream = append(stream, serverFrame(opPong, true, nil)...)
			stream = append(stream, serverFrame(opContinuation, true, b[cut:])...)
		}
		got := &collector{}
		c := &conn{loop: &loop{buf: make([]byte, readBuffer)}, to: got}
		for len(stream) > 0 {
			n := rapid.IntRange(1, len(stream)).Draw(t, "read")
			if err := c.take(append(bytes.Clone(c.carry), stream[:n]...)); err != nil {
				t.Fatal(err)
			}
			stream = stream[n:]
		}
		if len(got.ids) != len(want) {
			t.Fatalf("got %v, want %v", got.ids, want)
		}
	})
}

func TestClientMessagesAreMasked(t *testing.T) {
	for _, n := range []int{0, 125, 126, 65535, 65536} {
		b := appendMessage(nil, opBinary, make([]byte, n))
		if b[1]&maskBit == 0 {
			t.Fatalf("%d bytes: not masked", n)
		}
		b[1] &^= maskBit
		head, size, err := parseLength(b)
		if err != nil || size != n || len(b) != head+4+n {
			t.Fatalf("%d bytes: head %d, size %d, %v", n, head, size, err)
		}
	}
}

func TestWhatNoServerMaySendIsRefused(t *testing.T) {
	for name, b := range map[string][]byte{
		"masked":    {finBit | opBinary, maskBit | 1, 0, 0, 0, 0, 0},
		"reserved":  {finBit | 0x40 | opBinary, 1, 0},
		"too large": {finBit | opBinary, 127, 0, 0, 1, 0, 0, 0, 0, 0},
		"negative":  {finBit | opBinary, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
	} {
		if _, _, err := parseWS(b); !errors.Is(err, errFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCloseCodeOfAConnection(t *testing.T) {
	c := &conn{loop: &loop{}, to: &collector{}}
	err := c.take(serverFrame(opClose, true, []byte{0x11, 0x39, 'x'}))
	if closed, ok := errors.AsType[closeError](err); !ok || closed.code != messages.CloseReplaced {
		t.Fatalf("%v", err)
	}
}

func TestStampGoesBothWays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := stamp{
			run:  rapid.Uint64Range(0, 1<<24-1).Draw(t, "run"),
			n:    rapid.Uint64Range(0, 1<<30-1).Draw(t, "n"),
			due:  time.Duration(rapid.Int64Range(0, 1<<48-1).Draw(t, "due")),
			late: time.Duration(rapid.Int64Range(0, 1<<24-1).Draw(t, "late")) * time.Microsecond,
		}
		id := s.append(nil)
		if !messages.ClientID(id).Valid() {
			t.Fatalf("%q is no client id", id)
		}
		if back, ok := parseStamp(id); !ok || back != s {
			t.Fatalf("%+v became %+v", s, back)
		}
	})
	for _, id := range []string{"", "c1", "0123456789012345678/0", "012345678901234567890 "} {
		if _, ok := parseStamp([]byte(id)); ok {
			t.Errorf("%q is taken for a stamp", id)
		}
	}
}

package gateway

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
)

// stream is a client's TCP connection, as the WebSocket layer reads it. What
// has come is read ahead, many messages at once, but handed on no further than
// to the end of the frame that is being read: nothing of the next frame is
// ever hidden in the WebSocket layer's own buffer, so that ready tells the
// truth. One goroutine reads at a time; writing, closing and deadlines are the
// TCP connection's own. A nil stream is a connection that can only be read by
// waiting for it, as one of TLS.
type stream struct {
	*net.TCPConn
	raw   syscall.RawConn
	ahead *ahead // read and not yet handed on; nil: nothing
	frame frame  // that is being read
	dry   bool   // the last read took all that there was
}

// newStream returns nil where conn is no TCP connection.
func newStream(conn net.Conn) *stream {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	return &stream{TCPConn: tcp, raw: raw}
}

// ready reports whether there is something to read, and takes in what has
// come. It does not wait. False stands until the system tells that more has
// come since.
func (s *stream) ready() (bool, error) {
	switch {
	case s == nil || s.ahead != nil:
		return true, nil
	case s.dry:
		s.dry = false
		return false, nil
	}
	a := aheads.Get().(*ahead)
	n, err := a.fill(s.raw)
	if n == 0 {
		aheads.Put(a)
		return false, err
	}
	s.ahead, s.dry = a, n < len(a.bytes)
	return true, nil
}

// Read reads from the current frame. It waits only in the middle of one, and
// holds no buffer then.
func (s *stream) Read(b []byte) (int, error) {
	if s.ahead == nil {
		n, err := s.TCPConn.Read(b[:s.frame.rest(len(b))])
		s.frame.advance(b[:n])
		return n, err
	}
	n := s.frame.advance(b[:copy(b, s.ahead.left())])
	if s.ahead.from += n; len(s.ahead.left()) == 0 {
		s.discard()
	}
	return n, nil
}

// discard forgets what was read ahead.
func (s *stream) discard() {
	if s != nil && s.ahead != nil {
		aheads.Put(s.ahead)
		s.ahead = nil
	}
}

// ahead is what one read of a socket took. Its memory is shared by all
// connections: an idle one has none.
type ahead struct {
	bytes    [16 << 10]byte
	from, to int
	err      error
	read     func(fd uintptr) bool // readOnce, made once for all reads
}

var aheads = sync.Pool{New: func() any {
	a := &ahead{}
	a.read = a.readOnce
	return a
}}

func (a *ahead) left() []byte { return a.bytes[a.from:a.to] }

// fill reads what has come. Neither bytes nor an error: nothing has.
func (a *ahead) fill(raw syscall.RawConn) (int, error) {
	a.from, a.to, a.err = 0, 0, nil
	if err := raw.Read(a.read); err != nil {
		return 0, err
	}
	return a.to, a.err
}

func (a *ahead) readOnce(fd uintptr) bool {
	n, err := ignoringEINTR(func() (int, error) { return syscall.Read(int(fd), a.bytes[:]) })
	switch {
	case n > 0:
		a.to = n
	case n == 0:
		a.err = io.EOF
	case !errors.Is(err, syscall.EAGAIN):
		a.err = err
	}
	return true
}

func ignoringEINTR(read func() (int, error)) (int, error) {
	for {
		n, err := read()
		if err != syscall.EINTR {
			return n, err
		}
	}
}

// frame follows one WebSocket frame after the other by their headers.
type frame struct {
	left   uint64 // bytes to the frame's end, once its length is known
	length uint8  // bytes of the length that are still to come
	part   framePart
	masked bool
}

type framePart uint8

const (
	frameStart  framePart = iota
	frameSize             // the byte of the mask bit and the short length
	frameLength           // the long length
	frameBody             // masking key and payload
)

const (
	maskBit     = 0x80
	maskingKey  = 4 // bytes
	length16    = 126
	length64    = 127
	lengthValue = 0x7f
)

// rest returns how many bytes, of at most n, surely belong to the frame.
func (f *frame) rest(n int) int {
	switch f.part {
	case frameStart:
		return min(n, 2)
	case frameSize:
		return min(n, 1)
	case frameLength:
		return min(n, int(f.length))
	}
	return int(min(uint64(n), f.left))
}

// advance moves over b, up to the end of the frame that it begins in, and
// returns how many bytes that was.
func (f *frame) advance(b []byte) int {
	for n := 0; n < len(b); {
		if f.part == frameBody {
			step := f.rest(len(b) - n)
			f.left -= uint64(step)
			n += step
		} else {
			f.header(b[n])
			n++
		}
		if f.part == frameBody && f.left == 0 {
			*f = frame{}
			return n
		}
	}
	return len(b)
}

// header moves over one byte of a header.
func (f *frame) header(b byte) {
	switch f.part {
	case frameStart:
		f.part = frameSize
	case frameSize:
		f.size(b)
	case frameLength:
		f.left = f.left<<8 | uint64(b)
		if f.length--; f.length == 0 {
			f.body()
		}
	}
}

func (f *frame) size(b byte) {
	f.part = frameLength
	f.masked = b&maskBit != 0
	switch b & lengthValue {
	case length16:
		f.length = 2
	case length64:
		f.length = 8
	default:
		f.left = uint64(b & lengthValue)
		f.body()
	}
}

func (f *frame) body() {
	f.part = frameBody
	if f.masked {
		f.left += maskingKey
	}
}

// hijacker gives the WebSocket layer a stream where net/http has a TCP
// connection.
type hijacker struct {
	http.ResponseWriter
	stream *stream // nil: not hijacked, or no TCP connection
}

// Hijack implements http.Hijacker.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if h.stream = newStream(conn); h.stream == nil {
		return conn, buffered, nil
	}
	return h.stream, buffered, nil
}

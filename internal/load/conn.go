//go:build linux

package load

import (
	"encoding/binary"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/troupe-chat/troupe/internal/load/wire"
)

// maxBatch ends a client message: the server takes 64 KiB at most.
const maxBatch = 32 << 10

// receiver gets what arrives on a connection.
type receiver interface {
	// frame is called for every server frame; its bytes are valid during the
	// call. An error ends the connection.
	frame(f wire.Frame) error
	// read is called when all frames of one read were handled.
	read()
	// ended is called once, when the connection is gone.
	ended(err error)
}

// closeError is a close frame of the server's.
type closeError struct{ code int }

func (e closeError) Error() string { return fmt.Sprintf("the server closed with %d", e.code) }

// conn is one client socket. Owned by its loop.
type conn struct {
	loop  *loop
	index int
	fd    int
	to    receiver

	carry   []byte // an incomplete frame, kept for the next read
	message []byte // the fragments of a message so far

	batch   []byte // ClientBatch under construction
	out     []byte // whole WebSocket messages on their way
	blocked bool   // the socket took no more; epoll tells when it does
	dirty   bool   // in the loop's list of connections to flush
	gone    bool
}

// readable takes what the socket has, up to one buffer full.
func (c *conn) readable() {
	buf := c.loop.buf
	n := copy(buf, c.carry)
	got, err := unix.Read(c.fd, buf[n:])
	switch {
	case err != nil && again(err):
		return
	case err != nil:
		c.fail(fmt.Errorf("read: %w", err))
		return
	case got == 0:
		c.fail(io.EOF)
		return
	}
	c.loop.tick()
	if err := c.take(buf[:n+got]); err != nil {
		c.fail(err)
		return
	}
	c.to.read()
}

// take handles the whole frames in b and keeps the rest.
func (c *conn) take(b []byte) error {
	for !c.gone {
		f, n, err := parseWS(b)
		if err != nil {
			return err
		}
		if n == 0 {
			c.carry = append(c.carry[:0], b...)
			return c.loop.roomFor(len(b))
		}
		if err := c.control(f); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (c *conn) control(f wsFrame) error {
	switch f.op {
	case opBinary, opContinuation:
		return c.fragment(f)
	case opPing:
		c.out = appendMessage(c.out, opPong, f.payload)
		c.later()
	case opPong:
	case opClose:
		if len(f.payload) < 2 {
			return closeError{1005}
		}
		return closeError{int(binary.BigEndian.Uint16(f.payload))}
	default:
		return errFrame
	}
	return nil
}

func (c *conn) fragment(f wsFrame) error {
	if f.fin && len(c.message) == 0 {
		return c.deliver(f.payload)
	}
	if len(c.message)+len(f.payload) > maxFrame {
		return errFrame
	}
	c.message = append(c.message, f.payload...)
	if !f.fin {
		return nil
	}
	err := c.deliver(c.message)
	c.message = c.message[:0]
	return err
}

func (c *conn) deliver(batch []byte) error {
	frames := wire.Walk(batch)
	for frames.Next() {
		if frames.Num != 1 {
			continue
		}
		f, err := wire.ParseFrame(frames.Bytes)
		if err != nil {
			return err
		}
		if err := c.to.frame(f); err != nil {
			return err
		}
	}
	return frames.Err()
}

// appended tells that a frame was appended to batch; it leaves when the loop
// has handled what is ready now.
func (c *conn) appended() {
	if len(c.batch) >= maxBatch {
		c.seal()
	}
	c.later()
}

func (c *conn) later() {
	if !c.dirty && !c.gone {
		c.dirty = true
		c.loop.dirty = append(c.loop.dirty, c)
	}
}

func (c *conn) seal() {
	if len(c.batch) > 0 {
		c.out = appendMessage(c.out, opBinary, c.batch)
		c.batch = c.batch[:0]
	}
}

// flush writes what the socket takes.
func (c *conn) flush() {
	c.seal()
	if c.gone || c.blocked || len(c.out) == 0 {
		return
	}
	n, err := unix.Write(c.fd, c.out)
	if err != nil && !again(err) {
		c.fail(fmt.Errorf("write: %w", err))
		return
	}
	c.out = c.out[:copy(c.out, c.out[max(n, 0):])]
	if len(c.out) > 0 {
		c.block(true)
	}
}

func (c *conn) block(on bool) {
	c.blocked = on
	if err := c.loop.poll.writable(c.fd, c.index, on); err != nil {
		c.fail(err)
	}
}

func (c *conn) writable() {
	c.block(false)
	c.flush()
}

// fail ends the connection and tells its receiver.
func (c *conn) fail(err error) {
	if c.close() {
		c.to.ended(err)
	}
}

// close ends the connection; closing the socket takes it out of epoll too.
func (c *conn) close() bool {
	if c.gone {
		return false
	}
	c.gone = true
	unix.Close(c.fd)
	c.carry, c.message, c.batch, c.out = nil, nil, nil, nil
	return true
}

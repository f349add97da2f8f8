//go:build linux

package load

import (
	"encoding/binary"
	"errors"
)

// WebSocket opcodes (RFC 6455).
const (
	opContinuation = 0x0
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa
)

const (
	finBit  = 0x80
	maskBit = 0x80
	// maxFrame bounds what a server can make a client hold: messages are at
	// most 256 KiB, with room to spare.
	maxFrame = 1 << 20
)

var errFrame = errors.New("malformed WebSocket frame")

// wsFrame is one frame as it was received.
type wsFrame struct {
	op      byte
	fin     bool
	payload []byte
}

// appendMessage appends a whole client message. The mask is zero, which the
// protocol allows: the server unmasks as ever, and the generator saves its
// half of the work.
func appendMessage(dst []byte, op byte, payload []byte) []byte {
	dst = append(dst, finBit|op)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, maskBit|byte(n))
	case n < 1<<16:
		dst = append(dst, maskBit|126, byte(n>>8), byte(n))
	default:
		dst = append(dst, maskBit|127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(n))
	}
	dst = append(dst, 0, 0, 0, 0)
	return append(dst, payload...)
}

// parseWS takes one frame off b. It returns the bytes used, 0 where b does
// not hold a whole one yet.
func parseWS(b []byte) (wsFrame, int, error) {
	head, n, err := parseLength(b)
	if head == 0 || err != nil {
		return wsFrame{}, 0, err
	}
	if len(b) < head+n {
		return wsFrame{}, 0, nil
	}
	f := wsFrame{op: b[0] & 0x0f, fin: b[0]&finBit != 0, payload: b[head : head+n]}
	return f, head + n, nil
}

// parseLength returns the sizes of the header, 0 where it is not all there,
// and of the payload.
func parseLength(b []byte) (head, n int, err error) {
	if len(b) < 2 {
		return 0, 0, nil
	}
	if b[0]&0x70 != 0 || b[1]&maskBit != 0 {
		return 0, 0, errFrame
	}
	head, n = 2, int(b[1])
	switch n {
	case 126:
		if head = 4; len(b) < head {
			return 0, 0, nil
		}
		n = int(binary.BigEndian.Uint16(b[2:]))
	case 127:
		if head = 10; len(b) < head {
			return 0, 0, nil
		}
		if v := binary.BigEndian.Uint64(b[2:]); v > maxFrame {
			return 0, 0, errFrame
		}
		n = int(binary.BigEndian.Uint64(b[2:]))
	}
	return head, n, nil
}

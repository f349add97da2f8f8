//go:build linux

package load

import "time"

// A client id of the engine's says which send it is and when it was due, so
// nothing need be remembered to measure its latency:
//
//	4 digits   the run, so that a repeated run uses no id twice
//	5 digits   the number of the send of its sender, from 0
//	8 digits   when it was due: ns since the run's epoch
//	4 digits   how much later it was sent: µs
//
// in base 64, the most significant digit first.
type stamp struct {
	run  uint64
	n    uint64
	due  time.Duration
	late time.Duration
}

const (
	runDigits  = 4
	numDigits  = 5
	dueDigits  = 8
	lateDigits = 4
	stampSize  = runDigits + numDigits + dueDigits + lateDigits
)

const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-abcdefghijklmnopqrstuvwxyz_"

var digitValues = func() (v [256]uint8) {
	for i := range v {
		v[i] = 0xff
	}
	for i := range len(digits) {
		v[digits[i]] = uint8(i)
	}
	return v
}()

func appendDigits(dst []byte, v uint64, n int) []byte {
	for i := n - 1; i >= 0; i-- {
		dst = append(dst, digits[v>>(6*i)&63])
	}
	return dst
}

func parseDigits(b []byte) (uint64, bool) {
	var v uint64
	var bad uint8
	for _, c := range b {
		d := digitValues[c]
		bad |= d & 0x80
		v = v<<6 | uint64(d)
	}
	return v, bad == 0
}

func (s stamp) append(dst []byte) []byte {
	late := min(uint64(max(s.late, 0)/time.Microsecond), 1<<(6*lateDigits)-1)
	dst = appendDigits(dst, s.run, runDigits)
	dst = appendDigits(dst, s.n, numDigits)
	dst = appendDigits(dst, uint64(s.due), dueDigits)
	return appendDigits(dst, late, lateDigits)
}

// parseStamp reads a client id; false where it is not one of the engine's.
func parseStamp(b []byte) (stamp, bool) {
	if len(b) != stampSize {
		return stamp{}, false
	}
	run, ok1 := parseDigits(b[:4])
	n, ok2 := parseDigits(b[4:9])
	due, ok3 := parseDigits(b[9:17])
	late, ok4 := parseDigits(b[17:])
	s := stamp{run, n, time.Duration(due), time.Duration(late) * time.Microsecond}
	return s, ok1 && ok2 && ok3 && ok4
}

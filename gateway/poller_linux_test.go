package gateway

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// resting reports whether nobody reads any connection.
func (d *desk) resting() bool {
	return !slices.ContainsFunc(d.s.all(), func(c *conn) bool { return c.reading.Load() != nobodyReads })
}

// An idle connection holds neither a goroutine nor a buffer.
func TestIdleHoldsNothing(t *testing.T) {
	d := newDesk(t, polled)
	const connections = 200
	for i := range connections {
		c := d.join(fmt.Sprint("ana", i))
		c.write(textFrame(ping(1)))
		c.mustAnswer(1, 1)
	}
	d.until("nobody reads", d.resting)
	for _, c := range d.s.all() {
		d.until("the test reads", func() bool { return c.reading.CompareAndSwap(nobodyReads, workerReads) })
		if c.in.ahead != nil || c.frames != nil {
			t.Error("an idle connection holds what was read")
		}
		c.serve()
	}
	stacks := make([]byte, 8<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	if n := strings.Count(string(stacks), "gateway.(*conn)"); n > 0 {
		t.Errorf("%d goroutines are in connections", n)
	}
}

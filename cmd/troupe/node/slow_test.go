package node_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/troupe-chat/troupe/cmd/troupe/node"
	"github.com/troupe-chat/troupe/internal/world"
	"github.com/troupe-chat/troupe/messages"
)

// While 50 MB pass a device by that never reads, or reads and never
// acknowledges, the heap is no larger than with one that does both; its user's
// other device and everyone else are served; and when it comes back it gets
// all.
func TestADeviceThatNeverReadsOrAcknowledges(t *testing.T) {
	const sends, size = 3300, 15_900
	var reading uint64
	t.Run("reads", func(t *testing.T) {
		reading = passBy(t, sends, size, func(*world.Client) {})
	})
	t.Run("never reads", func(t *testing.T) {
		mustBeFlat(t, reading, passBy(t, sends, size, (*world.Client).Pause))
	})
	t.Run("never acknowledges", func(t *testing.T) {
		mustBeFlat(t, reading, passBy(t, sends, size, func(c *world.Client) { c.Mute(true) }))
	})
}

// steadyStore keeps the store's own buffers, which count as heap in a build with
// the race detector, at the size that they begin with.
func steadyStore(c *node.Config) { c.Pebble.MemTableBytes = 256 << 10 }

func mustBeFlat(t *testing.T, reading, stalled uint64) {
	t.Logf("live heap: %d KiB reading, %d KiB stalled", reading>>10, stalled>>10)
	if int64(stalled)-int64(reading) > 4<<20 {
		t.Errorf("the heap is %d KiB larger", (stalled-reading)>>10)
	}
}

// passBy sends a device more than fits anywhere, and returns the heap then.
func passBy(t *testing.T, sends, size int, stall func(*world.Client)) uint64 {
	w := world.Start(t, steadyStore)
	w.Users("ana", "bo")
	phone := w.Connect(world.Device{User: "bo", Name: "phone", Quiet: true, Protocol: world.Proto})
	laptop := w.Connect(world.Device{User: "bo", Name: "laptop", Quiet: true, Protocol: world.Proto})
	ana := w.Connect(world.Device{User: "ana", Name: "phone", Quiet: true, Protocol: world.Proto})
	stall(phone)
	body := strings.Repeat("x", size)
	const underWay = 8
	ids := make([]uint32, 0, sends)
	for i := range sends {
		ids = append(ids, ana.Post(world.Text("bo", fmt.Sprint(i), body)))
		if i >= underWay {
			mustBeSent(t, ana.Answer(ids[i-underWay]))
		}
	}
	for _, id := range ids[sends-underWay:] {
		mustBeSent(t, ana.Answer(id))
	}
	laptop.Count(sends)
	w.As("cy").Says("ana", "served")
	alive := heap()

	phone.Resume()
	phone.Mute(false)
	phone.Reconnect()
	phone.Await("caught_up", isCaughtUp)
	if last := phone.High(anaBo); int(last) != sends {
		t.Errorf("back again, it has up to %d of %d", last, sends)
	}
	return alive
}

func mustBeSent(t *testing.T, f *messages.ServerFrame) {
	t.Helper()
	if f.GetSent() == nil {
		t.Fatalf("answered %v", f)
	}
}

// A client that asks for ten thousand pages of history and reads none costs
// the server no more than a window's worth, and nobody waits for it.
func TestAClientThatAsksAndNeverReads(t *testing.T) {
	const pages = 10_000
	w := world.Start(t)
	ana, bo := w.As("ana"), w.As("bo")
	body := strings.Repeat("x", 8<<10)
	for i := range 40 { // 320 KiB: each page is as large as a page gets
		ana.Says("bo", fmt.Sprint(i, body))
	}
	bo.Count(40)
	greedy := w.Connect(world.Device{User: "bo", Name: "greedy", Quiet: true})
	greedy.Await("caught_up", isCaughtUp)
	before := heap()
	greedy.Pause()
	var asking sync.WaitGroup
	asking.Go(func() {
		for range pages / 100 {
			frames := make([]*messages.ClientFrame, 100)
			for i := range frames {
				frames[i] = world.Do(&messages.History{Conversation: anaBo, Limit: 100})
			}
			greedy.Post(frames...)
		}
	})
	taken := func() float64 { return w.Metric("troupe_frames_in_total") }
	stuck := -1.0
	w.Until("the server takes no more of it", func() bool {
		was := stuck
		stuck = taken()
		return stuck == was && stuck > 40
	})
	for i := range 50 {
		bo.Says("ana", fmt.Sprint("meanwhile ", i))
	}
	ana.Sees("meanwhile 49")
	if grown := int64(heap()) - int64(before); grown > 6<<20 {
		t.Errorf("the heap has grown by %d KiB", grown>>10)
	}
	greedy.Close()
	asking.Wait()
	w.Judge()
}

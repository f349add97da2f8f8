package pebble

import (
	"fmt"
	"math"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

func openReal(b testing.TB) *Store {
	b.Helper()
	s, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

// BenchmarkAppend appends entries of 128 bytes, each durable before the next
// of its conversation.
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 16, 256} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			s := openReal(b)
			b.ReportAllocs()
			b.ResetTimer()
			before := cpu(b)
			each(writers, b.N, func(i, n int) { appendMany(b, s, i, n) })
			b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/append")
			stats := s.Stats()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
			b.ReportMetric(float64(stats.Appends)/float64(stats.Commits), "appends/commit")
			b.ReportMetric(float64(stats.Bytes)/float64(stats.Appends), "bytes/append")
		})
	}
}

// cpu is what the process has used, of all cores: on a shared machine it says
// more than the clock.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// each shares n between workers.
func each(workers, n int, work func(i, n int)) {
	var group sync.WaitGroup
	for i := range workers {
		share := n / workers
		if i < n%workers {
			share++
		}
		group.Go(func() { work(i, share) })
	}
	group.Wait()
}

// appendMany chains n appends: each is issued by the answer to the one before,
// as an actor does.
func appendMany(b *testing.B, s *Store, i, n int) {
	c := messages.Direct(messages.UserID(fmt.Sprint("user", i)), messages.UserID(fmt.Sprint("user", i+1)))
	now := time.Now().UnixMilli()
	seq, finished := 0, make(chan struct{})
	var next func(error)
	next = func(err error) {
		if err != nil {
			b.Error(err)
		}
		if seq++; err != nil || seq > n {
			close(finished)
			return
		}
		s.Append(benchBatch(c, seq, now), next)
	}
	next(nil)
	<-finished
}

var benchEntry = func() []byte {
	e, err := proto.Marshal(&messages.Entry{
		Conversation: "d:user100~user101", Seq: 1000, From: "user100", ClientId: "0123456789abcdef", At: at,
		Kind: &messages.Entry_Text{Text: &messages.Text{Body: fmt.Sprintf("%071d", 0)}},
	})
	must(err)
	return e
}()

func benchBatch(c messages.ConversationID, seq int, now int64) *persistence.Batch {
	b := &persistence.Batch{Conversation: c, ExpectHead: messages.Seq(seq - 1)}
	b.ID[0], b.ID[8] = byte(seq), byte(seq>>8)
	b.Rows = []persistence.Row{{Seq: messages.Seq(seq), At: now, Entry: benchEntry, Countable: uint64(seq)}}
	b.Dedup = []persistence.Dedup{{
		Author: "user100", ClientID: messages.ClientID(fmt.Sprintf("0123456%09d", seq)), Seq: messages.Seq(seq), Hash: 1, At: now,
	}}
	return b
}

// BenchmarkKnow asks for an id that was never used, and for blocks, as every
// send to a direct conversation may do, in a store of 400,000 entries.
func BenchmarkKnow(b *testing.B) {
	s := openReal(b)
	each(256, 400_000, func(i, n int) { appendMany(b, s, i, n) })
	c := messages.Direct("user10", "user11")
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		q := persistence.Query{Blocks: true, IDs: []persistence.AuthorID{{Author: "user10", ClientID: messages.ClientID(fmt.Sprint("new", i))}}}
		if _, err := s.Know(b.Context(), c, q); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRead reads the newest 50 entries of conversations in turn.
func BenchmarkRead(b *testing.B) {
	s := openReal(b)
	each(256, 100_000, func(i, n int) { appendMany(b, s, i, n) })
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		u := i % 256
		c := messages.Direct(messages.UserID(fmt.Sprint("user", u)), messages.UserID(fmt.Sprint("user", u+1)))
		rows, err := s.Read(b.Context(), c, persistence.Range{Before: math.MaxUint64, Limit: 50})
		if err != nil || len(rows) != 50 {
			b.Fatalf("%d rows (%v)", len(rows), err)
		}
	}
}

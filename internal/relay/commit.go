package relay

import (
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"

	"github.com/troupe-chat/troupe/internal/load/wire"
)

// send is one entry on its way to the disk.
type send struct {
	from     *conn
	talk     *talk
	re       uint32
	at       int64
	clientID []byte
	tail     []byte // of the encoded entry
}

// committed is a send that is on the disk.
type committed struct {
	send
	seq   uint64
	entry []byte // encoded
}

// commitAll makes what has gathered durable, all of it with one sync, while
// the next gathers.
func (s *Server) commitAll() {
	defer s.fanout.close()
	var sends []send
	for {
		sends = s.commits.takeAll(sends)
		if len(sends) == 0 {
			return
		}
		done, err := s.commit(sends)
		if err != nil {
			// What a failed sync left on the disk is not known: nothing can
			// be promised after it.
			panic(err)
		}
		s.fanout.put(done...)
		clear(sends)
	}
}

func (s *Server) commit(sends []send) ([]committed, error) {
	batch := s.db.NewBatch()
	done := make([]committed, len(sends))
	arena := make([]byte, 0, arenaSize(sends))
	for i, p := range sends {
		p.talk.seq++
		start := len(arena)
		arena = wire.AppendEntryHead(arena, string(p.talk.id), p.talk.seq)
		arena = append(arena, p.tail...)
		entry := arena[start:len(arena):len(arena)]
		done[i] = committed{p, p.talk.seq, entry}
		op := batch.SetDeferred(len(p.talk.key)+8, len(entry))
		binary.BigEndian.PutUint64(op.Key[copy(op.Key, p.talk.key):], p.talk.seq)
		copy(op.Value, entry)
		if err := op.Finish(); err != nil {
			return nil, err
		}
	}
	return done, batch.Commit(pebble.Sync)
}

// arenaSize returns room for all entries: their tails, and heads of an id and
// a seq.
func arenaSize(sends []send) int {
	n := 0
	for i := range sends {
		n += len(sends[i].tail) + len(sends[i].talk.id) + 16
	}
	return n
}

// fanOutAll answers and delivers all of one commit before it wakes a writer,
// so that what goes to one socket goes in one write.
func (s *Server) fanOutAll() {
	defer s.flushes.close()
	var done []committed
	var touched []*conn
	var scratch []byte
	for {
		done = s.fanout.takeAll(done)
		if len(done) == 0 {
			return
		}
		for i := range done {
			touched, scratch = s.tell(&done[i], touched, scratch[:0])
		}
		s.flushes.put(touched...)
		clear(done)
		clear(touched)
		touched = touched[:0]
	}
}

// tell answers the sender and delivers to the recipient. It adds to touched
// who must be given to a writer.
func (s *Server) tell(d *committed, touched []*conn, b []byte) ([]*conn, []byte) {
	b = wire.AppendSent(b, d.re, wire.Sent{
		Conversation: []byte(d.talk.id), ClientID: d.clientID, Seq: d.seq, At: d.at,
	})
	if d.from.add(b) {
		touched = append(touched, d.from)
	}
	if to := s.online(d.talk.other(d.from.user)); to != nil {
		b = wire.AppendDeliver(b[:0], d.entry)
		if to.add(b) {
			touched = append(touched, to)
		}
	}
	return touched, b
}

func (s *Server) online(user string) *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.users[user]
}

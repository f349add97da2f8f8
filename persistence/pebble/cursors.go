package pebble

import (
	"context"
	"fmt"
	"sort"

	"github.com/cockroachdb/pebble/v2"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// DevicePositions implements persistence.Cursors.
func (s *Store) DevicePositions(ctx context.Context, d persistence.DeviceKey, cs []messages.ConversationID) ([]messages.Seq, error) {
	seqs := make([]messages.Seq, len(cs))
	err := s.reading(ctx, func() error {
		for i, c := range cs {
			var seq uint64
			if err := getNums(s.db, deviceKey(d, c), &seq); err != nil {
				return err
			}
			seqs[i] = messages.Seq(seq)
		}
		return nil
	})
	return seqs, err
}

// reading runs point reads while the store is open.
func (s *Store) reading(ctx context.Context, read func() error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	return read()
}

// SaveDevice implements persistence.Cursors.
func (s *Store) SaveDevice(d persistence.DeviceKey, ps []persistence.Position, caughtUp int64, done persistence.Done) {
	s.submit(func(g *group) error {
		for _, p := range ps {
			if err := g.raise(deviceKey(d, p.Conversation), uint64(p.Seq)); err != nil {
				return err
			}
		}
		if caughtUp != 0 {
			g.set(deviceKey(d, ""), pack(uint64(caughtUp)))
		}
		return nil
	}, done)
}

// raise stores n under k where it is more than what is there.
func (g *group) raise(k key, n uint64) error {
	value, err := g.get(k)
	if err != nil {
		return err
	}
	var old uint64
	if value != nil {
		if _, err := unpack(value, &old); err != nil {
			return err
		}
	}
	if n > old {
		g.put(k, pack(n))
	}
	return nil
}

// CaughtUp implements persistence.Cursors.
func (s *Store) CaughtUp(ctx context.Context, d persistence.DeviceKey) (int64, error) {
	var ms uint64
	err := s.reading(ctx, func() error { return getNums(s.db, deviceKey(d, ""), &ms) })
	return int64(ms), err
}

// ForgetDevice implements persistence.Cursors.
func (s *Store) ForgetDevice(d persistence.DeviceKey, done persistence.Done) {
	s.submit(func(g *group) error {
		g.deleteRange(deviceOf(d), deviceOf(d).end())
		g.forget(deviceOf(d))
		return nil
	}, done)
}

// MemberCursors implements persistence.Cursors.
func (s *Store) MemberCursors(ctx context.Context, c messages.ConversationID, users []messages.UserID) ([]persistence.MemberCursor, error) {
	cursors := make([]persistence.MemberCursor, len(users))
	err := s.reading(ctx, func() error {
		for i, u := range users {
			m, err := decodeMember(get(s.db, memberKey(c, u)))
			if err != nil {
				return err
			}
			cursors[i] = m.cursor(u)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return cursors, s.flight.waitMembers(ctx, c)
}

// member is what is stored of a member's cursors.
type member struct{ delivered, read cursor }

// cursor is a seq, and its last move: when it began to be so far (s), and from
// where. Moves within one second are one.
type cursor struct{ seq, second, from uint64 }

func decodeMember(value []byte, err error) (member, error) {
	var m member
	if err != nil || value == nil {
		return m, err
	}
	_, err = unpack(value, &m.delivered.seq, &m.read.seq,
		&m.delivered.second, &m.delivered.from, &m.read.second, &m.read.from)
	return m, err
}

func (m member) encode() []byte {
	return pack(m.delivered.seq, m.read.seq, m.delivered.second, m.delivered.from, m.read.second, m.read.from)
}

func (m member) cursor(u messages.UserID) persistence.MemberCursor {
	return persistence.MemberCursor{User: u, Delivered: messages.Seq(m.delivered.seq), Read: messages.Seq(m.read.seq)}
}

// move takes the cursor to seq at a second, and reports whether it was behind.
// Seconds never go back: a later move has a later one, or is the same.
func (c *cursor) move(seq messages.Seq, second uint64) bool {
	if uint64(seq) <= c.seq {
		return false
	}
	if second > c.second {
		c.second, c.from = second, c.seq
	}
	c.seq = uint64(seq)
	return true
}

// SaveMembers implements persistence.Cursors.
func (s *Store) SaveMembers(c messages.ConversationID, ms []persistence.MemberCursor, at int64, done persistence.Done) {
	s.submit(func(g *group) error {
		g.cursors = append(g.cursors, c)
		for _, m := range ms {
			if err := g.moveMember(c, m, uint64(at/1000)); err != nil {
				return err
			}
		}
		return nil
	}, done)
}

func (g *group) moveMember(c messages.ConversationID, to persistence.MemberCursor, second uint64) error {
	k := memberKey(c, to.User)
	m, err := decodeMember(g.get(k))
	if err != nil {
		return err
	}
	delivered, read := m.delivered.move(to.Delivered, second), m.read.move(to.Read, second)
	if delivered {
		g.set(moveKey(c, to.User, moveDelivered, m.delivered.second), pack(m.delivered.from, m.delivered.seq))
	}
	if read {
		g.set(moveKey(c, to.User, moveRead, m.read.second), pack(m.read.from, m.read.seq))
	}
	if delivered || read {
		g.put(k, m.encode())
	}
	return nil
}

// Since implements persistence.Cursors.
func (s *Store) Since(ctx context.Context, c messages.ConversationID, seq messages.Seq, users []messages.UserID) ([]persistence.Since, error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	defer v.close()
	since := make([]persistence.Since, len(users))
	for i, u := range users {
		if since[i].Delivered, err = v.since(c, u, moveDelivered, seq); err != nil {
			return nil, err
		}
		if since[i].Read, err = v.since(c, u, moveRead, seq); err != nil {
			return nil, err
		}
	}
	return since, s.flight.waitMembers(ctx, c)
}

// since returns when (ms) the cursor of kind went from before seq to seq or
// beyond, or 0. It looks in the periods that are kept, newest first.
func (v *view) since(c messages.ConversationID, u messages.UserID, kind byte, seq messages.Seq) (int64, error) {
	now := v.s.opts.Now().UnixMilli()
	newest := periodOf(now+day.Milliseconds(), movePeriod)
	oldest := periodOf(now-messages.KeepMoves.Milliseconds(), movePeriod)
	for p := newest + 1; p > oldest; p-- {
		m, err := v.moveIn(movesOf(p-1, c, u, kind), p-1, seq)
		if err != nil || m.covers(seq) {
			return m.second * 1000, err
		}
	}
	return 0, nil
}

// move is one kept move of a cursor.
type move struct {
	second   int64
	from, to uint64
}

func (m move) covers(seq messages.Seq) bool { return m.from < uint64(seq) && uint64(seq) <= m.to }

// moveIn returns the first move of a period at or beyond seq. Moves ascend
// with time, so it is found by halves, however many there are.
func (v *view) moveIn(prefix key, period uint32, seq messages.Seq) (move, error) {
	start := int64(period) * int64(movePeriod.Seconds())
	var failed error
	at := func(offset int) (move, bool) {
		m, ok, err := v.moveFrom(prefix, uint32(start+int64(offset)))
		if err != nil {
			failed = err
		}
		return m, ok
	}
	offset := sort.Search(int(movePeriod.Seconds()), func(offset int) bool {
		m, ok := at(offset)
		return failed != nil || !ok || m.to >= uint64(seq)
	})
	if failed != nil {
		return move{}, failed
	}
	m, _ := at(offset)
	return m, failed
}

// moveFrom returns the first move with prefix at the second or later.
func (v *view) moveFrom(prefix key, second uint32) (move, bool, error) {
	from := append(key(nil), prefix...).num32(second)
	if !v.it.SeekGE(from) || !hasPrefix(v.it.Key(), prefix) {
		return move{}, false, v.failed()
	}
	value, err := v.it.ValueAndErr()
	if err != nil {
		return move{}, false, readProblem(err)
	}
	f := fields{rest: v.it.Key()[len(prefix):]}
	m := move{second: int64(f.num32())}
	_, err = unpack(value, &m.from, &m.to)
	return m, true, err
}

// getNums reads the numbers under k; where there is nothing they stay.
func getNums(r pebble.Reader, k key, ns ...*uint64) error {
	value, err := get(r, k)
	if err != nil || value == nil {
		return err
	}
	if _, err := unpack(value, ns...); err != nil {
		return fmt.Errorf("reading the store: %w", err)
	}
	return nil
}

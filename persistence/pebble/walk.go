package pebble

import (
	"context"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

var _ persistence.Walker = (*Store)(nil)

// Verify checks the whole store. Nothing may be written meanwhile.
func (s *Store) Verify(ctx context.Context) (persistence.Report, error) {
	return persistence.Verify(ctx, s)
}

// Conversations implements persistence.Walker. It steps from log to log.
func (s *Store) Conversations(ctx context.Context, f func(messages.ConversationID) error) error {
	v, err := s.view(ctx)
	if err != nil {
		return err
	}
	defer v.close()
	for from := table(tableLog); v.it.SeekGE(from) && v.it.Key()[0] == tableLog; {
		c := messages.ConversationID(fieldsOf(v.it.Key()).name())
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f(c); err != nil {
			return err
		}
		from = logOf(c).end()
	}
	return v.failed()
}

// scan visits everything under prefix while ctx lasts.
func (s *Store) scan(ctx context.Context, prefix key, f func(v *view, k, value []byte) error) error {
	v, err := s.view(ctx)
	if err != nil {
		return err
	}
	defer v.close()
	return v.each(prefix, prefix, func(k, value []byte) (bool, error) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		return true, f(v, k, value)
	})
}

// Scan implements persistence.Walker. It shows durable rows, as stored.
func (s *Store) Scan(ctx context.Context, c messages.ConversationID, f func(persistence.Row, persistence.AppendID) error) error {
	return s.scan(ctx, logOf(c), func(v *view, k, value []byte) error {
		if seqAtEnd(k) > v.cap(c) {
			return nil
		}
		row, _, err := decodeRow(c, k, value)
		if err != nil {
			return err
		}
		rec, err := decodeRecord(c, row.Seq, value)
		if err != nil {
			return err
		}
		var id persistence.AppendID
		copy(id[:], rec.AppendId)
		return f(row, id)
	})
}

// ScanDedup implements persistence.Walker.
func (s *Store) ScanDedup(ctx context.Context, c messages.ConversationID, f func(persistence.Dedup) error) error {
	periods, err := s.periods(ctx, tableDedup)
	if err != nil {
		return err
	}
	for _, p := range periods {
		prefix := dedupOf(p, c)
		err := s.scan(ctx, prefix, func(_ *view, k, value []byte) error {
			rest := fields{rest: k[len(prefix):]}
			id := persistence.AuthorID{Author: messages.UserID(rest.name()), ClientID: messages.ClientID(rest.text())}
			d, err := decodeDedup(id, value)
			if err != nil {
				return err
			}
			return f(d)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// periods returns the periods that a table holds.
func (s *Store) periods(ctx context.Context, of byte) ([]uint32, error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	defer v.close()
	var periods []uint32
	for from := table(of); v.it.SeekGE(from) && v.it.Key()[0] == of; {
		p := fieldsOf(v.it.Key()).num32()
		periods = append(periods, p)
		from = table(of).num32(p).end()
	}
	return periods, v.failed()
}

// ScanMembers implements persistence.Walker.
func (s *Store) ScanMembers(ctx context.Context, c messages.ConversationID, f func(persistence.MemberCursor) error) error {
	prefix := membersOf(c)
	return s.scan(ctx, prefix, func(_ *view, k, value []byte) error {
		m, err := decodeMember(value, nil)
		if err != nil {
			return err
		}
		return f(m.cursor(messages.UserID(k[len(prefix):])))
	})
}

// ScanDevices implements persistence.Walker.
func (s *Store) ScanDevices(ctx context.Context, f func(persistence.DeviceKey, persistence.Position) error) error {
	return s.scan(ctx, table(tableDevice), func(_ *view, k, value []byte) error {
		rest := fieldsOf(k)
		d := persistence.DeviceKey{User: messages.UserID(rest.name()), Incarnation: rest.num()}
		c := messages.ConversationID(rest.text())
		if c == "" {
			return nil // when it was caught up
		}
		var seq uint64
		if _, err := unpack(value, &seq); err != nil {
			return err
		}
		return f(d, persistence.Position{Conversation: c, Seq: messages.Seq(seq)})
	})
}

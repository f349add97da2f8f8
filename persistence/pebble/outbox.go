package pebble

import (
	"context"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// PendingHooks implements persistence.Outbox.
func (s *Store) PendingHooks(ctx context.Context, after *persistence.Pending, limit int) ([]persistence.Pending, error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	defer v.close()
	from := table(tableOutbox)
	if after != nil {
		from = outboxKey(after.Conversation, after.First+1)
	}
	var notes []persistence.Pending
	err = v.each(table(tableOutbox), from, func(k, value []byte) (bool, error) {
		if len(notes) >= limit {
			return false, nil
		}
		f := fieldsOf(k)
		p := persistence.Pending{Conversation: messages.ConversationID(f.name()), First: messages.Seq(f.num())}
		var last uint64
		_, err := unpack(value, &last)
		p.Last = messages.Seq(last)
		if p.Last <= v.cap(p.Conversation) {
			notes = append(notes, p)
		}
		return true, err
	})
	return notes, err
}

// HookDone implements persistence.Outbox.
func (s *Store) HookDone(p persistence.Pending, done persistence.Done) {
	s.submit(func(g *group) error {
		g.delete(outboxKey(p.Conversation, p.First))
		return nil
	}, done)
}

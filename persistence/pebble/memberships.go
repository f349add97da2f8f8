package pebble

import (
	"cmp"
	"context"
	"slices"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// Memberships implements persistence.Memberships.
func (s *Store) Memberships(ctx context.Context, u messages.UserID) ([]persistence.Membership, error) {
	ms, err := s.memberships(ctx, u, membershipsOf(u))
	slices.SortFunc(ms, func(a, b persistence.Membership) int {
		return cmp.Or(cmp.Compare(a.Conversation, b.Conversation), cmp.Compare(a.Joined, b.Joined))
	})
	return ms, err
}

// Membership implements persistence.Memberships.
func (s *Store) Membership(ctx context.Context, u messages.UserID, c messages.ConversationID) ([]persistence.Membership, error) {
	return s.memberships(ctx, u, membershipsIn(u, c))
}

// memberships returns the intervals of u under prefix that are durable: one
// that an entry under way ends is still open.
func (s *Store) memberships(ctx context.Context, u messages.UserID, prefix key) ([]persistence.Membership, error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	defer v.close()
	var ms []persistence.Membership
	err = v.each(prefix, prefix, func(k, value []byte) (bool, error) {
		m, err := decodeMembership(k, value)
		if err != nil {
			return false, err
		}
		durable := v.cap(m.Conversation)
		if m.Ended > durable {
			m.Ended = 0
		}
		if m.Joined <= durable {
			ms = append(ms, m)
		}
		return true, nil
	})
	return ms, err
}

const flagUnmarked = 1

func encodeMembership(m persistence.Membership) []byte {
	var flags uint64
	if m.Unmarked {
		flags |= flagUnmarked
	}
	return pack(uint64(m.From), uint64(m.Ended), flags)
}

func decodeMembership(k, value []byte) (persistence.Membership, error) {
	f := fieldsOf(k)
	m := persistence.Membership{
		User: messages.UserID(f.name()), Conversation: messages.ConversationID(f.name()), Joined: messages.Seq(f.num()),
	}
	var from, ended, flags uint64
	if _, err := unpack(value, &from, &ended, &flags); err != nil {
		return m, err
	}
	m.From, m.Ended, m.Unmarked = messages.Seq(from), messages.Seq(ended), flags&flagUnmarked != 0
	return m, nil
}

// Marked implements persistence.Memberships. It visits the days that have any
// mark, and of each only the marks of u.
func (s *Store) Marked(ctx context.Context, u messages.UserID, since int64) ([]messages.ConversationID, error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	defer v.close()
	seen := make(map[messages.ConversationID]bool)
	var marked []messages.ConversationID
	day := uint32(max(since, 0))
	for ok := true; ok; day++ {
		if day, ok = v.markedDay(day); !ok {
			break
		}
		prefix := marksOf(day, u)
		err := v.each(prefix, prefix, func(k, _ []byte) (bool, error) {
			c := messages.ConversationID(k[len(prefix):])
			if !seen[c] {
				seen[c] = true
				marked = append(marked, c)
			}
			return true, nil
		})
		if err != nil {
			return nil, err
		}
	}
	return marked, v.failed()
}

// markedDay returns the first day with a mark from day on.
func (v *view) markedDay(day uint32) (uint32, bool) {
	if !v.it.SeekGE(table(tableMark).num32(day)) || v.it.Key()[0] != tableMark {
		return 0, false
	}
	return fieldsOf(v.it.Key()).num32(), true
}

// Settings implements persistence.Memberships.
func (s *Store) Settings(ctx context.Context, u messages.UserID, cs []messages.ConversationID) ([]persistence.Settings, error) {
	all := make([]persistence.Settings, len(cs))
	err := s.reading(ctx, func() error {
		for i, c := range cs {
			var err error
			if all[i], err = decodeSettings(get(s.db, settingsKey(u, c))); err != nil {
				return err
			}
		}
		return nil
	})
	return all, err
}

// SaveSettings implements persistence.Memberships.
func (s *Store) SaveSettings(u messages.UserID, c messages.ConversationID, to persistence.Settings, done persistence.Done) {
	s.submit(func(g *group) error {
		k := settingsKey(u, c)
		old, err := decodeSettings(g.get(k))
		if err != nil {
			return err
		}
		to.Cleared = max(to.Cleared, old.Cleared)
		g.put(k, encodeSettings(to))
		return nil
	}, done)
}

const (
	flagMuted = 1 << iota
	flagArchived
	flagPinned
)

func encodeSettings(s persistence.Settings) []byte {
	var flags uint64
	for flag, set := range map[uint64]bool{flagMuted: s.Muted, flagArchived: s.Archived, flagPinned: s.Pinned} {
		if set {
			flags |= flag
		}
	}
	return pack(flags, uint64(s.Cleared))
}

func decodeSettings(value []byte, err error) (persistence.Settings, error) {
	if err != nil || value == nil {
		return persistence.Settings{}, err
	}
	var flags, cleared uint64
	_, err = unpack(value, &flags, &cleared)
	return persistence.Settings{
		Muted:    flags&flagMuted != 0,
		Archived: flags&flagArchived != 0,
		Pinned:   flags&flagPinned != 0,
		Cleared:  messages.Seq(cleared),
	}, err
}

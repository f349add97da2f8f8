package pebble

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// CreateAccount implements persistence.Accounts.
func (s *Store) CreateAccount(ctx context.Context, a persistence.Account) error {
	return s.change(ctx, a.User, "creating an account", func() (stage, error) {
		value, err := get(s.db, accountKey(a.User))
		if err != nil {
			return nil, err
		}
		if value != nil {
			return nil, persistence.ErrExists
		}
		return put(accountKey(a.User), a)
	})
}

// change runs decide alone among the changes of u, and makes the write that it
// returns durable. The next change waits for it, even where ctx ends before.
func (s *Store) change(ctx context.Context, u messages.UserID, doing string, decide func() (stage, error)) error {
	turn := s.users[maphash.String(userSeed, string(u))%uint64(len(s.users))]
	select {
	case turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", doing, ctx.Err())
	}
	var st stage
	err := s.reading(ctx, func() (err error) {
		st, err = decide()
		return err
	})
	if err != nil {
		<-turn
		return err
	}
	return s.writeThen(ctx, doing, st, func() { <-turn })
}

var userSeed = maphash.MakeSeed()

// put returns the write of v, as JSON, under k.
func put(k key, v any) (stage, error) {
	value, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding for the store: %w", err)
	}
	return func(g *group) error {
		g.set(k, value)
		return nil
	}, nil
}

// read decodes the JSON under k into v and reports whether there is any.
func (s *Store) read(k key, v any) (bool, error) {
	value, err := get(s.db, k)
	if err != nil || value == nil {
		return false, err
	}
	return true, decodeJSON(value, v)
}

func decodeJSON(value []byte, v any) error {
	if err := json.Unmarshal(value, v); err != nil {
		return fmt.Errorf("reading the store: %w (%v)", ErrCorrupt, err)
	}
	return nil
}

// Account implements persistence.Accounts.
func (s *Store) Account(ctx context.Context, u messages.UserID) (persistence.Account, error) {
	var a persistence.Account
	err := s.reading(ctx, func() (err error) {
		a, err = s.account(u)
		return err
	})
	return a, err
}

func (s *Store) account(u messages.UserID) (persistence.Account, error) {
	var a persistence.Account
	found, err := s.read(accountKey(u), &a)
	if err == nil && !found {
		err = persistence.ErrNotFound
	}
	return a, err
}

// UpdateAccount implements persistence.Accounts.
func (s *Store) UpdateAccount(ctx context.Context, u messages.UserID, f func(*persistence.Account) error) error {
	return s.change(ctx, u, "changing an account", func() (stage, error) {
		a, err := s.account(u)
		if err != nil {
			return nil, err
		}
		if err := f(&a); err != nil {
			return nil, err
		}
		return put(accountKey(u), a)
	})
}

// Accounts implements persistence.Accounts.
func (s *Store) Accounts(ctx context.Context, after messages.UserID, limit int) ([]persistence.Account, error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	defer v.close()
	var as []persistence.Account
	from := accountKey(after)
	if after != "" {
		from = from.byte(0) // the first key beyond it
	}
	err = v.each(table(tableAccount), from, func(_, value []byte) (bool, error) {
		if len(as) >= limit {
			return false, nil
		}
		var a persistence.Account
		err := decodeJSON(value, &a)
		as = append(as, a)
		return true, err
	})
	return as, err
}

// Unknown implements persistence.Accounts.
func (s *Store) Unknown(ctx context.Context, users []messages.UserID) ([]messages.UserID, error) {
	var unknown []messages.UserID
	err := s.reading(ctx, func() error {
		for _, u := range users {
			var a persistence.Account
			found, err := s.read(accountKey(u), &a)
			if err != nil {
				return err
			}
			if !found || a.Deleted {
				unknown = append(unknown, u)
			}
		}
		return nil
	})
	return unknown, err
}

// Devices implements persistence.Accounts.
func (s *Store) Devices(ctx context.Context, u messages.UserID) ([]persistence.Device, error) {
	var ds []persistence.Device
	err := s.reading(ctx, func() error {
		_, err := s.read(devicesKey(u), &ds)
		return err
	})
	return ds, err
}

// UpdateDevices implements persistence.Accounts.
func (s *Store) UpdateDevices(ctx context.Context, u messages.UserID, f func([]persistence.Device) ([]persistence.Device, error)) error {
	return s.change(ctx, u, "changing devices", func() (stage, error) {
		var ds []persistence.Device
		if _, err := s.read(devicesKey(u), &ds); err != nil {
			return nil, err
		}
		ds, err := f(ds)
		if err != nil {
			return nil, err
		}
		return put(devicesKey(u), ds)
	})
}

// Revoke implements persistence.Accounts.
func (s *Store) Revoke(ctx context.Context, token string, until int64) error {
	return s.write(ctx, "revoking a token", func(g *group) error {
		return g.raise(revokedKey(token), uint64(until))
	})
}

// Revoked implements persistence.Accounts.
func (s *Store) Revoked(ctx context.Context, token string) (bool, error) {
	var until uint64
	err := s.reading(ctx, func() error { return getNums(s.db, revokedKey(token), &until) })
	return int64(until) > s.opts.Now().UnixMilli(), err
}

// revokedBefore returns the keys of revocations that ended before ms.
func (v *view) revokedBefore(ms int64) ([]key, error) {
	var ended []key
	err := v.each(table(tableRevoked), table(tableRevoked), func(k, value []byte) (bool, error) {
		var until uint64
		_, err := unpack(value, &until)
		if int64(until) < ms {
			ended = append(ended, append(key(nil), k...))
		}
		return true, err
	})
	return ended, err
}

// SetBlock implements persistence.Accounts.
func (s *Store) SetBlock(ctx context.Context, u, other messages.UserID, blocked bool) error {
	if blocked {
		s.pairs.add(u, other) // before it is decided by
	}
	return s.write(ctx, "changing a block", func(g *group) error {
		if blocked {
			g.set(blockKey(u, other), nil)
		} else {
			g.delete(blockKey(u, other))
		}
		return nil
	})
}

// Blocks implements persistence.Accounts.
func (s *Store) Blocks(ctx context.Context, u messages.UserID) ([]messages.UserID, error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	defer v.close()
	var us []messages.UserID
	prefix := blocksOf(u)
	err = v.each(prefix, prefix, func(k, _ []byte) (bool, error) {
		us = append(us, messages.UserID(k[len(prefix):]))
		return true, nil
	})
	return us, err
}

// Blocked implements persistence.Accounts.
func (s *Store) Blocked(ctx context.Context, a, b messages.UserID) (bool, error) {
	var blocked bool
	err := s.reading(ctx, func() (err error) {
		blocked, err = s.blocked(a, b)
		return err
	})
	return blocked, err
}

func (s *Store) blocked(a, b messages.UserID) (bool, error) {
	for _, k := range []key{blockKey(a, b), blockKey(b, a)} {
		if value, err := get(s.db, k); err != nil || value != nil {
			return err == nil, err
		}
	}
	return false, nil
}

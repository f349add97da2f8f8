package pebble

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// view is the store as it was when the view was made, durable or not. What
// is said of a conversation must be asked of cap before it is served: the view
// comes first, then the cap, so that what the view shows beyond the cap, and
// nothing else, may not be durable yet.
type view struct {
	s  *Store
	it *pebble.Iterator
}

func (s *Store) view(ctx context.Context) (*view, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	it, err := s.db.NewIter(nil)
	if err != nil {
		s.leave()
		return nil, fmt.Errorf("reading the store: %w", err)
	}
	return &view{s: s, it: it}, nil
}

// close ends the view. Whoever read by it has asked failed before.
func (v *view) close() {
	v.it.Close()
	v.s.leave()
}

// enter keeps the store open for a read, until leave.
func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("reading the store: %w", err)
	}
	s.life.Lock()
	defer s.life.Unlock()
	if s.closed {
		return fmt.Errorf("reading the store: it is closed: %w", persistence.ErrUnavailable)
	}
	s.readers++
	return nil
}

func (s *Store) leave() {
	s.life.Lock()
	defer s.life.Unlock()
	if s.readers--; s.readers == 0 {
		s.idle.Signal()
	}
}

// get returns a copy of the value of k, nil where there is none.
func get(r pebble.Reader, k key) ([]byte, error) {
	value, closer, err := r.Get(k)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, readProblem(err)
	}
	defer closer.Close()
	return append(make([]byte, 0, len(value)), value...), nil
}

func readProblem(err error) error {
	if corrupt(err) {
		return fmt.Errorf("reading the store: %w (%v)", ErrCorrupt, err)
	}
	return fmt.Errorf("reading the store: %w", err)
}

// cap returns the last durable seq of c, or the highest there can be where
// everything that the view shows is durable.
func (v *view) cap(c messages.ConversationID) messages.Seq { return v.s.flight.cap(c) }

// get returns the value of k, valid until the view moves.
func (v *view) get(k key) ([]byte, bool, error) {
	if !v.it.SeekGE(k) || string(v.it.Key()) != string(k) {
		return nil, false, v.failed()
	}
	value, err := v.it.ValueAndErr()
	return value, true, wrapRead(err)
}

// each calls f with every key that begins with prefix, from the key from on,
// ascending, until f returns false. Keys and values are valid within f.
func (v *view) each(prefix, from key, f func(k, value []byte) (bool, error)) error {
	end := prefix.end()
	for ok := v.it.SeekGE(from); ok && string(v.it.Key()) < string(end); ok = v.it.Next() {
		value, err := v.it.ValueAndErr()
		if err != nil {
			return readProblem(err)
		}
		if more, err := f(v.it.Key(), value); err != nil || !more {
			return err
		}
	}
	return v.failed()
}

// last returns the last key below before that begins with prefix.
func (v *view) last(prefix, before key) (k, value []byte, err error) {
	if !v.it.SeekLT(before) || !hasPrefix(v.it.Key(), prefix) {
		return nil, nil, v.failed()
	}
	value, err = v.it.ValueAndErr()
	return v.it.Key(), value, wrapRead(err)
}

func (v *view) failed() error { return wrapRead(v.it.Error()) }

func wrapRead(err error) error {
	if err == nil {
		return nil
	}
	return readProblem(err)
}

func hasPrefix(k, prefix []byte) bool {
	return len(k) >= len(prefix) && string(k[:len(prefix)]) == string(prefix)
}

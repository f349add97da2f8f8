package pebble

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
)

// inspectedBytes bounds how much of the tables is read before a store is opened.
// The rest is checked whenever it is read, and by Verify.
const inspectedBytes = 256 << 20

// prepare makes a new store, or inspects one that is there.
func (s *Store) prepare() error {
	desc, err := pebble.Peek(s.dir, s.opts.FS)
	if err != nil || !desc.Exists {
		return s.create()
	}
	return s.inspect()
}

// create makes a store and closes it again: Pebble writes the first log of a
// new store in its oldest format, where damage is taken for the end of the log.
// With the next log, it can tell.
func (s *Store) create() error {
	db, err := pebble.Open(s.dir, s.pebbleOptions())
	if err != nil {
		return openProblem(err)
	}
	return db.Close()
}

// inspect reads a store as opening it would, and its newest tables, without
// changing anything: a store that is damaged, or that a newer version wrote, is
// refused as it is. To open it for writing would write it anew.
func (s *Store) inspect() error {
	o := s.pebbleOptions()
	o.FS, o.ReadOnly = s.opts.FS, true
	o.EventListener = &pebble.EventListener{DataCorruption: func(pebble.DataCorruptionInfo) {}} // the error tells
	o.EnsureDefaults()
	db, err := pebble.Open(s.dir, o)
	if err != nil {
		return openProblem(err)
	}
	return errors.Join(s.inspectContent(db, o.MakeReaderOptions()), db.Close())
}

func (s *Store) inspectContent(db *pebble.DB, o sstable.ReaderOptions) error {
	if _, err := readFormat(db); err != nil {
		return err
	}
	levels, err := db.SSTables()
	if err != nil {
		return openProblem(err)
	}
	left := int64(inspectedBytes)
	for _, level := range levels {
		for _, t := range level {
			if left -= int64(t.Size); left < 0 {
				return nil
			}
			if err := s.inspectTable(t.BackingSSTNum.String()+".sst", o); err != nil {
				return err
			}
		}
	}
	return nil
}

// inspectTable checks every block of a table.
func (s *Store) inspectTable(name string, o sstable.ReaderOptions) (err error) {
	f, err := s.opts.FS.Open(s.opts.FS.PathJoin(s.dir, name))
	if err != nil {
		return openProblem(err)
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return openProblem(errors.Join(err, f.Close()))
	}
	r, err := sstable.NewReader(context.Background(), readable, o)
	if err != nil {
		return damaged(name, errors.Join(err, readable.Close()))
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := r.ValidateBlockChecksums(); err != nil {
		return damaged(name, err)
	}
	return nil
}

func damaged(name string, err error) error { return openProblem(fmt.Errorf("%s: %w", name, err)) }

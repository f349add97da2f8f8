// Package pebble keeps everything that Troupe stores in one directory of one
// machine, by the embedded key-value store Pebble. It fulfils
// persistence.Store. keys.go shows the whole key space.
//
// One goroutine stages the writes of all callers into groups, applies each to
// Pebble and waits for its fsync; another answers. What comes while a group is
// committed is the next one. Pebble shows a group to readers before its fsync,
// so every read of a log is capped at the durable head that flight.go keeps
// while a group is under way.
package pebble

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// formatVersion is of the key space. A store of a higher one is not opened.
const formatVersion = 1

// Options says how a store is opened. The zero value is a good one.
type Options struct {
	Logger *slog.Logger     // nil: slog.Default
	Now    func() time.Time // nil: time.Now
	FS     vfs.FS           // nil: the machine's

	CacheBytes    int64  // of blocks read; 0: 64 MiB
	MemTableBytes uint64 // written and not yet in a table; 0: 64 MiB, less on a small disk
	ReserveBytes  uint64 // free space below which writes are refused; 0: twice MemTableBytes

	// Fatal is called when a commit failed, and it is not known any more what
	// is on disk. It must end the process; nil: it logs and exits with 1.
	Fatal func(error)
	// NoSync answers before the fsync. Only for the control of durability
	// tests: what was answered is lost in a crash.
	NoSync bool
}

// Store is an open directory.
type Store struct {
	db     *pebble.DB
	dir    string
	opts   Options
	log    *slog.Logger
	disk   *patientFS
	flight *flight
	stats  counters
	broken atomic.Bool // a commit failed

	queue   queue
	durable chan *group    // committed, to be answered
	written sync.WaitGroup // the committing, answering and refusing goroutines
	heads   headCache      // Owned by the committing goroutine.
	pairs   blockPairs
	users   [256]chan struct{} // one token each: who has it may change users of that hash

	life    sync.Mutex
	idle    sync.Cond // on life: readers is 0
	readers int       // guarded by life
	closed  bool      // guarded by life
}

var _ persistence.Store = (*Store)(nil)

// Open opens the store in dir and makes it where there is none. An error is an
// *OpenError. The caller must Close the store.
func Open(dir string, o Options) (*Store, error) {
	o.setDefaults(dir)
	s := &Store{
		dir:     dir,
		opts:    o,
		log:     o.Logger.With("store", dir),
		flight:  newFlight(),
		durable: make(chan *group, 1),
	}
	s.disk = newPatientFS(o.FS, dir, o.ReserveBytes, s.log)
	s.queue.filled.L = &s.queue.mu
	s.idle.L = &s.life
	for i := range s.users {
		s.users[i] = make(chan struct{}, 1)
	}
	if err := s.prepare(); err != nil {
		return nil, &OpenError{Dir: dir, Err: err}
	}
	var err error
	if s.db, err = pebble.Open(dir, s.pebbleOptions()); err != nil {
		return nil, &OpenError{Dir: dir, Err: openProblem(err)}
	}
	if err := s.checkFormat(); err != nil {
		s.db.Close()
		return nil, &OpenError{Dir: dir, Err: err}
	}
	if err := s.loadBlocks(); err != nil {
		s.db.Close()
		return nil, &OpenError{Dir: dir, Err: openProblem(err)}
	}
	s.written.Go(s.commitAll)
	s.written.Go(s.answerAll)
	return s, nil
}

func (o *Options) setDefaults(dir string) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = memTableFor(o.FS, dir)
	}
	if o.ReserveBytes == 0 {
		o.ReserveBytes = 2 * o.MemTableBytes
	}
	if o.Fatal == nil {
		logger := o.Logger
		o.Fatal = func(err error) {
			logger.Error("a commit failed: ending, since what is on disk is not known", "error", err)
			os.Exit(1)
		}
	}
}

// memTableFor returns 64 MiB, which costs a third less work for an append than
// 16 MiB do, or a sixteenth of a disk that is small.
func memTableFor(fs vfs.FS, dir string) uint64 {
	const most, least = 64 << 20, 1 << 20
	usage, err := fs.GetDiskUsage(existing(fs, dir))
	if err != nil {
		return most
	}
	return min(most, max(least, usage.TotalBytes/16))
}

// existing returns dir or the nearest directory above it that exists.
func existing(fs vfs.FS, dir string) string {
	for {
		_, err := fs.Stat(dir)
		if above := fs.PathDir(dir); err != nil && above != dir {
			dir = above
			continue
		}
		return dir
	}
}

func (s *Store) pebbleOptions() *pebble.Options {
	p := &pebble.Options{
		FS: s.disk,
		// Pebble takes its memtables' memory out of the cache's. Without this
		// the filters would not stay in it, and every miss would read them.
		CacheSize:                   s.opts.CacheBytes + 2*int64(s.opts.MemTableBytes),
		MemTableSize:                s.opts.MemTableBytes,
		MemTableStopWritesThreshold: 4,
		L0StopWritesThreshold:       1000,
		FormatMajorVersion:          pebble.FormatNewest,
		Logger:                      logger{s},
		EventListener:               &pebble.EventListener{DataCorruption: s.corrupted},
	}
	for i := range p.Levels {
		// On every level: an id that was never used is the common case.
		p.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return p
}

// corrupted replaces Pebble's default, which ends the process: the read that
// met it returns an error, and what is sound is served.
func (s *Store) corrupted(info pebble.DataCorruptionInfo) {
	s.log.Error("damaged data", "path", info.Path, "error", info.Details)
}

// checkFormat marks a new store with its format.
func (s *Store) checkFormat() error {
	version, err := readFormat(s.db)
	if err != nil || version != 0 {
		return err
	}
	return s.db.Set(table(tableFormat), pack(formatVersion), pebble.Sync)
}

// readFormat returns the format of a store, 0 for a new one, and refuses one
// that is newer than this version knows.
func readFormat(db *pebble.DB) (version uint64, err error) {
	value, err := get(db, table(tableFormat))
	if err != nil || value == nil {
		return 0, err
	}
	if _, err := unpack(value, &version); err != nil {
		return 0, fmt.Errorf("reading its format: %w", err)
	}
	if version > formatVersion {
		return 0, fmt.Errorf("%w (format %d; this version reads %d)", ErrNewer, version, formatVersion)
	}
	return version, nil
}

// Close waits for writes and reads under way and releases the directory. Later
// calls answer persistence.ErrUnavailable. On a full disk it takes until there
// is space.
func (s *Store) Close() error {
	if !s.queue.close() {
		return nil
	}
	s.written.Wait()
	s.life.Lock()
	defer s.life.Unlock()
	s.closed = true
	for s.readers > 0 {
		s.idle.Wait()
	}
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("closing the store: %w", err)
	}
	return nil
}

// Expire deletes what is kept no longer at now: dedup ids, marks, moves and
// revoked tokens. The owner calls it a few times a day.
func (s *Store) Expire(ctx context.Context, now time.Time) error {
	v, err := s.view(ctx)
	if err != nil {
		return err
	}
	defer v.close()
	ms := now.UnixMilli()
	before := []struct {
		table byte
		first uint32
	}{
		{tableDedup, periodOf(ms-messages.DedupFor.Milliseconds(), dedupPeriod)},
		{tableMove, periodOf(ms-messages.KeepMoves.Milliseconds(), movePeriod)},
		{tableMark, periodOf(ms-keepMarks*day.Milliseconds(), day)},
	}
	revoked, err := v.revokedBefore(ms)
	if err != nil {
		return err
	}
	return s.write(ctx, "expiring", func(g *group) error {
		for _, b := range before {
			g.deleteRange(table(b.table), table(b.table).num32(b.first))
		}
		for _, k := range revoked {
			g.delete(k)
		}
		return nil
	})
}

// logger hands on what Pebble says. Its notices are for debugging.
type logger struct{ s *Store }

func (l logger) Infof(format string, args ...any) {
	l.s.log.Debug(fmt.Sprintf(format, args...))
}

func (l logger) Errorf(format string, args ...any) {
	l.s.log.Error(fmt.Sprintf(format, args...))
}

func (l logger) Fatalf(format string, args ...any) {
	l.s.fail(fmt.Errorf(format, args...))
}

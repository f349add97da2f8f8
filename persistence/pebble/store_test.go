package pebble

import (
	"log/slog"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/troupe-chat/troupe/persistence"
	"github.com/troupe-chat/troupe/persistence/storetest"
)

// crashable is a store on a file system that can lose what was not synced.
type crashable struct {
	*Store
	fs *vfs.MemFS
	o  Options
}

// small keeps a test's store cheap to open.
func small(fs vfs.FS, now func() time.Time) Options {
	return Options{FS: fs, Now: now, CacheBytes: 1 << 20, MemTableBytes: 256 << 10, Logger: slog.New(slog.DiscardHandler)}
}

func openCrashable(t testing.TB, fs *vfs.MemFS, o Options) *crashable {
	t.Helper()
	o.FS = fs
	s, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &crashable{s, fs, o}
}

// crash returns what is left of c when the power fails now.
func (c *crashable) crash(t testing.TB) *crashable {
	t.Helper()
	left := c.fs.CrashClone(vfs.CrashCloneCfg{})
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return openCrashable(t, left, c.o)
}

func maker(o Options) storetest.Maker {
	return storetest.Maker{
		Open: func(t testing.TB, now func() time.Time) persistence.Store {
			o.Now = now
			return openCrashable(t, vfs.NewCrashableMem(), o)
		},
		Reopen: func(t testing.TB, s persistence.Store) persistence.Store {
			return s.(*crashable).crash(t)
		},
		Expires: true,
	}
}

// Every case of the suite, with the power cut wherever it reopens the store.
func TestSuite(t *testing.T) {
	storetest.Run(t, maker(small(nil, nil)))
}

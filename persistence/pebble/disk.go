package pebble

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/troupe-chat/troupe/persistence"
)

// tryAgain is how often a write that met a full disk is made again.
const tryAgain = 100 * time.Millisecond

// patientFS waits where the disk is full, as long as that lasts: to Pebble a
// write that fails for want of space would be the end. Only what needs space
// waits; files are still read and removed. A sync is not made again: after one
// that failed, what is on disk is not known.
type patientFS struct {
	vfs.FS
	dir     string
	reserve uint64
	log     *slog.Logger
	waiting atomic.Int32 // writes that wait for space
}

func newPatientFS(fs vfs.FS, dir string, reserve uint64, log *slog.Logger) *patientFS {
	return &patientFS{FS: fs, dir: dir, reserve: reserve, log: log}
}

// full reports whether a write waits for space now.
func (p *patientFS) full() bool { return p.waiting.Load() > 0 }

// scarce returns ErrUnavailable where less than the reserve is free: what is
// left is for writing out what was acknowledged.
func (p *patientFS) scarce() error {
	usage, err := p.FS.GetDiskUsage(p.dir)
	if err != nil || usage.AvailBytes >= p.reserve {
		return nil // A file system that can't tell is taken for large enough.
	}
	return fmt.Errorf("%d MiB are free on the disk and %d must be: %w",
		usage.AvailBytes>>20, p.reserve>>20, persistence.ErrUnavailable)
}

// insist calls write until it fails no more for want of space.
func (p *patientFS) insist(write func() error) error {
	err := write()
	if !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	if p.waiting.Add(1) == 1 {
		p.log.Error("the disk is full: writes wait until there is space")
	}
	for errors.Is(err, syscall.ENOSPC) {
		time.Sleep(tryAgain)
		err = write()
	}
	if p.waiting.Add(-1) == 0 {
		p.log.Info("there is space on the disk again")
	}
	return err
}

// open insists on opening a file, and wraps it.
func (p *patientFS) open(open func() (vfs.File, error)) (vfs.File, error) {
	var f vfs.File
	err := p.insist(func() (err error) {
		f, err = open()
		return err
	})
	if err != nil {
		return nil, err
	}
	return &patientFile{File: f, fs: p}, nil
}

func (p *patientFS) Unwrap() vfs.FS { return p.FS }

func (p *patientFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return p.open(func() (vfs.File, error) { return p.FS.Create(name, category) })
}

func (p *patientFS) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return p.open(func() (vfs.File, error) { return p.FS.OpenReadWrite(name, category, opts...) })
}

func (p *patientFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return p.open(func() (vfs.File, error) { return p.FS.ReuseForWrite(oldname, newname, category) })
}

func (p *patientFS) Link(oldname, newname string) error {
	return p.insist(func() error { return p.FS.Link(oldname, newname) })
}

func (p *patientFS) Rename(oldname, newname string) error {
	return p.insist(func() error { return p.FS.Rename(oldname, newname) })
}

type patientFile struct {
	vfs.File
	fs *patientFS
}

func (f *patientFile) Write(p []byte) (n int, err error) {
	err = f.fs.insist(func() error {
		more, err := f.File.Write(p[n:])
		n += more
		return err
	})
	return n, err
}

func (f *patientFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.fs.insist(func() error {
		more, err := f.File.WriteAt(p[n:], off+int64(n))
		n += more
		return err
	})
	return n, err
}

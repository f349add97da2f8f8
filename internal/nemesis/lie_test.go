//go:build linux

package nemesis

import (
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// lyingFS keeps the end of the write-ahead log in the process and says that it
// is on disk.
type lyingFS struct{ vfs.FS }

// Create is part of vfs.FS.
func (l lyingFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return l.wrap(name)(l.FS.Create(name, category))
}

// ReuseForWrite is part of vfs.FS.
func (l lyingFS) ReuseForWrite(old, name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return l.wrap(name)(l.FS.ReuseForWrite(old, name, category))
}

func (l lyingFS) wrap(name string) func(vfs.File, error) (vfs.File, error) {
	return func(f vfs.File, err error) (vfs.File, error) {
		if err != nil || !strings.HasSuffix(name, ".log") {
			return f, err
		}
		return &lyingFile{File: f}, nil
	}
}

// lyingFile is used by one goroutine at a time, as Pebble does.
type lyingFile struct {
	vfs.File
	kept []byte
}

const keptBack = 64 << 10

// Write is part of vfs.File.
func (f *lyingFile) Write(p []byte) (int, error) {
	f.kept = append(f.kept, p...)
	if len(f.kept) < keptBack {
		return len(p), nil
	}
	return len(p), f.flush()
}

func (f *lyingFile) flush() error {
	_, err := f.File.Write(f.kept)
	f.kept = nil
	return err
}

// Sync is part of vfs.File.
func (f *lyingFile) Sync() error { return nil }

// SyncData is part of vfs.File.
func (f *lyingFile) SyncData() error { return nil }

// SyncTo is part of vfs.File.
func (f *lyingFile) SyncTo(int64) (bool, error) { return true, nil }

// Close is part of vfs.File.
func (f *lyingFile) Close() error {
	if err := f.flush(); err != nil {
		return err
	}
	return f.File.Close()
}

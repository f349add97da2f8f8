package world

import (
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Disk is the machine's file system, whose syncs can be held.
type Disk struct {
	vfs.FS
	mu   sync.Mutex
	gate chan struct{} // guarded by mu; nil: open
}

// NewDisk returns a disk that syncs.
func NewDisk() *Disk { return &Disk{FS: vfs.Default} }

// Hold makes syncs wait from now on, until release is called.
func (d *Disk) Hold() (release func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	gate := make(chan struct{})
	d.gate = gate
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.gate = nil
		close(gate)
	})
}

func (d *Disk) sync(do func() error) error {
	d.mu.Lock()
	gate := d.gate
	d.mu.Unlock()
	if gate != nil {
		<-gate
	}
	return do()
}

type heldFile struct {
	vfs.File
	disk *Disk
}

func (f *heldFile) Sync() error     { return f.disk.sync(f.File.Sync) }
func (f *heldFile) SyncData() error { return f.disk.sync(f.File.SyncData) }

// Create implements vfs.FS.
func (d *Disk) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return d.hold(d.FS.Create(name, category))
}

// ReuseForWrite implements vfs.FS.
func (d *Disk) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return d.hold(d.FS.ReuseForWrite(oldname, newname, category))
}

func (d *Disk) hold(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &heldFile{f, d}, nil
}

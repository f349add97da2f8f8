//go:build linux && nemesis

package nemesis

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Promise 1 on a real file system: when the power fails, all that was
// acknowledged is on disk.
func TestPowerLoss(t *testing.T) {
	v := powerLoss(t, false)
	if err := v.Err(); err != nil {
		t.Error(err)
	}
}

// The control: without the fsync the same run loses.
func TestPowerLossWithoutSync(t *testing.T) {
	if v := powerLoss(t, true); v.Lost() == 0 {
		t.Errorf("nothing is lost without a sync: the run is blind; it found %v", v.Err())
	}
}

func powerLoss(t *testing.T, noSync bool) Verdict {
	disk := newDisk(t)
	r := newRun(t, disk.dir, false)
	r.config.NoSync = noSync
	r.pairs(8)
	r.begin()
	for range powerRounds {
		r.acknowledged(1 + r.rng.IntN(1000))
		disk.shutdown(t)
		check(t, r.server.Kill())
		disk.remount(t)
		r.start()
	}
	r.acknowledged(100)
	v := r.verdict()
	check(t, r.server.Kill())
	t.Logf("power losses %d, lost %d, violations %d, faults %d", powerRounds, v.Lost(), len(v.Violations), len(v.Faults))
	return v
}

// disk is an ext4 file system in a file.
type disk struct{ image, dir string }

// newDisk makes and mounts one. A machine that can't fails the test: this
// promise can't be shown there.
func newDisk(t *testing.T) *disk {
	t.Helper()
	base := t.TempDir()
	d := &disk{filepath.Join(base, "image"), filepath.Join(base, "mounted")}
	check(t, os.Mkdir(d.dir, 0o700))
	check(t, os.WriteFile(d.image, nil, 0o600))
	check(t, os.Truncate(d.image, 512<<20))
	command(t, "mkfs.ext4", "-q", "-F", d.image)
	d.mount(t)
	t.Cleanup(func() { command(t, "umount", d.dir) })
	return d
}

func (d *disk) mount(t *testing.T) {
	t.Helper()
	command(t, "mount", "-o", "loop", d.image, d.dir)
}

// The ioctl of ext4 that ends all writing at once, and its way that does not
// write the journal out.
const (
	ext4Shutdown = 0x8004587d
	noLogFlush   = 2
)

// shutdown is what a power failure does to the disk: from here on nothing
// reaches it.
func (d *disk) shutdown(t *testing.T) {
	t.Helper()
	f := must(os.Open(d.dir))(t)
	defer f.Close()
	check(t, unix.IoctlSetPointerInt(int(f.Fd()), ext4Shutdown, noLogFlush))
}

// remount is the power coming back.
func (d *disk) remount(t *testing.T) {
	t.Helper()
	command(t, "umount", d.dir)
	d.mount(t)
}

func command(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatal(fmt.Errorf("a real power loss needs root, loop devices, mkfs.ext4 and mount: %s: %w: %s", name, err, out))
	}
}

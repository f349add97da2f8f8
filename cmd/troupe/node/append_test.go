package node_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/troupe-chat/troupe/cmd/troupe/node"
	"github.com/troupe-chat/troupe/internal/world"
	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence/faulty"
)

// Two activations of one conversation at once, on a store whose appends are
// often refused, lost, or done and not heard of; every client id is sent
// through both, in whatever batches come about, until both have answered with
// sent. Every answer must name the one entry of that id.
func TestTwoActivationsOfOneConversation(t *testing.T) {
	const sends = 150
	w := world.Start(t)
	beside := w.Beside()
	devices := []*world.Client{
		w.Connect(world.Device{User: "ana", Name: "here"}),
		beside.Connect(world.Device{User: "ana", Name: "there"}),
	}
	readers := []*world.Client{
		w.Connect(world.Device{User: "bo", Name: "here"}),
		beside.Connect(world.Device{User: "bo", Name: "there"}),
	}
	w.Store.Randomly(faulty.Chance(1, faulty.Append, 0.3, faulty.Refused, faulty.Lost, faulty.Unheard))
	answers := [2][sends]messages.Seq{}
	var both sync.WaitGroup
	for d := range devices {
		for part := range 4 {
			both.Go(func() {
				r := rand.New(rand.NewPCG(uint64(d), uint64(part)))
				for _, i := range r.Perm(sends) {
					if i%4 == part {
						answers[d][i] = sendUntilSent(devices[d], fmt.Sprint("id-", i))
					}
				}
			})
		}
	}
	both.Wait()
	w.Store.Randomly(func(faulty.Op) faulty.Fault { return faulty.None })

	log := w.Log(anaBo)
	if len(log) != sends {
		t.Errorf("the log has %d entries of %d sends", len(log), sends)
	}
	for i := range sends {
		for d := range devices {
			if seq := answers[d][i]; seq == 0 || int(seq) > len(log) || log[seq-1].ClientId != fmt.Sprint("id-", i) {
				t.Errorf("id-%d was answered with %d at %s, which is another's", i, seq, devices[d].Name)
			}
		}
	}
	if w.Metric("troupe_append_conflicts_total")+beside.Metric("troupe_append_conflicts_total") == 0 {
		t.Error("the two never met: the test sees nothing")
	}
	for _, c := range append(devices, readers...) { // what the other node appended nobody tells them
		c.Reconnect()
		c.Await("caught_up", isCaughtUp)
	}
	w.Judge(beside)
}

// sendUntilSent sends a text to bo until it is answered with sent; 0: it never
// was. Safe on any goroutine.
func sendUntilSent(c *world.Client, id string) messages.Seq {
	for range 500 {
		f, ok := c.TryAnswer(c.Post(world.Text("bo", id, "text of "+id)))
		if !ok {
			return 0
		}
		if sent := f.GetSent(); sent != nil {
			return messages.Seq(sent.Seq)
		}
	}
	return 0
}

// An append that the store refuses is answered with unavailable and is not in
// the log; one whose outcome is unknown is answered when it is known. The
// retry of either is answered once, with one entry.
func TestAnAppendThatFailsIsNeverSent(t *testing.T) {
	for _, test := range []struct {
		fault   faulty.Fault
		refused bool
	}{{faulty.Refused, true}, {faulty.Lost, false}, {faulty.Unheard, false}} {
		t.Run(fmt.Sprint(test.fault), func(t *testing.T) {
			w := world.Start(t)
			ana, bo := w.As("ana"), w.As("bo")
			ana.Says("bo", "before")
			w.Store.Fail(faulty.Append, 1, test.fault)
			f := ana.Ask(world.Text("bo", "c1", "under test"))
			if refused := f.GetError().GetCode() == messages.CodeUnavailable; refused != test.refused || f.GetSent() == nil && !refused {
				t.Errorf("answered %v", f)
			}
			if test.refused {
				mustFail(t, f, messages.CodeUnavailable)
				if n := len(w.Log(anaBo)); n != 1 {
					t.Errorf("refused, and the log has %d entries", n)
				}
			}
			again := ana.Ask(world.Text("bo", "c1", "under test")).GetSent()
			if again.GetSeq() != 2 || again.Duplicate == test.refused {
				t.Errorf("sent again: %v", again)
			}
			bo.Sees("under test")
			ana.Says("bo", "after")
			bo.Sees("after")
			if n := len(w.Log(anaBo)); n != 3 {
				t.Errorf("the log has %d entries", n)
			}
			w.Judge()
		})
	}
}

// While the outcome of an append stays unknown its author hears unavailable,
// never sent; when the store can tell again, a retry finds the one entry.
func TestAnUnknownAppendIsAnsweredWhenItIsKnown(t *testing.T) {
	w := world.Start(t)
	ana, bo := w.As("ana"), w.As("bo")
	ana.Says("bo", "before")
	w.Store.Randomly(faulty.Chance(1, faulty.Append, 1, faulty.Unheard))
	id := ana.Post(world.Text("bo", "c1", "unheard"))
	w.Until("the append was tried again", func() bool { return w.Store.Calls(faulty.Append) >= 3 })
	ana.Settle()
	bo.Settle()
	for _, f := range ana.Frames() {
		if f.Re == id {
			t.Errorf("answered %v while it was not known", f)
		}
	}
	if len(bo.Bodies()) != 1 {
		t.Errorf("delivered while it was not known: %v", bo.Bodies())
	}
	w.Clock.Advance(10 * time.Second)
	mustFail(t, ana.Answer(id), messages.CodeUnavailable)
	w.Store.Randomly(func(faulty.Op) faulty.Fault { return faulty.None })
	if sent := ana.Ask(world.Text("bo", "c1", "unheard")).GetSent(); sent.GetSeq() != 2 {
		t.Errorf("known, and answered %v", sent)
	}
	bo.Sees("unheard")
	w.Judge()
}

// mustFail fails the test unless f is an error with that code, which says when
// to come back where it should.
func mustFail(t *testing.T, f *messages.ServerFrame, code string) {
	t.Helper()
	if got := f.GetError().GetCode(); got != code {
		t.Errorf("answered %v, not %s", f, code)
	}
	switch code {
	case messages.CodeUnavailable, messages.CodeRateLimited, messages.CodeOverloaded:
		if f.GetError().GetRetryAfterMs() <= 0 {
			t.Errorf("%v does not say when to come back", f)
		}
	}
}

// On a full disk sends are answered with unavailable, everything else is
// served, and with space they are stored again, without a restart.
func TestAFullDisk(t *testing.T) {
	disk := newSmallDisk(t)
	w := world.Start(t, func(c *node.Config) {
		c.Dir = filepath.Join(disk.dir, "store")
		c.Pebble.FS, c.Pebble.ReserveBytes = disk, 4<<20
	})
	ana, bo := w.As("ana"), w.As("bo")
	ana.SaysMany("bo", "early", 20)
	bo.Count(20)
	cursorsAt(w, 20)
	disk.fill(t)
	mustFail(t, ana.Ask(world.Text("bo", "full", "no room")), messages.CodeUnavailable)
	if n := len(bo.History(&messages.History{Conversation: anaBo}).Entries); n != 20 {
		t.Errorf("history shows %d entries", n)
	}
	if head := bo.List()[0].Head; head != 20 {
		t.Errorf("the list says %d are there", head)
	}
	mustFail(t, ana.Ask(world.Text("bo", "full", "no room")), messages.CodeUnavailable)
	disk.free(t)
	if seq := sendUntilSent(ana, "full-2"); seq != 21 {
		t.Errorf("with space, answered with %d", seq)
	}
	bo.Count(21)
	w.Judge()
}

// smallDisk is a tmpfs of its own where the test may mount one, else a
// directory whose writes fail as those on a full disk do.
type smallDisk struct {
	vfs.FS
	dir   string
	tmpfs bool
	full  atomic.Bool
}

func newSmallDisk(t *testing.T) *smallDisk {
	d := &smallDisk{FS: vfs.Default, dir: t.TempDir()}
	d.tmpfs = syscall.Mount("tmpfs", d.dir, "tmpfs", 0, "size=64m") == nil
	if d.tmpfs {
		t.Cleanup(func() { _ = syscall.Unmount(d.dir, syscall.MNT_DETACH) })
	}
	t.Logf("a real small disk: %v", d.tmpfs)
	return d
}

func (d *smallDisk) ballast() string { return filepath.Join(d.dir, "ballast") }

func (d *smallDisk) fill(t *testing.T) {
	d.full.Store(!d.tmpfs)
	if !d.tmpfs {
		return
	}
	f, err := os.Create(d.ballast())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

func (d *smallDisk) free(t *testing.T) {
	d.full.Store(false)
	if d.tmpfs {
		if err := os.Remove(d.ballast()); err != nil {
			t.Fatal(err)
		}
	}
}

// GetDiskUsage implements vfs.FS.
func (d *smallDisk) GetDiskUsage(path string) (vfs.DiskUsage, error) {
	usage, err := d.FS.GetDiskUsage(path)
	if d.full.Load() {
		usage.AvailBytes = 0
	}
	return usage, err
}

// Create implements vfs.FS.
func (d *smallDisk) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return d.open(d.FS.Create(name, category))
}

// ReuseForWrite implements vfs.FS.
func (d *smallDisk) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return d.open(d.FS.ReuseForWrite(oldname, newname, category))
}

func (d *smallDisk) open(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &smallFile{f, d}, nil
}

type smallFile struct {
	vfs.File
	disk *smallDisk
}

func (f *smallFile) Write(p []byte) (int, error) {
	if f.disk.full.Load() {
		return 0, syscall.ENOSPC
	}
	return f.File.Write(p)
}

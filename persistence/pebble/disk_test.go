package pebble

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// logged tells when a line begins with a text.
type logged struct {
	slog.Handler
	begins string
	seen   func()
}

func (l *logged) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, l.begins) {
		l.seen()
	}
	return nil
}

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }
func (l *logged) WithAttrs([]slog.Attr) slog.Handler       { return l }

// fill takes all space of dir but some bytes, and returns how to give it back.
func fill(t *testing.T, dir string, but int64) (empty func()) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var space syscall.Statfs_t
	if err := syscall.Statfs(dir, &space); err != nil {
		t.Fatal(err)
	}
	size := int64(space.Bavail)*space.Bsize - but
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(f.Name()); err != nil {
			t.Fatal(err)
		}
	}
}

// filler appends to one conversation and knows what was acknowledged.
type filler struct {
	t     *testing.T
	s     *Store
	last  messages.Seq
	stuck messages.Seq // how many appends have no answer yet: they may be read
}

func (f *filler) batch() *persistence.Batch {
	return batchOf(held, f.last+1, strings.Repeat(fmt.Sprint(f.last), 4096))
}

// untilRefused appends until that is not acknowledged, and returns why.
func (f *filler) untilRefused() error {
	f.t.Helper()
	for range 100_000 {
		if err := appendNow(f.s, f.batch()); err != nil {
			return err
		}
		f.last++
	}
	f.t.Fatal("the disk has no end")
	return nil
}

// reads checks that all that was acknowledged is read.
func (f *filler) reads() {
	f.t.Helper()
	n := 0
	err := f.s.Scan(context.Background(), held, func(persistence.Row, persistence.AppendID) error {
		n++
		return nil
	})
	heads, herr := f.s.Heads(context.Background(), []messages.ConversationID{held})
	within := func(seq messages.Seq) bool { return f.last <= seq && seq <= f.last+f.stuck }
	if err := errors.Join(err, herr); err != nil || !within(messages.Seq(n)) || !within(heads[0].Seq) {
		f.t.Errorf("%d entries of %d are read, the head is %+v (%v)", n, f.last, heads, err)
	}
}

func (f *filler) appends() {
	f.t.Helper()
	if err := appendNow(f.s, f.batch()); err != nil {
		f.t.Errorf("with space again: %v", err)
		return
	}
	f.last++
}

func fullDisk(t *testing.T, o Options) (dir string, f *filler) {
	dir = tmpfs(t, "48m")
	o.Fatal = func(err error) { t.Errorf("a full disk is the end: %v", err) }
	o.Now = durableClock
	data := filepath.Join(dir, "data")
	s, err := Open(data, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		again := openDir(t, data)
		defer again.Close()
		f.s = again
		f.reads()
	})
	return dir, &filler{t: t, s: s}
}

// A disk that is nearly full refuses writes while what was acknowledged is
// written out, serves reads, and takes writes again when there is space.
func TestDiskNearlyFull(t *testing.T) {
	dir, f := fullDisk(t, Options{Logger: slog.New(slog.DiscardHandler)})
	f.appends()
	empty := fill(t, dir, 12<<20)
	for range 3 {
		if err := f.untilRefused(); !errors.Is(err, persistence.ErrUnavailable) {
			t.Errorf("a nearly full disk answers %v", err)
		}
		f.reads()
	}
	if f.last < 2 {
		t.Error("nothing fits on a disk with space")
	}
	empty()
	for range 100 {
		f.appends()
	}
	f.reads()
}

// A disk that is full to the last byte ends nothing: the write that meets it
// waits, later ones are refused, reads are served, and when there is space the
// one that waited is acknowledged.
func TestDiskFull(t *testing.T) {
	full, space := make(chan struct{}), make(chan struct{})
	var fullOnce, spaceOnce sync.Once
	handler := &logged{begins: "the disk is full", seen: func() { fullOnce.Do(func() { close(full) }) }}
	again := &logged{begins: "there is space", seen: func() { spaceOnce.Do(func() { close(space) }) }}
	dir, f := fullDisk(t, Options{ReserveBytes: 1, Logger: slog.New(slog.NewMultiHandler(handler, again))})
	f.appends()
	empty := fill(t, dir, 4<<20)

	stuck := f.untilStuck(full)
	if err := appendNow(f.s, batchOf(other, 1, "x")); !errors.Is(err, persistence.ErrUnavailable) {
		t.Errorf("a full disk answers %v", err)
	}
	f.reads()
	empty()
	if stuck != nil {
		switch err := <-stuck; {
		case err == nil:
			f.last++
		case !errors.Is(err, persistence.ErrUnavailable): // refused: another write has waited
			t.Errorf("the write that waited: %v", err)
		}
		f.stuck = 0
	}
	<-space
	for range 100 {
		f.appends()
	}
	f.reads()
}

// untilStuck appends until the disk is full, and returns where the answer of
// the append that met it will be; nil where a write of the store's own met it
// first, and the append was refused.
func (f *filler) untilStuck(full <-chan struct{}) <-chan error {
	for {
		answer := appending(f.s, f.batch())
		select {
		case err := <-answer:
			if errors.Is(err, persistence.ErrUnavailable) {
				<-full
				return nil
			}
			if err != nil {
				f.t.Fatal(err)
			}
			f.last++
		case <-full:
			f.stuck = 1 // or another write is, and this one is about to be answered
			return answer
		}
	}
}

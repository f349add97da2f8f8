package pebble

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// refused checks that dir is not opened, for the reason want, said in one line
// that names dir.
func refused(t *testing.T, dir string, want error) {
	t.Helper()
	s, err := Open(dir, small(nil, nil))
	if err == nil {
		s.Close()
		t.Fatal("it is opened")
	}
	problem, ok := errors.AsType[*OpenError](err)
	if !ok || !errors.Is(err, want) {
		t.Fatalf("refused by %v, not %v", err, want)
	}
	if text := err.Error(); strings.Contains(text, "\n") || !strings.Contains(text, problem.Dir) || problem.Dir != dir {
		t.Errorf("the message is %q", text)
	}
}

func openDir(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir, small(nil, durableClock))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestOpenTwice(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir)
	refused(t, dir, ErrLocked)
	if err := appendNow(s, batchOf(held, 1, "x")); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	openDir(t, dir)
}

// holdDir is set where the test binary runs as the other process that has a
// directory open.
const holdDir = "TROUPE_TEST_HOLD_DIR"

func TestMain(m *testing.M) {
	dir := os.Getenv(holdDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	if _, err := Open(dir, Options{Logger: slog.New(slog.DiscardHandler)}); err != nil {
		os.Stdout.WriteString(err.Error())
		os.Exit(1)
	}
	os.Stdout.WriteString("open\n")
	io.Copy(io.Discard, os.Stdin) // until the test lets go
}

func TestOpenByTwoProcesses(t *testing.T) {
	dir := t.TempDir()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	other := exec.Command(program)
	other.Env = append(os.Environ(), holdDir+"="+dir)
	in, err1 := other.StdinPipe()
	out, err2 := other.StdoutPipe()
	if err := errors.Join(err1, err2, other.Start()); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 5)
	if _, err := io.ReadFull(out, said); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, ErrLocked)
	in.Close()
	other.Wait()
	openDir(t, dir)
}

func TestOpenUnwritable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, filepath.Join(file, "data"), ErrUnwritable)
	refused(t, file, ErrUnwritable)

	readOnly := tmpfs(t, "16m")
	openDir(t, readOnly).Close()
	if err := syscall.Mount("", readOnly, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	refused(t, readOnly, ErrUnwritable)
}

// tmpfs mounts a file system of a size, which only root may.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.Mkdir(dir, 0o700), syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size)); err != nil {
		t.Fatalf("this test mounts a small file system, and needs to be root for it: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestOpenNewer(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir)
	err := errors.Join(appendNow(s, batchOf(held, 1, "x")), s.db.Set(table(tableFormat), pack(formatVersion+1), pebble.Sync), s.Close())
	if err != nil {
		t.Fatal(err)
	}
	refused(t, dir, ErrNewer)
	refused(t, dir, ErrNewer) // it is left as it is

	dir = t.TempDir()
	openDir(t, dir).Close()
	markers, err := filepath.Glob(filepath.Join(dir, "marker.format-version.*"))
	if err != nil || len(markers) != 1 {
		t.Fatalf("markers %v (%v)", markers, err)
	}
	newer := markers[0][:strings.LastIndex(markers[0], ".")] + ".999"
	if err := os.Rename(markers[0], newer); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, ErrNewer)
}

func TestOpenDamaged(t *testing.T) {
	for _, kind := range []string{"MANIFEST-*", "*.sst", "*.log"} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			s := openDir(t, dir)
			for seq := range messages.Seq(300) {
				if err := appendNow(s, batchOf(held, seq+1, strings.Repeat("x", 300))); err != nil {
					t.Fatal(err)
				}
			}
			if kind == "*.sst" {
				if err := s.db.Flush(); err != nil {
					t.Fatal(err)
				}
			}
			left := filepath.Join(t.TempDir(), "left") // as a crash leaves it
			if err := s.db.Checkpoint(left); err != nil {
				t.Fatal(err)
			}
			damaged := damage(t, filepath.Join(left, kind))
			before := contents(t, damaged)
			s, err := Open(left, small(nil, nil))
			if err == nil {
				// Pebble looks at a part of a table only when it is read.
				_, err = s.Read(t.Context(), held, persistence.Range{})
				s.Close()
			}
			if after := contents(t, damaged); !bytes.Equal(before, after) {
				t.Error("what is damaged was changed")
			}
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("damage answers %v", err)
			}
		})
	}
}

// damage changes bytes within the file that pattern names, and
// returns its name.
func damage(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v (%v)", pattern, files, err)
	}
	name := files[len(files)-1]
	data := contents(t, name)
	for i := range 8 {
		data[len(data)/5+i] ^= 0xff
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func contents(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A record that is none is said to be damaged, wherever it is met, and what is
// sound is served.
func TestDamagedRecord(t *testing.T) {
	s := openWith(t, small(vfs.NewMem(), durableClock))
	if err := errors.Join(
		appendNow(s, batchOf(held, 1, "one", "two", "three")),
		appendNow(s, batchOf(other, 1, "one")),
		s.db.Set(logKey(held, 2), []byte{0xff, 0xff}, pebble.Sync),
		s.db.Set(memberKey(held, "bo"), []byte{1}, pebble.Sync),
	); err != nil {
		t.Fatal(err)
	}
	_, read := s.Read(t.Context(), held, persistence.Range{})
	_, target := s.Know(t.Context(), held, persistence.Query{Targets: []messages.Seq{2}})
	_, cursor := s.MemberCursors(t.Context(), held, []messages.UserID{"bo"})
	for what, err := range map[string]error{"read": read, "target": target, "cursor": cursor} {
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if rows, err := s.Read(t.Context(), held, persistence.Range{After: 2}); err != nil || len(rows) != 1 {
		t.Errorf("the entry after it: %d rows (%v)", len(rows), err)
	}
	report, err := s.Verify(t.Context())
	if err != nil || len(report.Findings) != 1 || report.Findings[0].Seq != 2 || report.Conversations != 2 {
		t.Errorf("verify: %+v (%v)", report, err)
	}
}

// An id that was used under a clock some hours ahead is known when the clock
// was set right, also where a period began in between.
func TestIDUsedUnderAClockAhead(t *testing.T) {
	now := time.UnixMilli(int64(periodOf(at, dedupPeriod)+1) * dedupPeriod.Milliseconds()).Add(-time.Hour)
	s := openWith(t, small(vfs.NewMem(), func() time.Time { return now }))
	b := batchOf(held, 1, "x")
	b.Dedup[0].At = now.Add(20 * time.Hour).UnixMilli()
	if err := appendNow(s, b); err != nil {
		t.Fatal(err)
	}
	q := persistence.Query{IDs: []persistence.AuthorID{{Author: "ana", ClientID: "id1"}}}
	a, err := s.Know(t.Context(), held, q)
	if err != nil || a.IDs[0].Seq != 1 {
		t.Errorf("the id is at %d (%v)", a.IDs[0].Seq, err)
	}
}

// What is expired is gone from the disk, and not only passed over.
func TestExpireDeletes(t *testing.T) {
	now := durableClock()
	s := openWith(t, small(vfs.NewMem(), func() time.Time { return now }))
	saved := make(chan error, 1)
	s.SaveMembers(held, []persistence.MemberCursor{{User: "bo", Read: 1}}, at, func(err error) { saved <- err })
	b := batchOf(held, 1, "x")
	b.Marks = []persistence.Mark{{User: "bo", Day: at / day.Milliseconds(), Conversation: held}}
	if err := errors.Join(appendNow(s, b), s.Revoke(t.Context(), "token", at+1), <-saved); err != nil {
		t.Fatal(err)
	}
	expiring := []byte{tableDedup, tableMove, tableMark, tableRevoked}
	for _, days := range []int{0, 7, 29, 80} {
		now = durableClock().Add(time.Duration(days) * day)
		if err := s.Expire(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		for _, of := range expiring {
			kept := map[byte]int{tableDedup: 7, tableMove: 29, tableMark: 29}[of] >= days
			n := count(t, s, of)
			if kept && n == 0 || days == 80 && n != 0 {
				t.Errorf("after %d days table %c has %d keys", days, of, n)
			}
		}
	}
	if n := count(t, s, tableLog); n != 1 {
		t.Errorf("%d entries are left", n)
	}
}

func count(t *testing.T, s *Store, of byte) (n int) {
	t.Helper()
	if err := s.scan(t.Context(), table(of), func(*view, []byte, []byte) error {
		n++
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// A message to many members is one durable write; a group of them one commit.
func TestStats(t *testing.T) {
	s := openWith(t, small(vfs.NewMem(), durableClock))
	b := batchOf(held, 1, "one", "two")
	for range 3 {
		if err := appendNow(s, b); err != nil {
			t.Fatal(err)
		}
	}
	rival := batchOf(held, 1, "rival")
	rival.ID[0] = 9
	if err := appendNow(s, rival); !errors.Is(err, persistence.ErrConflict) {
		t.Fatal(err)
	}
	got := s.Stats()
	got.Bytes = 0
	if want := (Stats{Appends: 1, Rows: 2, Conflicts: 1, Repeated: 2, Writes: 1, Commits: 1}); got != want {
		t.Errorf("stats are %+v, not %+v", got, want)
	}
}

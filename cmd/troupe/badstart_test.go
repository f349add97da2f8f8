package main

import (
	"crypto/sha256"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cockroach "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// serveOn tries to serve a store on free ports, with further flags.
func serveOn(t *testing.T, dir string, flags ...string) result {
	t.Helper()
	return troupe(t, "", append([]string{
		"serve", "--data", filepath.Join(t.TempDir(), "data"), "--store", "pebble:" + dir,
		"--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--actors", "127.0.0.1:0",
	}, flags...)...)
}

// refused checks that a start ended with exit code 2 and one line that holds
// words.
func refused(t *testing.T, r result, words ...string) {
	t.Helper()
	if r.code != 2 || strings.Count(r.err, "\n") != 1 {
		t.Errorf("exit code %d, and it said:\n%s", r.code, r.err)
	}
	for _, word := range words {
		if !strings.Contains(r.err, word) {
			t.Errorf("it does not say %q: %s", word, r.err)
		}
	}
}

// sums returns the checksum of every file below dir.
func sums(t *testing.T, dir string) map[string][sha256.Size]byte {
	t.Helper()
	all := make(map[string][sha256.Size]byte)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all[path] = sha256.Sum256(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// untouched runs f and checks that nothing below dir has changed.
func untouched(t *testing.T, dir string, f func()) {
	t.Helper()
	before := sums(t, dir)
	f()
	if after := sums(t, dir); !maps.Equal(before, after) {
		t.Errorf("the data was changed: %d files, then %d", len(before), len(after))
		for name, sum := range after {
			if before[name] != sum {
				t.Errorf("%s is new or another", name)
			}
		}
	}
}

func TestStartWithAnAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken, dir := l.Addr().String(), stored(t, 1)
	untouched(t, dir, func() {
		for _, flag := range []string{"--listen", "--admin", "--actors"} {
			refused(t, serveOn(t, dir, flag, taken), taken, "in use", flag)
		}
	})
}

func TestStartWithAFlagThatIsWrong(t *testing.T) {
	dir := stored(t, 1)
	untouched(t, dir, func() {
		refused(t, serveOn(t, dir, "--nothing"), "--nothing")
		refused(t, serveOn(t, dir, "--grace", "soon"), "grace")
		refused(t, serveOn(t, dir, "--admin", "0.0.0.0:0"), "--admin-token-file")
	})
}

func TestStartInADirectoryThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	untouched(t, file, func() {
		refused(t, serveOn(t, file), file, "can't be written")
		refused(t, serveOn(t, filepath.Join(file, "store")), file, "can't be written")
	})
}

func TestStartOfALockedStore(t *testing.T) {
	dir := stored(t, 1)
	lock, err := cockroach.LockDirectory(dir, vfs.Default) // as a running node does
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	untouched(t, dir, func() { refused(t, serveOn(t, dir), dir, "another process") })
}

func TestStartOfANewerStore(t *testing.T) {
	dir := stored(t, 1)
	raise(t, dir)
	untouched(t, dir, func() { refused(t, serveOn(t, dir), dir, "newer version") })
}

// raise makes the store's own format a newer one: that of the key that the
// format table holds.
func raise(t *testing.T, dir string) {
	t.Helper()
	db, err := cockroach.Open(dir, &cockroach.Options{FormatMajorVersion: cockroach.FormatNewest, Logger: silent{}})
	if err != nil {
		t.Fatal(err)
	}
	it, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	if !it.First() || len(it.Key()) != 1 || len(it.Value()) != 8 {
		t.Fatalf("the first key is %x", it.Key())
	}
	key, value := append([]byte(nil), it.Key()...), append([]byte(nil), it.Value()...)
	value[7]++
	for _, f := range []func() error{
		it.Close, func() error { return db.Set(key, value, cockroach.Sync) }, db.Close,
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
}

// silent drops what Pebble says.
type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(string, ...any) {}

func TestStartOfADamagedStore(t *testing.T) {
	for _, kind := range []string{"MANIFEST-*", "*.log", "*.sst"} {
		t.Run(kind, func(t *testing.T) {
			dir := crashedStore(t, kind == "*.sst")
			damage(t, filepath.Join(dir, kind))
			untouched(t, dir, func() { refused(t, serveOn(t, dir), dir, "damaged", "restore a backup") })
		})
	}
}

// crashedStore is a store as a crash leaves it: with a log that was not
// written out, or, flushed, with a table.
func crashedStore(t *testing.T, flushed bool) string {
	t.Helper()
	at := make([]int64, 400)
	for i := range at {
		at[i] = int64(i)
	}
	dir := stored(t, at...)
	db, err := cockroach.Open(dir, &cockroach.Options{FormatMajorVersion: cockroach.FormatNewest, Logger: silent{}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for i := range 100 {
		if err := db.Set([]byte{0xff, byte(i)}, make([]byte, 1000), cockroach.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if flushed {
		if err := db.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	left := filepath.Join(t.TempDir(), "store")
	if err := db.Checkpoint(left); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(left, "LOCK"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return left
}

// damage changes bytes within the largest file that pattern names.
func damage(t *testing.T, pattern string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	var name string
	var data []byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > len(data) {
			name, data = f, b
		}
	}
	for i := range 8 {
		data[len(data)/3+i] ^= 0xff
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
	"github.com/troupe-chat/troupe/persistence/pebble"
)

// stored makes a store of one conversation with one entry for each time.
func stored(t *testing.T, at ...int64) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	s, err := pebble.Open(dir, pebble.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := messages.Direct("ana", "bo")
	b := &persistence.Batch{Conversation: c, ID: persistence.AppendID{1}}
	for i, ms := range at {
		seq := uint64(i + 1)
		entry, err := proto.Marshal(&messages.Entry{Conversation: string(c), Seq: seq, From: "ana", At: ms,
			Kind: &messages.Entry_Text{Text: &messages.Text{Body: "x"}}})
		if err != nil {
			t.Fatal(err)
		}
		b.Rows = append(b.Rows, persistence.Row{Seq: messages.Seq(seq), At: ms, Entry: entry, Countable: seq})
	}
	done := make(chan error, 1)
	s.Append(b, func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestVerifyOfAGoodStore(t *testing.T) {
	dir := stored(t, 1, 2, 2)
	r := troupe(t, "", "verify", "--store", "pebble:"+dir)
	if r.code != 0 || !strings.Contains(r.out, "\n3 entries") || !strings.Contains(r.out, "\n0 findings") {
		t.Fatalf("got %+v", r)
	}
	var report map[string]any
	r = troupe(t, "", "verify", "--store", "pebble:"+dir, "--json")
	if err := json.Unmarshal([]byte(r.out), &report); err != nil || report["entries"] != 3.0 || report["conversations"] != 1.0 {
		t.Fatalf("got %v, %v", report, err)
	}
}

func TestVerifyFindsTimeGoingBack(t *testing.T) {
	r := troupe(t, "", "verify", "--store", "pebble:"+stored(t, 5, 4))
	if r.code != 1 || !strings.Contains(r.out, "d:ana~bo entry 2") || !strings.Contains(r.err, "findings") {
		t.Fatalf("got %+v", r)
	}
}

func TestVerifyMakesNoStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	if r := troupe(t, "", "verify", "--store", "pebble:"+dir); r.code != 2 || !strings.Contains(r.err, "no store") {
		t.Fatalf("got %+v", r)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Fatal("it was made")
	}
	empty := t.TempDir()
	if r := troupe(t, "", "verify", "--store", "pebble:"+empty); r.code != 2 || !strings.Contains(r.err, "no store") {
		t.Fatalf("got %+v", r)
	}
	if files, err := os.ReadDir(empty); err != nil || len(files) != 0 {
		t.Fatalf("it was made: %v, %v", files, err)
	}
}

func TestVerifyOfAStoreInUse(t *testing.T) {
	dir := stored(t, 1)
	s, err := pebble.Open(dir, pebble.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if r := troupe(t, "", "verify", "--store", "pebble:"+dir); r.code != 2 || strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, "another process") {
		t.Fatalf("got %+v", r)
	}
}

package client_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/gateway/client"
	"github.com/troupe-chat/troupe/messages"
)

func openStore(t *testing.T, path string) *client.FileStore {
	t.Helper()
	s, err := client.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func saved(t *testing.T, s client.Store) client.Saved {
	t.Helper()
	v, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestStoresKeepWhatTheyAreGiven(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	stores := map[string]client.Store{"memory": client.NewMemory(), "file": openStore(t, path)}
	for name, s := range stores {
		t.Run(name, func(t *testing.T) {
			text := client.Text(client.ToUser("bo"), "hi")
			err := errors.Join(
				s.Put(1, text), s.Put(2, client.React(client.In("d:a~b"), 4, "x")), s.Drop(1),
				s.Move(map[messages.ConversationID]messages.Seq{"a": 1, "b": 2}),
				s.Move(map[messages.ConversationID]messages.Seq{"a": 5}),
			)
			if err != nil {
				t.Fatal(err)
			}
			got := saved(t, s)
			if len(got.Sends) != 1 || got.Sends[2].GetReaction().GetEmoji() != "x" {
				t.Errorf("sends %v", got.Sends)
			}
			if len(got.Positions) != 2 || got.Positions["a"] != 5 || got.Positions["b"] != 2 {
				t.Errorf("positions %v", got.Positions)
			}
		})
	}
}

func TestFileIsPrivateAndForOneProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := openStore(t, path)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := client.OpenFile(path); !errors.Is(err, client.ErrLocked) {
		t.Errorf("a second one: %v", err)
	}
	s.Close()
	openStore(t, path)
}

func TestTornLineIsTakenOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := openStore(t, path)
	s.Move(map[messages.ConversationID]messages.Seq{"a": 1})
	s.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(whole, []byte(`{"move":{"`+strings.Repeat("a", 500))...), 0o600); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, path)
	s.Move(map[messages.ConversationID]messages.Seq{"b": 7})
	s.Close()
	if b, err := os.ReadFile(path); err != nil || strings.Contains(string(b), "aaa") {
		t.Errorf("the torn line is still there: %q, %v", b, err)
	}
	got := saved(t, openStore(t, path))
	if got.Positions["a"] != 1 || got.Positions["b"] != 7 {
		t.Errorf("positions %v", got.Positions)
	}
}

func TestBrokenFileIsNotTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	for _, content := range []string{"not json\n", `{"put":1,"send":{"clientId":7}}` + "\n"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := client.OpenFile(path); err == nil || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestFileStaysSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := openStore(t, path)
	kept := client.Text(client.ToUser("bo"), "kept")
	if err := s.Put(1, kept); err != nil {
		t.Fatal(err)
	}
	for i := range 10_000 {
		if err := s.Move(map[messages.ConversationID]messages.Seq{"a": messages.Seq(i)}); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() > 120_000 {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
	if _, err := client.OpenFile(path); !errors.Is(err, client.ErrLocked) {
		t.Errorf("the new file is not locked: %v", err)
	}
	s.Close()
	got := saved(t, openStore(t, path))
	if got.Positions["a"] != 9999 || !proto.Equal(got.Sends[1], kept) {
		t.Errorf("saved %v", got)
	}
}

func TestClosedStoreTakesNothing(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "state"))
	s.Close()
	if err := s.Put(1, client.Text(client.ToUser("bo"), "hi")); err == nil {
		t.Error("a closed store took a send")
	}
}

func TestStoreThatCannotBeOpened(t *testing.T) {
	if _, err := client.OpenFile(filepath.Join(t.TempDir(), "no", "such", "folder")); err == nil {
		t.Error("it was opened")
	}
}

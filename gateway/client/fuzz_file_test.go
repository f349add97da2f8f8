package client

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/troupe-chat/troupe/messages"
)

// FuzzOpenFile opens a store's file as a crash or another program may have
// left it: it is read as far as it is sound, or refused, and can be opened
// again.
func FuzzOpenFile(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("{}\n"))
	f.Add([]byte(`{"positions":{"d:ana~bob":7}}` + "\n" + `{"pos`))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := OpenFile(path)
		if err != nil {
			return
		}
		if err := s.Move(map[messages.ConversationID]messages.Seq{"d:ana~bob": 9}); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := OpenFile(path)
		if err != nil {
			t.Fatalf("opened once and not again: %v", err)
		}
		defer again.Close()
		saved, err := again.Load()
		if err != nil || saved.Positions["d:ana~bob"] < 9 {
			t.Fatalf("the position is %d, error %v", saved.Positions["d:ana~bob"], err)
		}
	})
}

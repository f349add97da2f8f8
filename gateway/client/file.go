package client

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/troupe-chat/troupe/messages"
)

// ErrLocked says that another process uses the file.
var ErrLocked = errors.New("the file is in use by another client")

// compactAfter is how many changes a file gathers before it is written anew.
const compactAfter = 4096

// FileStore is a Store in one file: a journal of changes, one JSON object a
// line, written anew when it has grown. Sends are on the disk when Put returns;
// positions may be lost with the machine, which only repeats entries.
type FileStore struct {
	mu      sync.Mutex
	path    string
	file    *os.File // guarded by mu
	saved   Saved    // guarded by mu
	changes int      // guarded by mu: lines since the file was written anew
	broken  error    // guarded by mu: the file's end is unknown; nothing more is written
}

// change is one line of the file.
type change struct {
	Move map[messages.ConversationID]messages.Seq `json:"move,omitempty"`
	Put  uint64                                   `json:"put,omitempty"`
	Send json.RawMessage                          `json:"send,omitempty"`
	Drop uint64                                   `json:"drop,omitempty"`
}

// OpenFile opens the store at path, or makes it, readable by its owner only.
// One process may have it open: to another it is ErrLocked.
func OpenFile(path string) (*FileStore, error) {
	file, err := openLocked(path)
	if err != nil {
		return nil, err
	}
	s := &FileStore{path: path, file: file, saved: newSaved()}
	if err := s.replay(); err != nil {
		file.Close()
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return s, nil
}

// openLocked opens and locks path. The file may have been replaced by a newer
// one between the two.
func openLocked(path string) (*os.File, error) {
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("opening the client's store: %w", err)
		}
		if err := lock(file); err != nil {
			file.Close()
			return nil, fmt.Errorf("opening %s: %w", path, err)
		}
		if current(file, path) {
			return file, nil
		}
		file.Close()
	}
}

func current(file *os.File, path string) bool {
	a, errA := file.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// replay reads the file. A last line that a crash cut short is taken off.
func (s *FileStore) replay() error {
	r := bufio.NewReader(s.file)
	var whole int64
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		var c change
		if err := json.Unmarshal(line, &c); err != nil {
			return fmt.Errorf("line %d: %w", s.changes+1, err)
		}
		if err := s.apply(c); err != nil {
			return fmt.Errorf("line %d: %w", s.changes+1, err)
		}
		s.changes++
		whole += int64(len(line))
	}
	if err := s.file.Truncate(whole); err != nil {
		return err
	}
	_, err := s.file.Seek(whole, io.SeekStart)
	return err
}

func (s *FileStore) apply(c change) error {
	for id, seq := range c.Move {
		s.saved.Positions[id] = seq
	}
	if c.Put != 0 {
		send := &messages.Send{}
		if err := lenient.Unmarshal(c.Send, send); err != nil {
			return err
		}
		s.saved.Sends[c.Put] = send
	}
	delete(s.saved.Sends, c.Drop)
	return nil
}

// Load is part of Store.
func (s *FileStore) Load() (Saved, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.saved.clone(), nil
}

// Move is part of Store.
func (s *FileStore) Move(positions map[messages.ConversationID]messages.Seq) error {
	return s.write(change{Move: positions}, false)
}

// Put is part of Store.
func (s *FileStore) Put(number uint64, send *messages.Send) error {
	b, err := protojson.Marshal(send)
	if err != nil {
		return fmt.Errorf("encoding an entry to be sent: %w", err)
	}
	return s.write(change{Put: number, Send: b}, true)
}

// Drop is part of Store.
func (s *FileStore) Drop(number uint64) error {
	return s.write(change{Drop: number}, false)
}

// Close gives the file up to other processes.
func (s *FileStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = errors.New("the client's store is closed")
	return s.file.Close()
}

func (s *FileStore) write(c change, sync bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return s.broken
	}
	if err := appendChange(s.file, c, sync); err != nil {
		s.broken = fmt.Errorf("writing %s: %w", s.path, err)
		return s.broken
	}
	if err := s.apply(c); err != nil {
		return err
	}
	if s.changes++; s.changes > compactAfter+len(s.saved.Sends) {
		s.compact()
	}
	return nil
}

func appendChange(f *os.File, c change, sync bool) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if _, err := f.Write(append(b, '\n')); err != nil {
		return err
	}
	if sync {
		return f.Sync()
	}
	return nil
}

// compact writes the file anew. Where that fails the old one goes on, and the
// next attempt is as far away as after a success.
func (s *FileStore) compact() {
	s.changes = 0
	fresh, err := os.OpenFile(s.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return
	}
	if err := s.rewrite(fresh); err != nil {
		fresh.Close()
		return
	}
	s.file.Close()
	s.file = fresh
}

// rewrite puts a file that holds all of the state in the place of the journal.
func (s *FileStore) rewrite(fresh *os.File) error {
	if err := lock(fresh); err != nil {
		return err
	}
	if err := appendChange(fresh, change{Move: s.saved.Positions}, false); err != nil {
		return err
	}
	for number, send := range s.saved.Sends {
		b, err := protojson.Marshal(send)
		if err != nil {
			return err
		}
		if err := appendChange(fresh, change{Put: number, Send: b}, false); err != nil {
			return err
		}
	}
	if err := fresh.Sync(); err != nil {
		return err
	}
	return os.Rename(fresh.Name(), s.path)
}

package pebble

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
)

// Why a store can't be opened, or a record not be read. None of them is put
// right by trying again, and none changes what is stored.
var (
	// ErrLocked: another process has the directory open.
	ErrLocked = errors.New("another process is using it; stop that one, or choose another directory")
	// ErrUnwritable: the directory can't be made or written.
	ErrUnwritable = errors.New("it can't be written; give this user the right to, or choose another directory")
	// ErrNewer: a newer version of Troupe wrote it.
	ErrNewer = errors.New("a newer version of Troupe wrote it; run that version, or choose another directory")
	// ErrCorrupt: what is stored is damaged.
	ErrCorrupt = errors.New("what is stored there is damaged; nothing was changed: restore a backup")
)

// OpenError says in one line why a directory can't be opened as a store. Its
// chain holds one of the errors above where one applies.
type OpenError struct {
	Dir string
	Err error
}

func (e *OpenError) Error() string {
	return fmt.Sprintf("store %s: %s", e.Dir, strings.ReplaceAll(e.Err.Error(), "\n", " "))
}

func (e *OpenError) Unwrap() error { return e.Err }

// openProblem classifies an error of opening a directory. Pebble has no error
// values for three of them, only texts.
func openProblem(err error) error {
	text := err.Error()
	switch {
	case errors.Is(err, syscall.EAGAIN), strings.Contains(text, "lock held by current process"):
		return ErrLocked
	case strings.Contains(text, "unknown format major version"):
		return fmt.Errorf("%w (%v)", ErrNewer, err)
	case corrupt(err), strings.Contains(text, "malformed manifest"):
		return fmt.Errorf("%w (%v)", ErrCorrupt, err)
	case unwritable(err):
		return fmt.Errorf("%w (%v)", ErrUnwritable, err)
	}
	return err
}

// corrupt reports whether err is Pebble's for damaged data, which it marks in
// a way that only its own errors package sees.
func corrupt(err error) bool { return pebble.IsCorruptionError(err) }

func unwritable(err error) bool {
	for _, known := range []error{fs.ErrPermission, syscall.EROFS, syscall.ENOTDIR, syscall.ENOSPC} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

package accounts

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/troupe-chat/troupe/messages"
)

// What a password costs to hash and to try. An encoded hash carries its own
// cost, so these may change.
const (
	hashMemory  = 19 << 10 // KiB
	hashTime    = 2
	hashThreads = 1
	hashBytes   = 32
	saltBytes   = 16
)

// How many hashes run at once, and how many callers may wait for them: about
// two seconds of work. Memory stays bounded whoever asks.
const (
	hashersAtOnce  = 2
	hashersWaiting = 64
)

// MinPassword and MaxPassword bound the bytes of a password.
const (
	MinPassword = 8
	MaxPassword = 1024
)

// hasher hashes passwords, few at a time. Safe for concurrent use.
type hasher struct {
	admitted chan struct{} // held by those who work and those who wait
	working  chan struct{}
	nobody   string // the hash of a password that nobody knows
}

func newHasher() *hasher {
	h := &hasher{
		admitted: make(chan struct{}, hashersAtOnce+hashersWaiting),
		working:  make(chan struct{}, hashersAtOnce),
	}
	h.nobody = encodeHash(rand.Text())
	return h
}

// hash encodes the argon2id hash of password.
func (h *hasher) hash(ctx context.Context, password string) (encoded string, err error) {
	err = h.run(ctx, func() { encoded = encodeHash(password) })
	return encoded, err
}

// matches reports whether encoded is the hash of password. An empty encoded,
// the mark of an account that nobody may sign in to, costs the same work and
// never matches.
func (h *hasher) matches(ctx context.Context, encoded, password string) (bool, error) {
	against := encoded
	if against == "" {
		against = h.nobody
	}
	var same bool
	var bad error
	err := h.run(ctx, func() { same, bad = compare(against, password) })
	return same && encoded != "", errors.Join(err, bad)
}

// run calls work when its turn comes.
func (h *hasher) run(ctx context.Context, work func()) error {
	select {
	case h.admitted <- struct{}{}:
		defer func() { <-h.admitted }()
	default:
		return messages.Later(messages.CodeOverloaded, 2*time.Second, "too many are signing in at once; try again")
	}
	select {
	case h.working <- struct{}{}:
		defer func() { <-h.working }()
	case <-ctx.Done():
		return fmt.Errorf("waiting to hash a password: %w", ctx.Err())
	}
	work()
	return nil
}

func encodeHash(password string) string {
	return encodeWith(password, hashMemory, hashTime, hashThreads)
}

func encodeWith(password string, memory, passes uint32, threads uint8) string {
	salt := make([]byte, saltBytes)
	rand.Read(salt)
	key := argon2.IDKey([]byte(password), salt, passes, memory, threads, hashBytes)
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version,
		memory, passes, threads, b64.EncodeToString(salt), b64.EncodeToString(key))
}

var errBadHash = errors.New("a stored password hash cannot be read")

func compare(encoded, password string) (bool, error) {
	p := strings.Split(encoded, "$")
	if len(p) != 6 || p[0] != "" || p[1] != "argon2id" || p[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return false, errBadHash
	}
	var memory, passes uint32
	var threads uint8
	if n, err := fmt.Sscanf(p[3], "m=%d,t=%d,p=%d", &memory, &passes, &threads); n != 3 || err != nil {
		return false, errBadHash
	}
	salt, errSalt := base64.RawStdEncoding.DecodeString(p[4])
	want, errKey := base64.RawStdEncoding.DecodeString(p[5])
	if errSalt != nil || errKey != nil || len(want) == 0 || passes == 0 || threads == 0 || memory > 1<<20 {
		return false, errBadHash
	}
	got := argon2.IDKey([]byte(password), salt, passes, memory, threads, uint32(len(want)))
	return subtle.ConstantTimeCompare(got, want) == 1, nil
}

func validPassword(p string) error {
	if len(p) < MinPassword || len(p) > MaxPassword {
		return messages.Fail(messages.CodeInvalid, "a password has %d to %d bytes", MinPassword, MaxPassword)
	}
	return nil
}

// Package accounts is who may use a server: registration, passwords, tokens,
// and the sign-outs that take tokens back. Tokens are the server's own, signed
// with an Ed25519 key, or those of an issuer that it trusts.
package accounts

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// DefaultLifetime is how long a token of the server's own is valid.
const DefaultLifetime = 30 * 24 * time.Hour

// A device's record holds the ids of its tokens and not when they expire, so
// a revoked id is kept for longer than tokens live.
const keepRevoked = 400 * 24 * time.Hour

// Store is what accounts need of the database; persistence.Store has it.
type Store interface {
	persistence.Accounts
	ForgetDevice(d persistence.DeviceKey, done persistence.Done)
}

// Config says how a Service works. Store, Limiter and one of TokenKey and
// Issuer are needed.
type Config struct {
	Store   Store
	Limiter persistence.Limiter

	TokenKey string        // PEM file of Ed25519 private keys: the first signs, all verify
	MakeKey  bool          // make that file where there is none
	Lifetime time.Duration // of a token; 0: DefaultLifetime
	Issuer   *Issuer       // trusted instead of local passwords and tokens; nil: none

	Registration bool // whether anyone may register
	LimitsOff    bool // lifts the rate limits
	TrustProxy   bool // take a client's address from X-Forwarded-For

	// SignOut closes the connections of a device, or of all devices where
	// device is empty. It must not block. Nil: there are no connections.
	SignOut func(user messages.UserID, device messages.DeviceID, reason string)
	// Deleted begins to retract the entries of a deleted user. It must not
	// block, and ctx outlives the request that deleted the account.
	Deleted func(ctx context.Context, user messages.UserID)

	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: slog.Default
}

// Identity is who a token speaks for.
type Identity struct {
	User    messages.UserID
	TokenID string // as in persistence.Device.Tokens; at most 64 characters
	Expires time.Time
}

// Service answers for accounts. Safe for concurrent use.
type Service struct {
	Config
	passwords *hasher
	tokens    verifier
	signer    *signer // nil with an issuer
	stop      context.CancelFunc
}

// verifier tells what a token says once its signature, its times and whom it
// is for are found right.
type verifier interface {
	verify(token string) (claims, error)
	// current reports whether a token is younger than the account's last
	// sign-out of everything.
	current(c claims, a persistence.Account) bool
}

// New returns a Service. With an issuer whose keys are at a URL it fetches
// them first, and keeps them fresh until Close.
func New(cfg Config) (*Service, error) {
	if cfg.Store == nil || cfg.Limiter == nil {
		return nil, errors.New("accounts need a store and a limiter")
	}
	s := &Service{Config: withDefaults(cfg), passwords: newHasher()}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	if err := s.openTokens(ctx); err != nil {
		stop()
		return nil, err
	}
	return s, nil
}

func withDefaults(cfg Config) Config {
	if cfg.Lifetime == 0 {
		cfg.Lifetime = DefaultLifetime
	}
	if cfg.SignOut == nil {
		cfg.SignOut = func(messages.UserID, messages.DeviceID, string) {}
	}
	if cfg.Deleted == nil {
		cfg.Deleted = func(context.Context, messages.UserID) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return cfg
}

func (s *Service) openTokens(ctx context.Context) (err error) {
	if s.Issuer != nil {
		s.tokens, err = newIssuer(ctx, *s.Issuer, s.Now, s.Logger)
		return err
	}
	keys, err := loadKeys(s.TokenKey, s.MakeKey)
	if err != nil {
		return err
	}
	s.signer = newSigner(keys, s.Lifetime, s.Now)
	s.tokens = s.signer
	return nil
}

// Close stops refreshing the issuer's keys.
func (s *Service) Close() { s.stop() }

// Verify returns whom token speaks for. Its errors are Failures:
// unauthenticated where the token counts no more, unavailable where that
// cannot be found out now.
func (s *Service) Verify(ctx context.Context, token string) (Identity, error) {
	c, err := s.tokens.verify(token)
	if err != nil {
		return Identity{}, err
	}
	revoked, err := s.Store.Revoked(ctx, c.ID)
	if err != nil {
		return Identity{}, failure("looking up a token", err)
	}
	a, err := s.account(ctx, c.user())
	if err != nil {
		return Identity{}, err
	}
	if revoked || !usable(a) || !s.tokens.current(c, a) {
		return Identity{}, messages.Fail(messages.CodeUnauthenticated, "this token was taken back; sign in again")
	}
	return Identity{User: a.User, TokenID: c.ID, Expires: c.ExpiresAt.Time}, nil
}

// account returns the account that a valid token names. A user of an issuer
// exists from its first token on.
func (s *Service) account(ctx context.Context, u messages.UserID) (persistence.Account, error) {
	a, err := s.Store.Account(ctx, u)
	if errors.Is(err, persistence.ErrNotFound) && s.Issuer != nil {
		a, err = s.ensure(ctx, u)
	}
	if errors.Is(err, persistence.ErrNotFound) {
		return a, messages.Fail(messages.CodeUnauthenticated, "this token's user has no account here; sign in again")
	}
	if err != nil {
		return a, failure("looking up an account", err)
	}
	return a, nil
}

func (s *Service) ensure(ctx context.Context, u messages.UserID) (persistence.Account, error) {
	err := s.Store.CreateAccount(ctx, persistence.Account{User: u, Created: s.Now().UnixMilli()})
	if err != nil && !errors.Is(err, persistence.ErrExists) {
		return persistence.Account{}, err
	}
	return s.Store.Account(ctx, u)
}

// Token is a token and when it expires.
type Token struct {
	Token   string
	Expires time.Time
}

// Issue signs a token for u. There is none to sign with where an issuer is
// trusted, and none for a user that is unknown, disabled or deleted.
func (s *Service) Issue(ctx context.Context, u messages.UserID) (Token, error) {
	if err := s.needLocal(); err != nil {
		return Token{}, err
	}
	a, err := s.Store.Account(ctx, u)
	if err != nil {
		return Token{}, failure("looking up an account", err)
	}
	if !usable(a) {
		return Token{}, messages.Fail(messages.CodeForbidden, "the account %s is closed", u)
	}
	return s.signer.issue(a)
}

func (s *Service) needLocal() error {
	if s.Issuer == nil {
		return nil
	}
	return messages.Fail(messages.CodeForbidden, "this server takes its users from another issuer; sign in there")
}

func usable(a persistence.Account) bool { return !a.Disabled && !a.Deleted }

// failure turns an error of the store into what a client is told. Other
// errors stay as they are: internal.
func failure(doing string, err error) error {
	switch {
	case errors.Is(err, persistence.ErrNotFound):
		return messages.Fail(messages.CodeNotFound, "there is no such user")
	case errors.Is(err, persistence.ErrUnavailable), errors.Is(err, persistence.ErrUnknown):
		return messages.Later(messages.CodeUnavailable, time.Second, "the store cannot answer now; try again")
	}
	return fmt.Errorf("%s: %w", doing, err)
}

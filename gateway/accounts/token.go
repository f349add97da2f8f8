package accounts

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// A longer token is refused unread.
const maxToken = 8 << 10

// claims is what a token says. ID is set on every verified one.
type claims struct {
	jwt.RegisteredClaims
	Generation uint64 `json:"gen"`
}

func (c claims) user() messages.UserID { return messages.UserID(c.Subject) }

// signer signs and verifies the server's own tokens. Immutable.
type signer struct {
	keys     map[string]ed25519.PublicKey // by key id
	sign     ed25519.PrivateKey
	signID   string
	lifetime time.Duration
	now      func() time.Time
	parser   *jwt.Parser
}

func newSigner(keys []ed25519.PrivateKey, lifetime time.Duration, now func() time.Time) *signer {
	s := &signer{
		keys:     make(map[string]ed25519.PublicKey),
		sign:     keys[0],
		signID:   keyID(keys[0]),
		lifetime: lifetime,
		now:      now,
		parser: jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
			jwt.WithTimeFunc(now), jwt.WithExpirationRequired(), jwt.WithStrictDecoding()),
	}
	for _, k := range keys {
		s.keys[keyID(k)] = k.Public().(ed25519.PublicKey)
	}
	return s
}

// keyID names a key in a token's header, so that several verify at once while
// one is replaced by another.
func keyID(k ed25519.PrivateKey) string {
	sum := sha256.Sum256(k.Public().(ed25519.PublicKey))
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}

func (s *signer) issue(a persistence.Account) (Token, error) {
	now := s.now()
	expires := now.Add(s.lifetime).Truncate(time.Second) // a JWT counts seconds
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Subject:   string(a.User),
			ID:        rand.Text(),
			IssuedAt:  jwt.NewNumericDate(now),
			ExpiresAt: jwt.NewNumericDate(expires),
		},
		Generation: a.Generation,
	})
	t.Header["kid"] = s.signID
	signed, err := t.SignedString(s.sign)
	if err != nil {
		return Token{}, fmt.Errorf("signing a token: %w", err)
	}
	return Token{signed, expires}, nil
}

func (s *signer) verify(token string) (claims, error) {
	c, err := parse(s.parser, token, func(t *jwt.Token) (any, error) {
		id, _ := t.Header["kid"].(string)
		if key, ok := s.keys[id]; ok {
			return key, nil
		}
		return nil, errors.New("the key is not known")
	})
	if err == nil && c.ID == "" {
		err = badToken
	}
	return c, err
}

func (s *signer) current(c claims, a persistence.Account) bool { return c.Generation == a.Generation }

var badToken = messages.Fail(messages.CodeUnauthenticated, "this is not a token of this server; sign in again")

// parse returns the claims of a token that p and key find right. Which of its
// parts is wrong is told only where the client can do something about it.
func parse(p *jwt.Parser, token string, key jwt.Keyfunc) (claims, error) {
	var c claims
	if len(token) > maxToken {
		return c, badToken
	}
	_, err := p.ParseWithClaims(token, &c, key)
	if errors.Is(err, jwt.ErrTokenExpired) {
		return c, messages.Fail(messages.CodeUnauthenticated, "the token has expired; get a new one")
	}
	if err != nil || !c.user().Valid() {
		return c, badToken
	}
	return c, nil
}

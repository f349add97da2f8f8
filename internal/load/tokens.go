//go:build linux

package load

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Tokens returns a token for a user, who exists once it has said hello with
// it. It is called by many goroutines at once.
type Tokens func(ctx context.Context, user string) (string, error)

// NameTokens is for a server that takes any token as the user's name.
func NameTokens(_ context.Context, user string) (string, error) { return user, nil }

// Accounts registers users over HTTP, or signs in those that exist, and keeps
// their tokens: passwords are slow to check, by design. Safe for concurrent
// use.
type Accounts struct {
	server   string // http://host:port
	password string
	http     *http.Client

	mu     sync.Mutex
	tokens map[string]string // by user; guarded by mu
}

// NewAccounts uses the server at an HTTP address. All its users get the same
// password.
func NewAccounts(server, password string) *Accounts {
	return &Accounts{server: server, password: password, http: &http.Client{}, tokens: make(map[string]string)}
}

// Token is a Tokens.
func (a *Accounts) Token(ctx context.Context, user string) (string, error) {
	a.mu.Lock()
	token := a.tokens[user]
	a.mu.Unlock()
	if token != "" {
		return token, nil
	}
	token, err := a.enter(ctx, user)
	if err != nil {
		return "", err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tokens[user] = token
	return token, nil
}

func (a *Accounts) enter(ctx context.Context, user string) (string, error) {
	token, status, err := a.post(ctx, "/v1/users", user)
	if status == http.StatusConflict {
		token, status, err = a.post(ctx, "/v1/tokens", user)
	}
	switch {
	case err != nil:
		return "", err
	case status/100 != 2:
		return "", fmt.Errorf("register or sign in %s: HTTP %d", user, status)
	}
	return token, nil
}

func (a *Accounts) post(ctx context.Context, path, user string) (string, int, error) {
	body, err := json.Marshal(map[string]string{"user": user, "password": a.password})
	if err != nil {
		return "", 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.server+path, bytes.NewReader(body))
	if err != nil {
		return "", 0, fmt.Errorf("post to %s: %w", path, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.http.Do(req)
	if err != nil {
		return "", 0, fmt.Errorf("post to %s: %w", path, err)
	}
	defer resp.Body.Close()
	var answer struct {
		Token string `json:"token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return "", resp.StatusCode, fmt.Errorf("read the answer of %s (HTTP %d): %w", path, resp.StatusCode, err)
	}
	return answer.Token, resp.StatusCode, nil
}

// Issuer signs tokens that a server trusts which was started with its name,
// audience and key set: users without passwords, at the cost of a signature
// each. Safe for concurrent use.
type Issuer struct {
	Name, Audience string

	key ed25519.PrivateKey
}

// issuerKey names the one key of an Issuer.
const issuerKey = "load"

// NewIssuer makes an issuer with a new key.
func NewIssuer(name, audience string) (*Issuer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a signing key: %w", err)
	}
	return &Issuer{Name: name, Audience: audience, key: key}, nil
}

// Token is a Tokens.
func (i *Issuer) Token(_ context.Context, user string) (string, error) {
	now := time.Now()
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.RegisteredClaims{
		Issuer:    i.Name,
		Subject:   user,
		Audience:  jwt.ClaimStrings{i.Audience},
		IssuedAt:  jwt.NewNumericDate(now),
		ExpiresAt: jwt.NewNumericDate(now.Add(24 * time.Hour)),
		ID:        rand.Text(),
	})
	t.Header["kid"] = issuerKey
	signed, err := t.SignedString(i.key)
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return signed, nil
}

// JWKS returns the key set that the server must be given.
func (i *Issuer) JWKS() []byte {
	pub := i.key.Public().(ed25519.PublicKey)
	return fmt.Appendf(nil, `{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","use":"sig","kid":%q,"x":%q}]}`,
		issuerKey, base64.RawURLEncoding.EncodeToString(pub))
}

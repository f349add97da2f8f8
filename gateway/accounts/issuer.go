package accounts

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"

	"github.com/troupe-chat/troupe/persistence"
)

// Issuer is who else's tokens are trusted. All fields are needed.
type Issuer struct {
	Issuer   string // the tokens' iss
	JWKS     string // where its keys are: an http(s) URL, or a file that is read at start
	Audience string // one of the tokens' aud
}

// How the issuer's keys are kept fresh. A token with an unknown key has them
// fetched again, but not more often than unknownEvery, whoever sends such
// tokens; nobody waits for that longer than fetchWithin.
const (
	refreshEvery = 15 * time.Minute
	unknownEvery = 30 * time.Second
	fetchWithin  = 5 * time.Second
)

// A key set may hold keys of any kind: a token counts only with one of these,
// none of them symmetric.
var issuerAlgs = []string{"RS256", "ES256", "EdDSA"}

// issuer verifies the tokens of an Issuer. Safe for concurrent use.
type issuer struct {
	keys   keyfunc.Keyfunc
	parser *jwt.Parser
}

func newIssuer(ctx context.Context, i Issuer, now func() time.Time, log *slog.Logger) (*issuer, error) {
	if i.Issuer == "" || i.JWKS == "" || i.Audience == "" {
		return nil, errors.New("a trusted issuer needs all of issuer, jwks and audience")
	}
	keys, err := openKeys(ctx, i.JWKS, log)
	if err != nil {
		return nil, fmt.Errorf("the issuer's keys at %s: %w", i.JWKS, briefly(err))
	}
	set, err := keys.VerificationKeySet(ctx)
	if err != nil || len(set.Keys) == 0 {
		return nil, fmt.Errorf("the issuer's keys at %s: there are none", i.JWKS)
	}
	return &issuer{keys, jwt.NewParser(jwt.WithValidMethods(issuerAlgs), jwt.WithTimeFunc(now),
		jwt.WithExpirationRequired(), jwt.WithIssuer(i.Issuer), jwt.WithAudience(i.Audience))}, nil
}

func openKeys(ctx context.Context, at string, log *slog.Logger) (keyfunc.Keyfunc, error) {
	if strings.HasPrefix(at, "http://") || strings.HasPrefix(at, "https://") {
		return fetchKeys(ctx, at, log)
	}
	data, err := os.ReadFile(at)
	if err != nil {
		return nil, err
	}
	return keyfunc.NewJWKSetJSON(data)
}

func fetchKeys(ctx context.Context, at string, log *slog.Logger) (keyfunc.Keyfunc, error) {
	must := false
	return keyfunc.NewDefaultOverrideCtx(ctx, []string{at}, keyfunc.Override{
		Client:                    &http.Client{Timeout: fetchWithin},
		HTTPTimeout:               fetchWithin,
		NoErrorReturnFirstHTTPReq: &must,
		RateLimitWaitMax:          fetchWithin,
		RefreshInterval:           refreshEvery,
		RefreshUnknownKID:         rate.NewLimiter(rate.Every(unknownEvery), 1),
		RefreshErrorHandlerFunc: func(at string) func(context.Context, error) {
			return func(_ context.Context, err error) {
				log.Warn("the issuer's keys could not be fetched; the last ones stay", "url", at, "error", briefly(err))
			}
		},
	})
}

// briefly keeps of a fetch's error what an operator can act on, in one line.
func briefly(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return errors.New(strings.ReplaceAll(err.Error(), "\n", ": "))
}

func (i *issuer) verify(token string) (claims, error) {
	c, err := parse(i.parser, token, i.keys.Keyfunc)
	if err != nil {
		return c, err
	}
	c.ID = issuedID(c.ID, token)
	return c, nil
}

// issuedID is a short id for a token whatever its issuer puts in jti. Where
// there is none it is made of what is signed: one ES256 token can carry
// several valid signatures.
func issuedID(id, token string) string {
	if id == "" {
		id = token[:strings.LastIndexByte(token, '.')]
	}
	sum := sha256.Sum256([]byte(id))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// An issuer's tokens carry no generation. But a generation that is not 0 is
// also the time of the sign-out that made it (see nextGeneration), and tokens
// say when they were issued.
func (i *issuer) current(c claims, a persistence.Account) bool {
	if a.Generation == 0 {
		return true
	}
	return c.IssuedAt != nil && c.IssuedAt.UnixMilli() >= 0 && uint64(c.IssuedAt.UnixMilli()) >= a.Generation
}

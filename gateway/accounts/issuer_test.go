package accounts

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/troupe-chat/troupe/messages"
)

func p256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func p256PEM(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(p256(t))
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// jwk writes a public key as its JWK.
func jwk(t testing.TB, kid string, key crypto.PublicKey) map[string]string {
	t.Helper()
	b64 := base64.RawURLEncoding.EncodeToString
	switch k := key.(type) {
	case ed25519.PublicKey:
		return map[string]string{"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": b64(k)}
	case *rsa.PublicKey:
		return map[string]string{"kty": "RSA", "kid": kid, "n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())}
	case *ecdsa.PublicKey:
		raw, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		half := (len(raw) - 1) / 2
		return map[string]string{"kty": "EC", "crv": "P-256", "kid": kid, "x": b64(raw[1 : 1+half]), "y": b64(raw[1+half:])}
	case []byte:
		return map[string]string{"kty": "oct", "kid": kid, "k": b64(k)}
	}
	t.Fatalf("no JWK for %T", key)
	return nil
}

// idp is somebody else's issuer.
type idp struct {
	t      testing.TB
	rsa    *rsa.PrivateKey
	ec     *ecdsa.PrivateKey
	ed     ed25519.PrivateKey
	secret []byte

	mu   sync.Mutex // guards all below
	keys []map[string]string
	down bool
}

func newIDP(t testing.TB) *idp {
	t.Helper()
	p := &idp{t: t, ec: p256(t), secret: []byte("0123456789abcdef0123456789abcdef")}
	var err error
	if p.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	if _, p.ed, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	p.keys = []map[string]string{jwk(t, "r", p.rsa.Public()), jwk(t, "e", p.ec.Public()), jwk(t, "d", p.ed.Public()), jwk(t, "o", p.secret)}
	return p
}

func (p *idp) set() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, err := json.Marshal(map[string]any{"keys": p.keys})
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

func (p *idp) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	down := p.down
	p.mu.Unlock()
	if down {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	_, _ = w.Write(p.set())
}

func (p *idp) sign(method jwt.SigningMethod, kid string, key any, c jwt.MapClaims) string {
	p.t.Helper()
	t := jwt.NewWithClaims(method, c)
	if kid != "" {
		t.Header["kid"] = kid
	}
	s, err := t.SignedString(key)
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

// trusting starts a service that trusts p, with its keys at a URL.
func trusting(t testing.TB, p *idp) *fixture {
	t.Helper()
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	return start(t, func(c *Config) { c.Issuer = &Issuer{"https://id.example", server.URL, "troupe"} })
}

func (f *fixture) issued(user string) jwt.MapClaims {
	return jwt.MapClaims{"iss": "https://id.example", "aud": "troupe", "sub": user, "jti": "j", "iat": f.clock().Unix(), "exp": f.clock().Add(time.Hour).Unix()}
}

func TestAnIssuersTokens(t *testing.T) {
	p := newIDP(t)
	f := trusting(t, p)
	with := func(k string, v any) jwt.MapClaims {
		c := f.issued("ana")
		c[k] = v
		if v == nil {
			delete(c, k)
		}
		return c
	}
	rs := func(c jwt.MapClaims) string { return p.sign(jwt.SigningMethodRS256, "r", p.rsa, c) }
	for name, c := range map[string]struct {
		token string
		want  bool
	}{
		"RS256":           {rs(f.issued("ana")), true},
		"ES256":           {p.sign(jwt.SigningMethodES256, "e", p.ec, f.issued("ana")), true},
		"EdDSA":           {p.sign(jwt.SigningMethodEdDSA, "d", p.ed, f.issued("ana")), true},
		"no kid":          {p.sign(jwt.SigningMethodES256, "", p.ec, f.issued("ana")), true},
		"many audiences":  {rs(with("aud", []string{"x", "troupe"})), true},
		"no jti":          {rs(with("jti", nil)), true},
		"RS512":           {p.sign(jwt.SigningMethodRS512, "r", p.rsa, f.issued("ana")), false},
		"PS256":           {p.sign(jwt.SigningMethodPS256, "r", p.rsa, f.issued("ana")), false},
		"HS256":           {p.sign(jwt.SigningMethodHS256, "o", p.secret, f.issued("ana")), false},
		"HS256, RSA key":  {p.sign(jwt.SigningMethodHS256, "r", x509.MarshalPKCS1PublicKey(&p.rsa.PublicKey), f.issued("ana")), false},
		"none":            {p.sign(jwt.SigningMethodNone, "r", jwt.UnsafeAllowNoneSignatureType, f.issued("ana")), false},
		"another's key":   {p.sign(jwt.SigningMethodES256, "e", p256(t), f.issued("ana")), false},
		"kid of another":  {p.sign(jwt.SigningMethodRS256, "e", p.rsa, f.issued("ana")), false},
		"wrong issuer":    {rs(with("iss", "https://evil.example")), false},
		"no issuer":       {rs(with("iss", nil)), false},
		"wrong audience":  {rs(with("aud", "other")), false},
		"no audience":     {rs(with("aud", nil)), false},
		"expired":         {rs(with("exp", f.clock().Unix())), false},
		"no exp":          {rs(with("exp", nil)), false},
		"not yet":         {rs(with("nbf", f.clock().Add(time.Hour).Unix())), false},
		"sub is no user":  {rs(with("sub", "auth0|Ana")), false},
		"sub with spaces": {rs(with("sub", "a b")), false},
	} {
		if got := f.valid(c.token); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestAnIssuersUserExistsFromItsFirstToken(t *testing.T) {
	p := newIDP(t)
	f := trusting(t, p)
	ctx := context.Background()
	who, err := f.Verify(ctx, p.sign(jwt.SigningMethodES256, "e", p.ec, f.issued("ana")))
	if err != nil || who.User != "ana" || len(who.TokenID) > 64 {
		t.Fatalf("got %+v, %v", who, err)
	}
	if a, err := f.store.Account(ctx, "ana"); err != nil || a.Created != f.clock().UnixMilli() {
		t.Fatalf("got %+v, %v", a, err)
	}
	if err := f.SetDisabled(ctx, "ana", true); err != nil || f.valid(p.sign(jwt.SigningMethodES256, "e", p.ec, f.issued("ana"))) {
		t.Fatalf("%v, a disabled user's token counts", err)
	}
}

func TestLocalAccountsAreOffWithAnIssuer(t *testing.T) {
	p := newIDP(t)
	f := trusting(t, p)
	token := p.sign(jwt.SigningMethodES256, "e", p.ec, f.issued("ana"))
	f.call("POST", "/v1/users", credentialsOf("bo", password)).is(403, messages.CodeForbidden)
	f.call("POST", "/v1/tokens", credentialsOf("ana", password)).is(403, messages.CodeForbidden)
	f.call("POST", "/v1/password", `{"password":"12345678","new_password":"12345678"}`, token).is(403, messages.CodeForbidden)
	f.call("GET", "/v1/devices", "", token).is(200, "")
	_, err := f.Issue(context.Background(), "ana")
	for _, err := range []error{err, f.Create(context.Background(), "bo", password), f.SetPassword(context.Background(), "ana", password)} {
		if messages.FailureOf(err).Code != messages.CodeForbidden {
			t.Fatalf("got %v", err)
		}
	}
}

func TestSigningOutTakesAnIssuersTokensBack(t *testing.T) {
	p := newIDP(t)
	f := trusting(t, p)
	sign := func(jti any) string {
		c := f.issued("ana")
		c["jti"] = jti
		if jti == nil {
			delete(c, "jti")
		}
		return p.sign(jwt.SigningMethodES256, "e", p.ec, c)
	}
	unnamed, named := sign(nil), sign(strings.Repeat("long", 100))
	f.device("ana", "unnamed", unnamed)
	f.call("DELETE", "/v1/devices/unnamed", "", named).is(204, "")
	if f.valid(unnamed) || !f.valid(named) {
		t.Fatal("one device's token goes, and only that")
	}
	f.call("DELETE", "/v1/devices/all", "", named).is(204, "")
	if f.valid(named) {
		t.Fatal("a token issued before counts")
	}
	f.wait(time.Second)
	if !f.valid(sign("later")) {
		t.Fatal("a token issued afterwards does not count")
	}
	noTime := f.issued("ana")
	delete(noTime, "iat")
	if f.valid(p.sign(jwt.SigningMethodES256, "e", p.ec, noTime)) {
		t.Fatal("a token that does not say when it was issued counts")
	}
}

func TestOneTokenWithTwoSignaturesHasOneID(t *testing.T) {
	if issuedID("", "header.payload.one") != issuedID("", "header.payload.two") {
		t.Fatal("revoking one leaves the other")
	}
}

func TestKeysStayWhenTheIssuerIsGone(t *testing.T) {
	p := newIDP(t)
	f := trusting(t, p)
	p.mu.Lock()
	p.down = true
	p.mu.Unlock()
	// A key that is not known has them fetched again, in vain.
	if f.valid(p.sign(jwt.SigningMethodES256, "unknown", p.ec, f.issued("ana"))) {
		t.Fatal("an unknown key was accepted")
	}
	if !strings.Contains(f.log.String(), "the last ones stay") {
		t.Fatalf("nothing was fetched: %s", f.log)
	}
	if !f.valid(p.sign(jwt.SigningMethodES256, "e", p.ec, f.issued("ana"))) {
		t.Fatal("the keys are gone")
	}
}

func TestANewKeyIsFetchedWhenATokenNamesIt(t *testing.T) {
	p := newIDP(t)
	f := trusting(t, p)
	fresh := p256(t)
	p.mu.Lock()
	p.keys = append(p.keys, jwk(t, "fresh", fresh.Public()))
	p.mu.Unlock()
	if !f.valid(p.sign(jwt.SigningMethodES256, "fresh", fresh, f.issued("ana"))) {
		t.Fatal("it was not fetched")
	}
}

func TestAnIssuersKeysInAFile(t *testing.T) {
	p := newIDP(t)
	path := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(path, p.set(), 0o600); err != nil {
		t.Fatal(err)
	}
	f := start(t, func(c *Config) { c.Issuer = &Issuer{"https://id.example", path, "troupe"} })
	if !f.valid(p.sign(jwt.SigningMethodRS256, "r", p.rsa, f.issued("ana"))) {
		t.Fatal("refused")
	}
}

func TestIssuersThatCannotBe(t *testing.T) {
	dir := t.TempDir()
	none := filepath.Join(dir, "none.json")
	if err := os.WriteFile(none, []byte(`{"keys":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	for name, c := range map[string]struct {
		Issuer
		says string
	}{
		"unreachable":  {Issuer{"i", closed.URL, "a"}, "refused"},
		"no such file": {Issuer{"i", filepath.Join(dir, "missing.json"), "a"}, "no such file"},
		"no keys":      {Issuer{"i", none, "a"}, "there are none"},
		"no audience":  {Issuer{"i", none, ""}, "audience"},
		"no issuer":    {Issuer{"", none, "a"}, "issuer"},
	} {
		_, err := New(Config{Store: newFakeStore(), Limiter: &fakeLimiter{}, Issuer: &c.Issuer})
		if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

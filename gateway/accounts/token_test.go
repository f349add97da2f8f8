package accounts

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/troupe-chat/troupe/messages"
)

// forge signs claims of any kind as the service's own key would.
func (f *fixture) forge(method jwt.SigningMethod, key any, header map[string]any, c jwt.Claims) string {
	f.t.Helper()
	t := jwt.NewWithClaims(method, c)
	t.Header["kid"] = f.signer.signID
	for k, v := range header {
		t.Header[k] = v
	}
	s, err := t.SignedString(key)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

func (f *fixture) good(user string) jwt.MapClaims {
	return jwt.MapClaims{"sub": user, "jti": "j1", "gen": 0, "iat": f.clock().Unix(), "exp": f.clock().Add(time.Hour).Unix()}
}

func (f *fixture) own(c jwt.Claims) string {
	return f.forge(jwt.SigningMethodEdDSA, f.signer.sign, nil, c)
}

func TestAForgedGoodTokenIsValid(t *testing.T) {
	f := start(t)
	f.register("ana")
	if !f.valid(f.own(f.good("ana"))) {
		t.Fatal("the other tests here prove nothing")
	}
}

func TestOtherAlgorithmsAreRefused(t *testing.T) {
	f := start(t)
	f.register("ana")
	public := f.signer.sign.Public().(ed25519.PublicKey)
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	tokens := map[string]string{
		"none": f.forge(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil, f.good("ana")),
	}
	for name, secret := range map[string][]byte{"raw": public, "der": der, "pem": text, "empty": {}} {
		tokens["HS256 "+name] = f.forge(jwt.SigningMethodHS256, secret, nil, f.good("ana"))
	}
	parts := strings.Split(f.own(f.good("ana")), ".")
	for _, alg := range []string{"none", "HS256", "None", "", "eddsa"} {
		tokens["header says "+alg] = encodeHeader(alg, f.signer.signID) + "." + parts[1] + "." + parts[2]
		tokens["unsigned, header says "+alg] = encodeHeader(alg, f.signer.signID) + "." + parts[1] + "."
	}
	for name, token := range tokens {
		if f.valid(token) {
			t.Errorf("%s: accepted", name)
		}
		// Not even a key look-up that suits the token would help it.
		for _, key := range []any{jwt.UnsafeAllowNoneSignatureType, []byte(public), der, text, []byte{}} {
			if _, err := parse(f.signer.parser, token, func(*jwt.Token) (any, error) { return key, nil }); err == nil {
				t.Errorf("%s: accepted with a key of its own", name)
			}
		}
	}
}

func encodeHeader(alg, kid string) string {
	b, _ := json.Marshal(map[string]string{"alg": alg, "kid": kid, "typ": "JWT"})
	return base64.RawURLEncoding.EncodeToString(b)
}

func TestTokensThatDoNotCount(t *testing.T) {
	f := start(t)
	f.register("ana")
	_, stranger, _ := ed25519.GenerateKey(rand.Reader)
	with := func(k string, v any) jwt.MapClaims {
		c := f.good("ana")
		c[k] = v
		if v == nil {
			delete(c, k)
		}
		return c
	}
	good := f.own(f.good("ana"))
	for name, token := range map[string]string{
		"expired":          f.own(with("exp", f.clock().Unix())),
		"no exp":           f.own(with("exp", nil)),
		"exp is text":      f.own(with("exp", "tomorrow")),
		"not yet valid":    f.own(with("nbf", f.clock().Add(time.Minute).Unix())),
		"no jti":           f.own(with("jti", nil)),
		"no sub":           f.own(with("sub", nil)),
		"sub is no user":   f.own(with("sub", "Ana")),
		"unknown user":     f.own(with("sub", "bo")),
		"later generation": f.own(with("gen", 1)),
		"negative gen":     f.own(with("gen", -1)),
		"another's key":    f.forge(jwt.SigningMethodEdDSA, stranger, nil, f.good("ana")),
		"unknown kid":      f.forge(jwt.SigningMethodEdDSA, f.signer.sign, map[string]any{"kid": "x"}, f.good("ana")),
		"kid is a number":  f.forge(jwt.SigningMethodEdDSA, f.signer.sign, map[string]any{"kid": 1}, f.good("ana")),
		"tampered":         good[:len(good)-4] + "AAAA",
		"more behind it":   good + ".x",
		"too long":         f.own(with("pad", strings.Repeat("x", maxToken))),
		"empty":            "",
	} {
		if f.valid(token) {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestExpiredIsSaid(t *testing.T) {
	f := start(t)
	token := f.register("ana")
	f.wait(DefaultLifetime)
	_, err := f.Verify(context.Background(), token)
	if err == nil || !strings.Contains(err.Error(), "expired") {
		t.Fatalf("got %v", err)
	}
}

func TestARevokedTokenStaysSoForItsLife(t *testing.T) {
	f := start(t, func(c *Config) { c.Lifetime = time.Hour })
	token := f.register("ana")
	f.device("ana", "phone", token)
	if err := f.SignOutDevice(context.Background(), "ana", "phone"); err != nil {
		t.Fatal(err)
	}
	for _, until := range f.store.revoked {
		if until < f.clock().Add(DefaultLifetime).UnixMilli() {
			t.Fatal("a token of a longer lifetime would come back")
		}
	}
}

func TestIssueIsForOpenAccounts(t *testing.T) {
	f := start(t)
	ctx := context.Background()
	f.register("ana")
	_, unknown := f.Issue(ctx, "bo")
	err := f.SetDisabled(ctx, "ana", true)
	_, disabled := f.Issue(ctx, "ana")
	if err != nil || messages.FailureOf(unknown).Code != messages.CodeNotFound || messages.FailureOf(disabled).Code != messages.CodeForbidden {
		t.Fatalf("%v, %v, %v", err, unknown, disabled)
	}
}

// A key is replaced by putting the new one before the old one, and dropping
// the old one when its last token has expired.
func TestKeysAreReplacedWithOverlap(t *testing.T) {
	dir := t.TempDir()
	old, both := filepath.Join(dir, "old"), filepath.Join(dir, "both")
	fresh := filepath.Join(dir, "new")
	store := newFakeStore()
	with := func(path string) *fixture {
		return start(t, func(c *Config) { c.TokenKey, c.Store = path, store })
	}
	oldToken := with(old).register("ana")
	newService := with(fresh)
	concat(t, both, fresh, old)
	f := with(both)
	newToken := f.login("ana", password).token()
	if !f.valid(oldToken) || !f.valid(newToken) || !newService.valid(newToken) || newService.valid(oldToken) {
		t.Fatal("the first key signs, both verify")
	}
}

func concat(t *testing.T, to string, from ...string) {
	t.Helper()
	var all []byte
	for _, path := range from {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	if err := os.WriteFile(to, all, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTheKeyIsMadeOnceForItsOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "token.key")
	type result struct {
		keys []ed25519.PrivateKey
		err  error
	}
	results := make(chan result)
	for range 8 {
		go func() {
			keys, err := loadKeys(path, true)
			results <- result{keys, err}
		}()
	}
	var first crypto.PrivateKey
	for range 8 {
		r := <-results
		if r.err != nil || len(r.keys) != 1 || first != nil && !r.keys[0].Equal(first) {
			t.Fatalf("got %d keys, %v", len(r.keys), r.err)
		}
		first = r.keys[0]
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestKeysThatCannotBe(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct{ path, says string }{
		"missing":   {filepath.Join(dir, "none"), "openssl genpkey"},
		"empty":     {write("empty", ""), "no PEM"},
		"nonsense":  {write("nonsense", "hello"), "no PEM"},
		"not a key": {write("block", string(pem.EncodeToMemory(&pem.Block{Type: "X", Bytes: []byte("y")}))), "PKCS #8"},
		"P-256":     {write("p256", p256PEM(t)), "not Ed25519"},
		"directory": {dir, "reading"},
	} {
		_, err := loadKeys(c.path, false)
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.path) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	before, _ := os.ReadFile(filepath.Join(dir, "nonsense"))
	if _, err := loadKeys(filepath.Join(dir, "nonsense"), true); err == nil || !bytes.Equal(before, []byte("hello")) {
		t.Fatal("a file that is no key was replaced")
	}
}

func FuzzVerify(f *testing.F) {
	x := start(f)
	x.register("ana")
	f.Add(x.own(x.good("ana"))+"x", []byte(`{"sub":"ana","jti":"a","gen":0,"exp":1e300}`))
	f.Add("a.b.c", []byte(`{"sub":"ana","exp":-1}`))
	f.Add("..", []byte(`{"sub":["ana"],"exp":{}}`))
	f.Fuzz(func(t *testing.T, token string, payload []byte) {
		x.t = t
		if x.valid(token) && token != x.own(x.good("ana")) {
			t.Fatalf("accepted %q", token)
		}
		signed := encodeHeader("EdDSA", x.signer.signID) + "." + base64.RawURLEncoding.EncodeToString(payload)
		sig := ed25519.Sign(x.signer.sign, []byte(signed))
		who, err := x.Verify(context.Background(), signed+"."+base64.RawURLEncoding.EncodeToString(sig))
		if err == nil && (who.User != "ana" || who.TokenID == "" || !who.Expires.After(x.clock())) {
			t.Fatalf("%s: %+v", payload, who)
		}
		if _, ok := errors.AsType[*messages.Failure](err); err != nil && !ok {
			t.Fatalf("%s: %v", payload, err)
		}
	})
}

// FuzzBodies sends any body to every call that takes one.
func FuzzBodies(f *testing.F) {
	x := start(f, func(c *Config) { c.LimitsOff = true })
	token := x.register("ana")
	f.Add(`{"user":"ana","password":"x"}`)
	f.Add(`{"password":null,"new_password":[]}`)
	f.Add("{\"user\":\"\xff\"}")
	f.Fuzz(func(t *testing.T, body string) {
		x.t = t
		for _, path := range []string{"/v1/users", "/v1/tokens", "/v1/password"} {
			a := x.call("POST", path, body, token)
			var e errorShape
			if err := json.Unmarshal(a.w.Body.Bytes(), &e); a.w.Code >= 500 || err != nil && a.w.Code != 204 {
				t.Fatalf("%s %q: %d %s", path, body, a.w.Code, a.w.Body)
			}
		}
	})
}

type errorShape struct {
	Error struct{ Code, Message string }
}

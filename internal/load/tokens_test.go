//go:build linux

package load

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"crypto/ed25519"

	"github.com/golang-jwt/jwt/v5"
)

func TestAccountsRegisterOnceAndSignInWhoExists(t *testing.T) {
	var registered, signedIn atomic.Int64
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, status int, token string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"token": token})
	}
	mux.HandleFunc("POST /v1/users", func(w http.ResponseWriter, r *http.Request) {
		var body struct{ User, Password string }
		_ = json.NewDecoder(r.Body).Decode(&body)
		switch {
		case body.Password != "a password":
			answer(w, http.StatusBadRequest, "")
		case body.User == "old":
			answer(w, http.StatusConflict, "")
		case body.User == "bad":
			answer(w, http.StatusInternalServerError, "")
		default:
			registered.Add(1)
			answer(w, http.StatusCreated, "new "+body.User)
		}
	})
	mux.HandleFunc("POST /v1/tokens", func(w http.ResponseWriter, r *http.Request) {
		signedIn.Add(1)
		answer(w, http.StatusOK, "signed in")
	})
	h := httptest.NewServer(mux)
	defer h.Close()
	a := NewAccounts(h.URL, "a password")
	for range 2 {
		if token, err := a.Token(t.Context(), "ana"); err != nil || token != "new ana" {
			t.Fatalf("%q, %v", token, err)
		}
		if token, err := a.Token(t.Context(), "old"); err != nil || token != "signed in" {
			t.Fatalf("%q, %v", token, err)
		}
	}
	if registered.Load() != 1 || signedIn.Load() != 1 {
		t.Fatalf("%d registered, %d signed in; want each once", registered.Load(), signedIn.Load())
	}
	if _, err := a.Token(t.Context(), "bad"); err == nil {
		t.Fatal("no error")
	}
}

func TestIssuerSignsWhatItsKeySetVerifies(t *testing.T) {
	i, err := NewIssuer("https://load.invalid", "chat")
	if err != nil {
		t.Fatal(err)
	}
	var set struct {
		Keys []struct{ Kid, X string }
	}
	if err := json.Unmarshal(i.JWKS(), &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("%v, %v", set, err)
	}
	pub, err := base64.RawURLEncoding.DecodeString(set.Keys[0].X)
	if err != nil {
		t.Fatal(err)
	}
	token, err := i.Token(t.Context(), "ana")
	if err != nil {
		t.Fatal(err)
	}
	claims := jwt.RegisteredClaims{}
	_, err = jwt.ParseWithClaims(token, &claims, func(tok *jwt.Token) (any, error) {
		if tok.Header["kid"] != set.Keys[0].Kid {
			t.Errorf("key %v", tok.Header["kid"])
		}
		return ed25519.PublicKey(pub), nil
	}, jwt.WithIssuer("https://load.invalid"), jwt.WithAudience("chat"), jwt.WithExpirationRequired())
	if err != nil || claims.Subject != "ana" {
		t.Fatalf("%v, %v", claims, err)
	}
}

func TestProcessReadsThisOne(t *testing.T) {
	p := Process{PID: os.Getpid()}
	rss, err := p.RSS()
	if err != nil || rss < 1<<20 {
		t.Fatalf("%d bytes, %v", rss, err)
	}
	// Until the kernel has counted a tick for us.
	for {
		used, err := p.CPU()
		if err != nil {
			t.Fatal(err)
		}
		if used > 0 {
			break
		}
	}
	if _, err := (Process{PID: 1 << 30}).RSS(); err == nil {
		t.Fatal("memory of a process that is not there")
	}
	if _, err := (Process{PID: 1 << 30}).CPU(); err == nil {
		t.Fatal("processor time of a process that is not there")
	}
}

func TestRestingMemoryAsksForACollection(t *testing.T) {
	var asked atomic.Int64
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if gc, _ := strconv.Atoi(r.URL.Query().Get("gc")); gc == 1 {
			asked.Add(1)
		}
	}))
	defer h.Close()
	p := Process{PID: os.Getpid(), Heap: h.URL}
	start := time.Now()
	if rss, err := p.restingRSS(t.Context()); err != nil || rss <= 0 {
		t.Fatalf("%d, %v after %v", rss, err, time.Since(start))
	}
	if asked.Load() == 0 {
		t.Fatal("no collection was asked for")
	}
}

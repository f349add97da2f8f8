package console

import (
	"crypto/sha256"
	"crypto/subtle"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/troupe-chat/troupe/gateway/httpjson"
	"github.com/troupe-chat/troupe/messages"
)

// guard decides who may use the operators' port. Immutable.
type guard struct {
	host   string // that requests may name besides loopback
	any    bool   // the port listens on every address: any IP may be named
	token  *[sha256.Size]byte
	origin *http.CrossOriginProtection
}

func newGuard(address, token string) guard {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	ip, err := netip.ParseAddr(host)
	g := guard{host: host, any: host == "" || err == nil && ip.IsUnspecified(), origin: http.NewCrossOriginProtection()}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		g.token = &sum
	}
	return g
}

func (g guard) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status, f := g.refuse(w, r); f != nil {
			httpjson.WriteStatus(w, status, f)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (g guard) refuse(w http.ResponseWriter, r *http.Request) (int, *messages.Failure) {
	if !g.knows(r.Host) {
		return http.StatusForbidden, messages.Fail(messages.CodeForbidden, "Host must be loopback or the address of --admin")
	}
	if !g.admits(r) {
		// The console's page asks for it as a password; the user does not matter.
		w.Header().Add("WWW-Authenticate", `Basic realm="troupe"`)
		return http.StatusUnauthorized, messages.Fail(messages.CodeUnauthenticated, "send the operators' token: Authorization: Bearer TOKEN")
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return 0, nil
	}
	if g.origin.Check(r) != nil {
		return http.StatusForbidden, messages.Fail(messages.CodeForbidden, "the call comes from another site's page")
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return http.StatusUnsupportedMediaType, messages.Fail(messages.CodeInvalid, "changing calls need Content-Type: application/json")
	}
	return 0, nil
}

// knows reports whether a request may name this host. A page on the web can
// have a browser send requests here under a name of its own, never under an
// IP address.
func (g guard) knows(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		host = strings.Trim(hostPort, "[]")
	}
	ip, err := netip.ParseAddr(host)
	isIP := err == nil
	return host != "" && strings.EqualFold(host, g.host) || strings.EqualFold(host, "localhost") ||
		isIP && (ip.Unmap().IsLoopback() || g.any)
}

// admits checks the token: as a bearer, or as the password that a browser asks
// for.
func (g guard) admits(r *http.Request) bool {
	if g.token == nil {
		return true
	}
	_, given, ok := r.BasicAuth()
	if !ok {
		var scheme string
		scheme, given, _ = strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return false
		}
	}
	sum := sha256.Sum256([]byte(given))
	return subtle.ConstantTimeCompare(sum[:], g.token[:]) == 1
}

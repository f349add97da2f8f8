package gateway

import (
	_ "embed"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/troupe-chat/troupe/gateway/httpjson"
	"github.com/troupe-chat/troupe/messages"
)

//go:embed page.html
var page []byte

// contentSecurityPolicy lets the page at / load nothing from elsewhere.
const contentSecurityPolicy = "default-src 'none'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler serves everything on the clients' port. accounts serves the calls
// about accounts; ready tells why the node can't take clients, or "".
func (s *Server) Handler(accounts http.Handler, ready func() string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/ws", s.ServeWebSocket)
	mux.Handle("/v1/users", accounts)
	mux.Handle("/v1/tokens", accounts)
	mux.Handle("/v1/password", accounts)
	mux.Handle("/v1/devices", accounts)
	mux.Handle("/v1/devices/", accounts)
	mux.Handle("/v1/account", accounts)
	mux.HandleFunc("/v1/media", mediaUnavailable)
	mux.HandleFunc("/v1/media/", mediaUnavailable)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { s.readiness(w, ready()) })
	mux.HandleFunc("GET /{$}", servePage)
	mux.HandleFunc("/", httpjson.NotFound)
	return mux
}

func (s *Server) readiness(w http.ResponseWriter, why string) {
	if why == "" && !s.Ready() {
		why = "draining"
	}
	if why != "" {
		plain(w, http.StatusServiceUnavailable, why)
		return
	}
	plain(w, http.StatusOK, "ready")
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n"))
}

func servePage(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", contentSecurityPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	_, _ = w.Write(page)
}

func mediaUnavailable(w http.ResponseWriter, r *http.Request) {
	httpjson.WriteError(w, messages.Fail(messages.CodeUnavailable, "media is not built in this version"))
}

// originAllowed keeps pages of other sites from connecting in their visitors'
// name. Clients that are no browsers send no Origin.
func (s *Server) originAllowed(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || slices.Contains(s.cfg.Origins, "*") || slices.Contains(s.cfg.Origins, origin) {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

package gateway_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/troupe-chat/troupe/gateway"
	"github.com/troupe-chat/troupe/messages"
)

// clientsPort serves a gateway without actors, for what needs none.
func clientsPort(t *testing.T, ready string, origins ...string) *httptest.Server {
	t.Helper()
	s := gateway.New(gateway.Config{
		Node: "test", Limits: messages.DefaultLimits(), Origins: origins,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	port := httptest.NewServer(s.Handler(http.NotFoundHandler(), func() string { return ready }))
	t.Cleanup(func() {
		port.Close()
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return port
}

func fetch(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// The page at / asks nothing of other hosts and is told to a browser so.
func TestPage(t *testing.T) {
	port := clientsPort(t, "")
	res, body := fetch(t, port.URL+"/")
	if res.StatusCode != http.StatusOK {
		t.Fatalf("status %d", res.StatusCode)
	}
	policy := res.Header.Get("Content-Security-Policy")
	for _, must := range []string{"default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, must) {
			t.Errorf("the policy %q lacks %s", policy, must)
		}
	}
	if strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") || strings.Contains(policy, "*") {
		t.Errorf("the policy %q allows too much", policy)
	}
	if got := res.Header.Get("X-Content-Type-Options"); got != "nosniff" {
		t.Errorf("X-Content-Type-Options: %q", got)
	}
	if found := regexp.MustCompile(`(?i)(src|href)\s*=\s*"?(https?:)?//|<script>|\son\w+=`).FindString(body); found != "" {
		t.Errorf("the page holds %q", found)
	}
}

func TestPageIsNotEverywhere(t *testing.T) {
	port := clientsPort(t, "")
	for _, path := range []string{"/index.html", "/..%2fetc", "/v1", "/v1/", "/v2/ws", "/debug/pprof/", "/metrics", "/admin/v1/members"} {
		if res, body := fetch(t, port.URL+path); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: status %d: %s", path, res.StatusCode, body)
		}
	}
}

// A page of another site cannot connect in its visitor's name.
func TestOrigin(t *testing.T) {
	strict, open := clientsPort(t, "", "https://chat.example"), clientsPort(t, "", "*")
	for _, c := range []struct {
		port   *httptest.Server
		origin string
		may    bool
	}{
		{strict, "", true},
		{strict, strict.URL, true},
		{strict, "https://chat.example", true},
		{strict, "https://chat.example.evil.example", false},
		{strict, "https://evil.example", false},
		{strict, "https://evil.example/" + strings.TrimPrefix(strict.URL, "http://"), false},
		{strict, "null", false},
		{open, "https://evil.example", true},
	} {
		header := http.Header{}
		if c.origin != "" {
			header.Set("Origin", c.origin)
		}
		ws, res, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(c.port.URL, "http")+"/v1/ws", header)
		if err == nil {
			ws.Close()
		}
		if res == nil {
			t.Fatalf("origin %q: %v", c.origin, err)
		}
		if may := res.StatusCode == http.StatusSwitchingProtocols; may != c.may || !may && res.StatusCode != http.StatusForbidden {
			t.Errorf("origin %q: status %d", c.origin, res.StatusCode)
		}
	}
}

func TestReadiness(t *testing.T) {
	if res, _ := fetch(t, clientsPort(t, "").URL+"/readyz"); res.StatusCode != http.StatusOK {
		t.Errorf("status %d", res.StatusCode)
	}
	res, body := fetch(t, clientsPort(t, "the store is away").URL+"/readyz")
	if res.StatusCode != http.StatusServiceUnavailable || body != "the store is away\n" {
		t.Errorf("status %d: %s", res.StatusCode, body)
	}
	if res, _ := fetch(t, clientsPort(t, "the store is away").URL+"/healthz"); res.StatusCode != http.StatusOK {
		t.Errorf("status %d", res.StatusCode)
	}
}

package console_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/troupe-chat/troupe/gateway/console"
	"github.com/troupe-chat/troupe/messages"
)

// fake is a cluster and its users; it notes what it was asked.
type fake struct {
	asked []string
	fails error
}

func (f *fake) note(parts ...string) error {
	f.asked = append(f.asked, strings.Join(parts, " "))
	return f.fails
}

func (f *fake) Members(context.Context) ([]console.Member, error) {
	return []console.Member{{ID: "m1", Name: "troupe-1", Actors: map[string]int{"session": 3}}}, f.fails
}

func (f *fake) Actors(_ context.Context, q console.Filter) ([]console.Actor, error) {
	b, _ := json.Marshal(q)
	return nil, f.note("actors", string(b))
}

func (f *fake) Actor(_ context.Context, kind, id string) (console.ActorDetail, error) {
	return console.ActorDetail{Kind: kind, ID: id, Owner: "troupe-1"}, f.note("actor", kind, id)
}

func (f *fake) Session(_ context.Context, u messages.UserID) ([]console.Connection, error) {
	return []console.Connection{{Device: "phone"}}, f.note("session", string(u))
}

func (f *fake) Create(_ context.Context, u messages.UserID, password string) error {
	return f.note("create", string(u), password)
}

func (f *fake) SetPassword(_ context.Context, u messages.UserID, password string) error {
	return f.note("password", string(u), password)
}

func (f *fake) SetDisabled(_ context.Context, u messages.UserID, disabled bool) error {
	return f.note("disabled", string(u), map[bool]string{true: "yes", false: "no"}[disabled])
}

func (f *fake) Disconnect(_ context.Context, u messages.UserID) error {
	return f.note("disconnect", string(u))
}

func (f *fake) Users(_ context.Context, after messages.UserID, _ int) ([]console.User, error) {
	if after == "" {
		return []console.User{{User: "ana", CreatedAt: 5}}, f.fails
	}
	return nil, f.fails
}

type request struct {
	method, path, body string
	host               string // "" is 127.0.0.1:7071
	header             http.Header
}

func (f *fake) do(t *testing.T, cfg console.Config, q request) *httptest.ResponseRecorder {
	t.Helper()
	registry := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "troupe_test_total", Help: "A test's."})
	registry.MustRegister(counter)
	cfg.Cluster, cfg.Users, cfg.Metrics = f, f, registry
	if cfg.Address == "" {
		cfg.Address = "127.0.0.1:7071"
	}
	r := httptest.NewRequest(q.method, q.path, strings.NewReader(q.body))
	r.Host = q.host
	if q.host == "" {
		r.Host = "127.0.0.1:7071"
	}
	if q.method != "GET" {
		r.Header.Set("Content-Type", "application/json")
	}
	for k, v := range q.header {
		r.Header[k] = v
	}
	w := httptest.NewRecorder()
	console.New(cfg).ServeHTTP(w, r)
	return w
}

func TestAnswers(t *testing.T) {
	direct := string(messages.Direct("ana", "bo"))
	for _, c := range []struct {
		method, path, body string
		status             int
		holds              string
	}{
		{"GET", "/healthz", "", 200, `"ok"`},
		{"GET", "/metrics", "", 200, "troupe_test_total 0"},
		{"GET", "/debug/pprof/", "", 200, "goroutine"},
		{"GET", "/debug/pprof/heap", "", 200, ""},
		{"GET", "/debug/pprof/cmdline", "", 404, "not_found"},
		{"GET", "/", "", 200, "troupe-1"},
		{"GET", "/console.css", "", 200, "table"},
		{"GET", "/nothing", "", 404, "not_found"},
		{"GET", "/admin/v1/members", "", 200, `{"members":[{"id":"m1"`},
		{"POST", "/admin/v1/members", "", 405, "invalid"},
		{"GET", "/admin/v1/actors", "", 200, `{"actors":[]}`},
		{"GET", "/admin/v1/actors?kind=robot", "", 404, "not_found"},
		{"GET", "/admin/v1/actors?sort=name", "", 400, "invalid"},
		{"GET", "/admin/v1/actors?limit=0", "", 400, "invalid"},
		{"GET", "/admin/v1/actors?limit=x", "", 400, "invalid"},
		{"GET", "/admin/v1/actors/session/ana", "", 200, `"active":false`},
		{"GET", "/admin/v1/actors/conversation/" + direct, "", 200, `"id":"d:ana~bo"`},
		{"GET", "/admin/v1/actors/group/" + direct, "", 400, "invalid"},
		{"GET", "/admin/v1/actors/session/Ana", "", 400, "invalid"},
		{"GET", "/admin/v1/actors/robot/ana", "", 404, "not_found"},
		{"GET", "/admin/v1/sessions/ana", "", 200, `{"devices":[{"device":"phone"`},
		{"GET", "/admin/v1/sessions/Ana", "", 400, "invalid"},
		{"POST", "/admin/v1/members/m1/drain", "{}", 503, "unavailable"},
		{"GET", "/admin/v1/users", "", 200, `{"users":[{"user":"ana","created_at":5`},
		{"GET", "/admin/v1/users?after=ana", "", 200, `{"users":[]}`},
		{"POST", "/admin/v1/users", `{"user":"bo","password":"12345678"}`, 201, `{"user":"bo"}`},
		{"POST", "/admin/v1/users", `nonsense`, 400, "invalid"},
		{"POST", "/admin/v1/users/bo/disable", "", 204, ""},
		{"POST", "/admin/v1/users/bo/password", `{"password":"12345678"}`, 204, ""},
		{"POST", "/admin/v1/users/bo/password", "", 400, "invalid"},
		{"POST", "/admin/v1/users/bo/promote", "", 404, "not_found"},
		{"POST", "/admin/v1/users/Bo/disable", "", 400, "invalid"},
		{"DELETE", "/admin/v1/users/bo/disable", "", 405, "invalid"},
	} {
		w := new(fake).do(t, console.Config{}, request{method: c.method, path: c.path, body: c.body})
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.holds) {
			t.Errorf("%s %s: got %d %s, want %d %s", c.method, c.path, w.Code, w.Body, c.status, c.holds)
		}
	}
}

func TestWhatUsersAreGiven(t *testing.T) {
	f := new(fake)
	for _, path := range []string{"bo/disable", "bo/enable", "bo/disconnect"} {
		f.do(t, console.Config{}, request{method: "POST", path: "/admin/v1/users/" + path})
	}
	want := []string{"disabled bo yes", "disabled bo no", "disconnect bo"}
	if !slices.Equal(f.asked, want) {
		t.Fatalf("asked %v, want %v", f.asked, want)
	}
}

func TestActorsAreFiltered(t *testing.T) {
	f := new(fake)
	f.do(t, console.Config{}, request{method: "GET", path: "/admin/v1/actors?kind=inbox&member=m1&sort=age&limit=7"})
	f.do(t, console.Config{}, request{method: "GET", path: "/admin/v1/actors"})
	want := []string{
		`actors {"Kind":"inbox","Member":"m1","Sort":"age","Limit":7}`,
		`actors {"Kind":"","Member":"","Sort":"mailbox","Limit":100}`,
	}
	if !slices.Equal(f.asked, want) {
		t.Fatalf("asked %v, want %v", f.asked, want)
	}
}

func TestHosts(t *testing.T) {
	for _, c := range []struct {
		address, host string
		status        int
	}{
		{"127.0.0.1:7071", "localhost:7071", 200},
		{"127.0.0.1:7071", "LOCALHOST", 200},
		{"127.0.0.1:7071", "[::1]:7071", 200},
		{"127.0.0.1:7071", "127.0.0.1", 200},
		{"127.0.0.1:7071", "evil.example:7071", 403},
		{"127.0.0.1:7071", "127.0.0.1.evil.example", 403},
		{"127.0.0.1:7071", "10.0.0.1:7071", 403},
		{"10.0.0.1:7071", "10.0.0.1:7071", 200},
		{"ops.example:7071", "ops.example:7071", 200},
		{"0.0.0.0:7071", "10.0.0.1:7071", 200},
		{":7071", "10.0.0.1:7071", 200},
		{":7071", "evil.example", 403},
		{":7071", ":7071", 403},
	} {
		w := new(fake).do(t, console.Config{Address: c.address}, request{method: "GET", path: "/admin/v1/members", host: c.host})
		if w.Code != c.status {
			t.Errorf("listening at %s, asked as %s: got %d, want %d", c.address, c.host, w.Code, c.status)
		}
	}
}

func TestTheToken(t *testing.T) {
	basic := func(p string) string {
		r := httptest.NewRequest("GET", "/", nil)
		r.SetBasicAuth("operator", p)
		return r.Header.Get("Authorization")
	}
	for auth, status := range map[string]int{
		"": 401, "Bearer": 401, "Bearer ": 401, "Bearer wrong": 401, "Bearer s3cre": 401, "Basic s3cret": 401,
		"s3cret": 401, basic("wrong"): 401, "Bearer s3cret": 200, "bearer s3cret": 200, basic("s3cret"): 200,
	} {
		for _, path := range []string{"/admin/v1/members", "/metrics", "/debug/pprof/", "/"} {
			w := new(fake).do(t, console.Config{Token: "s3cret"}, request{method: "GET", path: path,
				header: http.Header{"Authorization": {auth}}})
			if w.Code != status {
				t.Errorf("%s with %q: got %d, want %d", path, auth, w.Code, status)
			}
		}
	}
	w := new(fake).do(t, console.Config{Token: "s3cret"}, request{method: "GET", path: "/healthz", host: "10.1.1.1"})
	if w.Code != 200 {
		t.Errorf("/healthz: got %d", w.Code)
	}
}

func TestChangingCallsOfOtherSitesPages(t *testing.T) {
	for name, c := range map[string]struct {
		header http.Header
		status int
	}{
		"a program":           {nil, 204},
		"its own page":        {http.Header{"Origin": {"http://127.0.0.1:7071"}}, 204},
		"another site":        {http.Header{"Origin": {"https://evil.example"}}, 403},
		"another port":        {http.Header{"Origin": {"http://127.0.0.1:9999"}}, 403},
		"no origin at all":    {http.Header{"Origin": {"null"}}, 403},
		"said by the browser": {http.Header{"Sec-Fetch-Site": {"cross-site"}}, 403},
		"a form":              {http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, 415},
		"plain text":          {http.Header{"Content-Type": {"text/plain"}}, 415},
		"no type":             {http.Header{"Content-Type": nil}, 415},
		"with a charset":      {http.Header{"Content-Type": {"application/json; charset=utf-8"}}, 204},
	} {
		f := new(fake)
		w := f.do(t, console.Config{}, request{method: "POST", path: "/admin/v1/users/bo/disconnect", header: c.header})
		if w.Code != c.status || (len(f.asked) == 1) != (c.status == 204) {
			t.Errorf("%s: got %d, want %d; asked %v", name, w.Code, c.status, f.asked)
		}
	}
}

func TestFailures(t *testing.T) {
	f := &fake{fails: messages.Fail(messages.CodeConflict, "this name is taken")}
	w := f.do(t, console.Config{}, request{method: "POST", path: "/admin/v1/users", body: `{}`})
	if w.Code != 409 || !strings.Contains(w.Body.String(), "this name is taken") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	f = &fake{fails: errors.New("disk on fire")}
	for _, path := range []string{"/admin/v1/members", "/"} {
		w = f.do(t, console.Config{}, request{method: "GET", path: path})
		if w.Code != 500 || strings.Contains(w.Body.String(), "fire") {
			t.Errorf("%s: got %d %s", path, w.Code, w.Body)
		}
	}
}

func TestThePageRunsNothing(t *testing.T) {
	w := new(fake).do(t, console.Config{}, request{method: "GET", path: "/"})
	if csp := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
		t.Fatalf("CSP is %q", csp)
	}
	if strings.Contains(w.Body.String(), "<script") || strings.Contains(w.Body.String(), "http://") {
		t.Fatal("the page runs a script or asks another host")
	}
}

func FuzzAdmin(f *testing.F) {
	f.Add("/admin/v1/actors?limit=1&sort=rate", `{"user":"ana"}`)
	f.Add("/admin/v1/actors/session/%00", `{`)
	f.Add("/admin/v1/users/ana/password", `{"password":1}`)
	f.Fuzz(func(t *testing.T, path, body string) {
		if r, err := http.NewRequest("GET", "http://localhost"+path, nil); err != nil || !strings.HasPrefix(path, "/admin/") || r.Host != "localhost" || strings.ContainsAny(path, " \r\n#") {
			return
		}
		for _, method := range []string{"GET", "POST"} {
			w := new(fake).do(t, console.Config{}, request{method: method, path: path, body: body})
			if w.Code == 500 {
				t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
			}
		}
	})
}

package accounts

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/troupe-chat/troupe/gateway/httpjson"
	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

func TestRegister(t *testing.T) {
	f := start(t)
	a := f.call("POST", "/v1/users", `{"user":"ana","password":"12345678","later":1}`).is(201, "")
	var got tokenAnswer
	a.decode(&got)
	who, err := f.Verify(context.Background(), got.Token)
	if err != nil || who.User != "ana" || got.User != "ana" || who.Expires.UnixMilli() != got.ExpiresAt {
		t.Fatalf("got %+v, %+v, %v", got, who, err)
	}
	if want := f.clock().Add(DefaultLifetime).Truncate(time.Second); !who.Expires.Equal(want) {
		t.Fatalf("expires %v, want %v", who.Expires, want)
	}
	if strings.Contains(f.log.String(), "12345678") || strings.Contains(f.log.String(), got.Token) {
		t.Fatalf("a secret was logged: %s", f.log)
	}
}

func TestRegisterRefuses(t *testing.T) {
	f := start(t)
	f.register("taken")
	for name, c := range map[string]struct {
		body   string
		status int
		code   string
	}{
		"taken":             {credentialsOf("taken", password), 409, messages.CodeConflict},
		"no name":           {credentialsOf("", password), 400, messages.CodeInvalid},
		"capital":           {credentialsOf("Ana", password), 400, messages.CodeInvalid},
		"65 characters":     {credentialsOf(strings.Repeat("a", 65), password), 400, messages.CodeInvalid},
		"7 bytes":           {credentialsOf("ana", "1234567"), 400, messages.CodeInvalid},
		"1025 bytes":        {credentialsOf("ana", strings.Repeat("x", 1025)), 400, messages.CodeInvalid},
		"no password":       {`{"user":"ana"}`, 400, messages.CodeInvalid},
		"null":              {`null`, 400, messages.CodeInvalid},
		"a form":            {"user=ana&password=12345678", 400, messages.CodeInvalid},
		"number for a name": {`{"user":7,"password":"12345678"}`, 400, messages.CodeInvalid},
		"too large":         {credentialsOf("ana", strings.Repeat("x", httpjson.MaxBody)), 413, messages.CodeTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			a := f.call("POST", "/v1/users", c.body)
			a.t = t
			a.is(c.status, c.code)
		})
	}
	f.call("POST", "/v1/users", credentialsOf(strings.Repeat("a", 64), strings.Repeat("x", 1024))).is(201, "")
}

func TestRegistrationOff(t *testing.T) {
	f := start(t, func(c *Config) { c.Registration = false })
	f.call("POST", "/v1/users", credentialsOf("ana", password)).is(403, messages.CodeForbidden)
	if err := f.Create(context.Background(), "ana", password); err != nil {
		t.Fatalf("an operator may: %v", err)
	}
	f.login("ana", password).is(200, "")
}

func TestMethodsAndPaths(t *testing.T) {
	f := start(t)
	for path, allow := range map[string]string{
		"/v1/users": "POST", "/v1/tokens": "POST", "/v1/password": "POST",
		"/v1/devices": "GET", "/v1/devices/x": "DELETE", "/v1/account": "DELETE",
	} {
		a := f.call("PUT", path, "").is(405, messages.CodeInvalid)
		if got := a.w.Header().Get("Allow"); got != allow {
			t.Errorf("%s: Allow is %q, want %q", path, got, allow)
		}
	}
	f.call("GET", "/v1/nothing", "").is(404, messages.CodeNotFound)
}

func TestSignedInCallsNeedAToken(t *testing.T) {
	f := start(t)
	for _, c := range [][2]string{{"POST", "/v1/password"}, {"GET", "/v1/devices"}, {"DELETE", "/v1/devices/x"}, {"DELETE", "/v1/account"}} {
		for _, token := range []string{"", "x", "a.b.c"} {
			a := f.call(c[0], c[1], "{}", token).is(401, messages.CodeUnauthenticated)
			if a.w.Header().Get("WWW-Authenticate") != "Bearer" {
				t.Fatal("no WWW-Authenticate")
			}
		}
	}
}

// closedAccounts has one account of each kind that nobody may sign in to, and
// one that "ana" may.
func closedAccounts(t *testing.T) *fixture {
	f := start(t)
	for _, u := range []string{"ana", "disabled", "deleted"} {
		f.register(u)
	}
	ctx := context.Background()
	err := errors.Join(f.SetDisabled(ctx, "disabled", true), f.Delete(ctx, "deleted"),
		f.store.CreateAccount(ctx, persistence.Account{User: "foreign"}))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

var closed = []credentials{
	{"ana", "wrong password"}, {"ana", ""}, {"nobody", password}, {"disabled", password},
	{"deleted", password}, {"foreign", ""}, {"NOT a name", password}, {"", ""},
}

func TestLoginAnswersAlike(t *testing.T) {
	f := closedAccounts(t)
	f.login("ana", password).is(200, "")
	want := f.login("ana", "wrong password").is(401, messages.CodeUnauthenticated).w
	for _, c := range closed {
		got := f.login(string(c.User), c.Password).is(401, messages.CodeUnauthenticated).w
		if got.Body.String() != want.Body.String() || len(got.Header()) != len(want.Header()) {
			t.Errorf("%s: %s", c.User, got.Body)
		}
	}
}

// With no room to hash, whoever needs a hash is told so. Everyone is: whether
// there is an account makes no difference to the work.
func TestLoginWorksAlike(t *testing.T) {
	f := closedAccounts(t)
	for range cap(f.passwords.admitted) {
		f.passwords.admitted <- struct{}{}
	}
	for _, c := range append(closed, credentials{"ana", password}) {
		a := f.login(string(c.User), c.Password).is(503, messages.CodeOverloaded)
		if a.w.Header().Get("Retry-After") != "2" {
			t.Fatal("no Retry-After")
		}
	}
}

func TestLoginsOfOneUserAreLimited(t *testing.T) {
	f := start(t, func(c *Config) { c.TrustProxy = true })
	f.register("ana")
	for i := range perUser {
		f.call("POST", "/v1/tokens", credentialsOf("ana", "wrong password"), "", "10.0.0."+string(rune('0'+i))).is(401, "")
	}
	a := f.login("ana", password).is(429, messages.CodeRateLimited)
	var e struct {
		Error struct {
			RetryAfterMs int64 `json:"retry_after_ms"`
		}
	}
	a.decode(&e)
	if e.Error.RetryAfterMs != 60_000 || a.w.Header().Get("Retry-After") != "60" {
		t.Fatalf("got %s %v", a.w.Body, a.w.Header())
	}
	f.wait(time.Minute)
	f.login("ana", password).is(200, "")
}

func TestAddressesAreLimited(t *testing.T) {
	for path, body := range map[string]string{"/v1/users": credentialsOf("ana", "short"), "/v1/tokens": "{"} {
		f := start(t)
		for range perAddress {
			f.call("POST", path, body).is(400, messages.CodeInvalid)
		}
		f.call("POST", path, body).is(429, messages.CodeRateLimited)
		f.call("POST", path, body, "", "10.9.9.9").is(429, messages.CodeRateLimited)
		f.wait(time.Minute)
		f.call("POST", path, body).is(400, messages.CodeInvalid)
	}
}

func TestLimitsOffLiftsThem(t *testing.T) {
	f := start(t, func(c *Config) { c.LimitsOff = true })
	for range perAddress + 1 {
		f.call("POST", "/v1/tokens", "{").is(400, messages.CodeInvalid)
	}
	if len(f.limiter.hits) != 0 {
		t.Fatal("attempts were counted")
	}
}

func TestALimiterThatIsDownStopsNobody(t *testing.T) {
	f := start(t)
	f.limiter.down = errors.New("gone")
	f.register("ana")
	f.login("ana", password).is(200, "")
}

func TestNamesThatCannotBeAreNotCounted(t *testing.T) {
	f := start(t)
	f.login(strings.Repeat("x", 1000), password).is(401, "")
	for key := range f.limiter.hits {
		if len(key) > 200 {
			t.Fatalf("a key of %d bytes is kept", len(key))
		}
	}
}

func TestChangePassword(t *testing.T) {
	f := start(t)
	mine := f.register("ana")
	other := f.login("ana", password).token()
	f.device("ana", "mine", mine)
	f.device("ana", "other", other)
	change := func(old, new string) answer {
		return f.call("POST", "/v1/password", `{"password":"`+old+`","new_password":"`+new+`"}`, mine)
	}
	change("wrong password", "a new password").is(403, messages.CodeForbidden)
	change(password, "short").is(400, messages.CodeInvalid)
	if !f.valid(other) || len(f.signOuts) != 0 {
		t.Fatal("a refused change signed out")
	}
	change(password, "a new password").is(204, "")
	f.login("ana", password).is(401, messages.CodeUnauthenticated)
	f.login("ana", "a new password").is(200, "")
	if !f.valid(mine) || f.valid(other) {
		t.Fatal("the token that asked stays, those of other devices go")
	}
	if got := strings.Join(f.signOuts, " "); got != "ana/other/"+reasonPassword {
		t.Fatalf("signed out: %s", got)
	}
}

func TestOfTwoPasswordChangesOneCounts(t *testing.T) {
	f := start(t)
	token := f.register("ana")
	f.store.before = func(a *persistence.Account) { a.Password = "another's" }
	f.call("POST", "/v1/password", `{"password":"`+password+`","new_password":"12345678"}`, token).is(409, messages.CodeConflict)
}

func TestPasswordChangesAreLimitedAsLoginsAre(t *testing.T) {
	f := start(t)
	token := f.register("ana")
	for range perUser {
		f.call("POST", "/v1/password", `{"password":"wrong password","new_password":"12345678"}`, token).is(403, "")
	}
	f.call("POST", "/v1/password", credentialsOf("", password), token).is(429, messages.CodeRateLimited)
	f.login("ana", password).is(429, messages.CodeRateLimited)
}

func TestDevices(t *testing.T) {
	f := start(t)
	token := f.register("ana")
	f.call("GET", "/v1/devices", "", token).is(200, "")
	f.device("ana", "old", "")
	f.wait(time.Second)
	f.device("ana", "new", token)
	f.device("ana", "a/b c", "")
	got := f.call("GET", "/v1/devices", "", token).is(200, "").w.Body.String()
	want := `{"devices":[` +
		`{"id":"a/b c","client":"test/1","created_at":1,"last_seen":1893553446678},` +
		`{"id":"new","client":"test/1","created_at":1,"last_seen":1893553446678},` +
		`{"id":"old","client":"test/1","created_at":1,"last_seen":1893553445678}]}` + "\n"
	if got != want {
		t.Fatalf("got  %swant %s", got, want)
	}
	f.call("DELETE", "/v1/devices/a%2Fb%20c", "", token).is(204, "")
	if len(f.store.devices["ana"]) != 2 {
		t.Fatal("it is still there")
	}
}

func TestNoDevicesIsAnEmptyList(t *testing.T) {
	f := start(t)
	a := f.call("GET", "/v1/devices", "", f.register("ana")).is(200, "")
	if a.w.Body.String() != `{"devices":[]}`+"\n" {
		t.Fatalf("got %s", a.w.Body)
	}
}

func TestSignOutOfOneDevice(t *testing.T) {
	f := start(t)
	mine, other := f.register("ana"), f.login("ana", password).token()
	f.device("ana", "mine", mine)
	f.device("ana", "other", other)
	f.call("DELETE", "/v1/devices/nobodys", "", mine).is(404, messages.CodeNotFound)
	f.call("DELETE", "/v1/devices/other", "", mine).is(204, "")
	if !f.valid(mine) || f.valid(other) {
		t.Fatal("the other's token goes, and only that")
	}
	if got := strings.Join(f.signOuts, " "); got != "ana/other/"+reasonSignedOut {
		t.Fatalf("signed out: %s", got)
	}
	if len(f.store.forgotten) != 1 || f.store.forgotten[0].Incarnation != uint64(len("other")) {
		t.Fatalf("forgotten: %v", f.store.forgotten)
	}
	f.call("DELETE", "/v1/devices/other", "", mine).is(404, messages.CodeNotFound)
}

func TestADeviceOfAnotherUserIsNotFound(t *testing.T) {
	f := start(t)
	ana, bo := f.register("ana"), f.register("bo")
	f.device("bo", "phone", bo)
	f.call("DELETE", "/v1/devices/phone", "", ana).is(404, messages.CodeNotFound)
	if !f.valid(bo) || len(f.signOuts) != 0 {
		t.Fatal("bo was signed out")
	}
}

func TestSignOutOfAll(t *testing.T) {
	f := start(t)
	used, unused := f.register("ana"), f.login("ana", password).token()
	bo := f.register("bo")
	f.device("ana", "phone", used)
	f.call("DELETE", "/v1/devices/all", "", used).is(204, "")
	if f.valid(used) || f.valid(unused) || !f.valid(bo) {
		t.Fatal("all of ana's tokens go, and only they")
	}
	if got := f.signOuts[len(f.signOuts)-1]; got != "ana//"+reasonSignedOut {
		t.Fatalf("signed out: %v", f.signOuts)
	}
	if !f.valid(f.login("ana", password).is(200, "").token()) {
		t.Fatal("a new token does not count")
	}
}

func TestDeleteAccount(t *testing.T) {
	f := start(t)
	token := f.register("ana")
	f.device("ana", "phone", token)
	f.call("DELETE", "/v1/account", "", token).is(204, "")
	if f.valid(token) {
		t.Fatal("its token is valid")
	}
	f.login("ana", password).is(401, messages.CodeUnauthenticated)
	f.call("POST", "/v1/users", credentialsOf("ana", password)).is(409, messages.CodeConflict)
	if err := f.SetPassword(context.Background(), "ana", password); messages.FailureOf(err).Code != messages.CodeNotFound {
		t.Fatalf("an operator brought it back: %v", err)
	}
	if a := f.store.accounts["ana"]; !a.Deleted || a.Password != "" || len(f.store.devices["ana"]) != 0 {
		t.Fatalf("left: %+v", a)
	}
	if len(f.deleted) != 1 || f.signOuts[len(f.signOuts)-1] != "ana//"+reasonDeleted {
		t.Fatalf("hooks: %v %v", f.deleted, f.signOuts)
	}
}

func TestDeletingOutlivesItsRequest(t *testing.T) {
	f := start(t)
	f.register("ana")
	ctx, cancel := context.WithCancel(context.Background())
	if err := f.Delete(ctx, "ana"); err != nil {
		t.Fatal(err)
	}
	cancel()
	if f.deleted[0].Err() != nil {
		t.Fatal("the hook's context ended with the request")
	}
}

func TestAStoreThatIsDown(t *testing.T) {
	f := start(t)
	token := f.register("ana")
	f.store.fail(persistence.ErrUnavailable)
	f.login("ana", password).is(503, messages.CodeUnavailable)
	f.call("POST", "/v1/users", credentialsOf("bo", password)).is(503, messages.CodeUnavailable)
	f.call("GET", "/v1/devices", "", token).is(503, messages.CodeUnavailable)
	f.store.fail(errors.New("bad sector 77"))
	a := f.login("ana", password).is(500, messages.CodeInternal)
	if strings.Contains(a.w.Body.String(), "77") || !strings.Contains(f.log.String(), "77") {
		t.Fatalf("the text belongs into the log alone: %s", a.w.Body)
	}
}

func TestOperatorsCalls(t *testing.T) {
	f := start(t)
	ctx := context.Background()
	token := f.register("ana")
	for _, err := range []error{f.Disconnect(ctx, "nobody"), f.SetDisabled(ctx, "nobody", true), f.SetPassword(ctx, "nobody", password)} {
		if messages.FailureOf(err).Code != messages.CodeNotFound {
			t.Fatalf("got %v", err)
		}
	}
	step := func(err error, valid bool, signOut string) {
		t.Helper()
		if err != nil || f.valid(token) != valid {
			t.Fatalf("%v, valid %v", err, !valid)
		}
		if got := f.signOuts[len(f.signOuts)-1]; got != "ana//"+signOut {
			t.Fatalf("signed out: %s", got)
		}
	}
	step(f.Disconnect(ctx, "ana"), true, reasonOperator)
	step(f.SetDisabled(ctx, "ana", true), false, reasonDisabled)
	step(f.SetDisabled(ctx, "ana", false), true, reasonDisabled)
	step(f.SetPassword(ctx, "ana", "another password"), false, reasonPassword)
	f.login("ana", "another password").is(200, "")
	all, err := f.List(ctx, "", 10)
	if err != nil || len(all) != 1 || all[0].Password != "" {
		t.Fatalf("got %+v, %v", all, err)
	}
}

func TestClientAddress(t *testing.T) {
	for _, c := range []struct {
		remote, forwarded string
		trust             bool
		want              string
	}{
		{"10.0.0.1:99", "1.2.3.4", false, "10.0.0.1"},
		{"10.0.0.1:99", "9.9.9.9, 1.2.3.4", true, "1.2.3.4"},
		{"10.0.0.1:99", "", true, "10.0.0.1"},
		{"10.0.0.1:99", "nonsense", true, "10.0.0.1"},
		{"[2001:db8::1:2:3:4]:99", "", false, "2001:db8::/64"},
		{"[::ffff:10.0.0.1]:99", "", false, "10.0.0.1"},
		{"[fe80::1%eth0]:99", "", false, "fe80::/64"},
		{"@", "", false, "@"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = c.remote
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		if got := ClientAddress(r, c.trust); got != c.want {
			t.Errorf("%+v: got %q", c, got)
		}
	}
}

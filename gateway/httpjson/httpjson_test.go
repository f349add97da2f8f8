package httpjson_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/troupe-chat/troupe/gateway/httpjson"
	"github.com/troupe-chat/troupe/messages"
)

type body struct {
	User string `json:"user"`
}

func read(s string) (body, error) {
	var b body
	r := httptest.NewRequest("POST", "/", strings.NewReader(s))
	err := httpjson.Read(httptest.NewRecorder(), r, &b)
	return b, err
}

func TestReadTakesAnObjectAndIgnoresUnknownFields(t *testing.T) {
	b, err := read(` {"user":"ana","later":{"x":[1]}}`)
	if err != nil || b.User != "ana" {
		t.Fatalf("got %+v, %v", b, err)
	}
}

func TestReadRefuses(t *testing.T) {
	for name, c := range map[string]struct{ body, code string }{
		"empty":       {"", messages.CodeInvalid},
		"not JSON":    {"user=ana", messages.CodeInvalid},
		"array":       {`[]`, messages.CodeInvalid},
		"null":        {`null`, messages.CodeInvalid},
		"wrong type":  {`{"user":1}`, messages.CodeInvalid},
		"trailing":    {`{"user":"ana"} {}`, messages.CodeInvalid},
		"not UTF-8":   {"{\"user\":\"\xff\"}", messages.CodeInvalid},
		"cut off":     {`{"user":"an`, messages.CodeInvalid},
		"a byte over": {`{"user":"` + strings.Repeat("a", httpjson.MaxBody) + `"}`, messages.CodeTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := read(c.body)
			if f := messages.FailureOf(err); err == nil || f.Code != c.code {
				t.Fatalf("got %v, want %s", err, c.code)
			}
		})
	}
}

func TestReadNeverRepeatsTheBody(t *testing.T) {
	_, err := read(`{"user": 12345678, "password": "hunter2hunter2"}`)
	if err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "12345678") {
		t.Fatalf("got %v", err)
	}
}

func TestWriteErrorKeepsInternalTextHere(t *testing.T) {
	w := httptest.NewRecorder()
	httpjson.WriteError(w, errors.New("disk /dev/sdz is on fire"))
	if w.Code != 500 || strings.Contains(w.Body.String(), "sdz") {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
}

func TestWriteErrorTellsWhenToRetry(t *testing.T) {
	w := httptest.NewRecorder()
	httpjson.WriteError(w, messages.Later(messages.CodeRateLimited, 1500*time.Millisecond, "wait"))
	want := `{"error":{"code":"rate_limited","message":"wait","retry_after_ms":1500}}` + "\n"
	if w.Code != 429 || w.Body.String() != want || w.Header().Get("Retry-After") != "2" {
		t.Fatalf("got %d %q %v", w.Code, w.Body, w.Header())
	}
	if w.Header().Get("Cache-Control") != "no-store" {
		t.Fatal("the answer may be cached")
	}
}

func TestMethods(t *testing.T) {
	ok := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { httpjson.NoContent(w) })
	m := httpjson.Methods{"GET": ok, "DELETE": ok}
	for method, want := range map[string]int{"GET": 204, "HEAD": 204, "DELETE": 204, "POST": 405, "BREW": 405} {
		w := httptest.NewRecorder()
		m.ServeHTTP(w, httptest.NewRequest(method, "/x", nil))
		if w.Code != want {
			t.Errorf("%s: got %d, want %d", method, w.Code, want)
		}
		if want == 405 && w.Header().Get("Allow") != "DELETE, GET" {
			t.Errorf("%s: Allow is %q", method, w.Header().Get("Allow"))
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(`{"user":"ana"}`)
	f.Add("{\"user\":\"\xff\"}")
	f.Add(`{"user":{"user":[`)
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := read(s); err != nil {
			if f, ok := errors.AsType[*messages.Failure](err); !ok || f.Status() < 400 || f.Status() >= 500 {
				t.Fatalf("%q: %v", s, err)
			}
		}
	})
}

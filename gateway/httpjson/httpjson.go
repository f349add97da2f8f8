// Package httpjson is how Troupe's HTTP calls read and answer JSON: one body
// limit, one form of error, one way to route by method.
package httpjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/troupe-chat/troupe/messages"
)

// MaxBody is how many bytes a request's body may have.
const MaxBody = 64 << 10

// Read decodes the JSON object in the body of r into v. Fields that v does not
// have are ignored. Its errors are Failures: too_large or invalid.
func Read(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return messages.Fail(messages.CodeTooLarge, "the body has more than %d bytes", MaxBody)
	}
	if err != nil {
		return messages.Fail(messages.CodeInvalid, "the body did not arrive whole; send it again")
	}
	// encoding/json would replace bytes that are not UTF-8: two passwords could
	// become one.
	if !utf8.Valid(body) || !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) {
		return messages.Fail(messages.CodeInvalid, "the body must be a JSON object in UTF-8")
	}
	if err := json.Unmarshal(body, v); err != nil {
		return messages.Fail(messages.CodeInvalid, "the body is not the JSON that this call takes%s", where(err))
	}
	return nil
}

// where names the field that did not fit, and nothing that the body holds.
func where(err error) string {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && e.Field != "" {
		return ": " + e.Field + " must be a " + e.Type.String()
	}
	return ""
}

// Write answers v as JSON. No answer of Troupe's is to be kept by a cache.
func Write(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		WriteError(w, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// An error here means that the client has gone.
	_, _ = w.Write(append(body, '\n'))
}

// NoContent answers 204.
func NoContent(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
}

type errorBody struct {
	Error failure `json:"error"`
}

type failure struct {
	Code         string `json:"code"`
	Message      string `json:"message"`
	RetryAfterMs int64  `json:"retry_after_ms,omitempty"`
}

// WriteError answers err with the status of its code. Only the text of a
// Failure reaches the client.
func WriteError(w http.ResponseWriter, err error) {
	f := messages.FailureOf(err)
	WriteStatus(w, f.Status(), f)
}

// WriteStatus answers f with a status that is not the one of its code.
func WriteStatus(w http.ResponseWriter, status int, f *messages.Failure) {
	p := f.Proto()
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	if f.RetryAfter > 0 {
		seconds := (f.RetryAfter + time.Second - 1) / time.Second
		w.Header().Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
	Write(w, status, errorBody{failure{p.Code, p.Message, p.RetryAfterMs}})
}

// Methods serves a path by method. Any other is answered 405 with Allow.
type Methods map[string]http.Handler

func (m Methods) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := m[r.Method]
	if h == nil && r.Method == http.MethodHead {
		h = m[http.MethodGet]
	}
	if h == nil {
		m.refuse(w, r)
		return
	}
	h.ServeHTTP(w, r)
}

func (m Methods) refuse(w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for method := range m {
		allowed = append(allowed, method)
	}
	slices.Sort(allowed)
	allow := strings.Join(allowed, ", ")
	w.Header().Set("Allow", allow)
	WriteStatus(w, http.StatusMethodNotAllowed,
		messages.Fail(messages.CodeInvalid, "%s takes %s", r.URL.Path, allow))
}

// NotFound answers any request for a path that nothing serves.
func NotFound(w http.ResponseWriter, r *http.Request) {
	WriteError(w, messages.Fail(messages.CodeNotFound, "nothing is served at this path"))
}

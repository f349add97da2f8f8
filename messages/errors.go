package messages

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Error codes, as clients see them.
const (
	CodeUnauthenticated = "unauthenticated"
	CodeForbidden       = "forbidden"
	CodeNotFound        = "not_found"
	CodeInvalid         = "invalid"
	CodeTooLarge        = "too_large"
	CodeConflict        = "conflict"
	CodeRateLimited     = "rate_limited"
	CodeOverloaded      = "overloaded"
	CodeUnavailable     = "unavailable"
	CodeInternal        = "internal"
)

// Failure is an error that a user is told of. Its text says what to do.
type Failure struct {
	Code       string
	Message    string
	RetryAfter time.Duration
}

func (f *Failure) Error() string { return f.Code + ": " + f.Message }

// Fail makes a Failure.
func Fail(code, format string, args ...any) *Failure {
	return &Failure{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Later makes a Failure that says when to try again.
func Later(code string, after time.Duration, message string) *Failure {
	return &Failure{Code: code, Message: message, RetryAfter: after}
}

// RateLimited makes the Failure of a command that is over its rate for another
// retryAfter ms.
func RateLimited(retryAfter int64) *Failure {
	return Later(CodeRateLimited, time.Duration(retryAfter)*time.Millisecond, "too many of these; wait and try again")
}

// FailureOf returns the Failure in err's chain. Any other error is internal:
// its text stays on the server.
func FailureOf(err error) *Failure {
	if f, ok := errors.AsType[*Failure](err); ok {
		return f
	}
	return Fail(CodeInternal, "something went wrong here; try again")
}

// Frame returns f as an answer to the command re.
func (f *Failure) Frame(re uint32) *ServerFrame {
	return &ServerFrame{Re: re, Event: &ServerFrame_Error{Error: f.Proto()}}
}

// Proto returns f as the wire's Error. A wait is rounded up to a millisecond:
// a client that waits exactly so long is never early.
func (f *Failure) Proto() *Error {
	ms := (f.RetryAfter + time.Millisecond - 1) / time.Millisecond
	return &Error{Code: f.Code, Message: f.Message, RetryAfterMs: int64(ms)}
}

// Status returns the HTTP status of f.
func (f *Failure) Status() int {
	switch f.Code {
	case CodeUnauthenticated:
		return http.StatusUnauthorized
	case CodeForbidden:
		return http.StatusForbidden
	case CodeNotFound:
		return http.StatusNotFound
	case CodeInvalid:
		return http.StatusBadRequest
	case CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case CodeConflict:
		return http.StatusConflict
	case CodeRateLimited:
		return http.StatusTooManyRequests
	case CodeOverloaded, CodeUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// Close codes: why the server ended a WebSocket, and so whether to come back.
const (
	CloseRestarting      = 1012 // yes, after reconnect_after_ms
	CloseOverloaded      = 1013 // later
	CloseBadFrame        = 4400 // no
	CloseUnauthenticated = 4401 // with a new token
	CloseTimeout         = 4408 // yes
	CloseReplaced        = 4409 // no: the same device connected elsewhere
	CloseTooManyDevices  = 4410 // no
	CloseTooLarge        = 4413 // no
	CloseRateLimited     = 4429 // later
)

// Return tells a client what a close code asks of it.
type Return int

// What a client does after a close.
const (
	ReturnNow      Return = iota // reconnect, with jitter
	ReturnLater                  // reconnect after a longer wait
	ReturnNewToken               // get a new token first
	ReturnNever                  // stay away until the user acts
)

// ReturnAfter is the one table of close codes for clients. A code that is not
// the server's own, a lost connection among them, means: come back.
func ReturnAfter(code int) Return {
	switch code {
	case CloseBadFrame, CloseReplaced, CloseTooManyDevices, CloseTooLarge:
		return ReturnNever
	case CloseUnauthenticated:
		return ReturnNewToken
	case CloseRateLimited, CloseOverloaded:
		return ReturnLater
	}
	return ReturnNow
}

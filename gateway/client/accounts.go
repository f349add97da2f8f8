package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/troupe-chat/troupe/messages"
)

// Accounts are the calls of a server's HTTP interface. Its methods may be
// called concurrently; what the server refuses is a *messages.Failure.
type Accounts struct {
	Server string       // as in Options
	HTTP   *http.Client // nil: one that waits at most 30 seconds
}

// Token lets a user in.
type Token struct {
	User      messages.UserID
	Token     string
	ExpiresAt time.Time // zero where the server did not say
}

// Device is one of the user's devices.
type Device struct {
	ID        messages.DeviceID
	Client    string // name/version, as it said in hello
	CreatedAt time.Time
	LastSeen  time.Time
	Connected bool
}

// EveryDevice is the argument of SignOut that means all of them.
const EveryDevice messages.DeviceID = "all"

const maxAnswer = 1 << 20

var patient = &http.Client{Timeout: 30 * time.Second}

// Register makes an account. A name that is taken is a conflict.
func (a Accounts) Register(ctx context.Context, user messages.UserID, password string) (Token, error) {
	return a.token(ctx, "v1/users", user, password)
}

// Login returns a token; a wrong password or name is unauthenticated.
func (a Accounts) Login(ctx context.Context, user messages.UserID, password string) (Token, error) {
	return a.token(ctx, "v1/tokens", user, password)
}

// Source returns a function for Options.Token that logs in.
func (a Accounts) Source(user messages.UserID, password string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		t, err := a.Login(ctx, user, password)
		return t.Token, err
	}
}

func (a Accounts) token(ctx context.Context, path string, user messages.UserID, password string) (Token, error) {
	var answer struct {
		Token     string `json:"token"`
		ExpiresAt int64  `json:"expires_at"`
	}
	request := map[string]any{"user": user, "password": password}
	if err := a.do(ctx, http.MethodPost, path, "", request, &answer); err != nil {
		return Token{}, err
	}
	return Token{User: user, Token: answer.Token, ExpiresAt: moment(answer.ExpiresAt)}, nil
}

// ChangePassword replaces the password.
func (a Accounts) ChangePassword(ctx context.Context, token, password, newPassword string) error {
	request := map[string]any{"password": password, "new_password": newPassword}
	return a.do(ctx, http.MethodPost, "v1/password", token, request, nil)
}

// Devices lists the user's devices.
func (a Accounts) Devices(ctx context.Context, token string) ([]Device, error) {
	var answer struct {
		Devices []struct {
			ID        messages.DeviceID `json:"id"`
			Client    string            `json:"client"`
			CreatedAt int64             `json:"created_at"`
			LastSeen  int64             `json:"last_seen"`
			Connected bool              `json:"connected"`
		} `json:"devices"`
	}
	if err := a.do(ctx, http.MethodGet, "v1/devices", token, nil, &answer); err != nil {
		return nil, err
	}
	devices := make([]Device, len(answer.Devices))
	for i, d := range answer.Devices {
		devices[i] = Device{
			ID: d.ID, Client: d.Client, Connected: d.Connected,
			CreatedAt: moment(d.CreatedAt), LastSeen: moment(d.LastSeen),
		}
	}
	return devices, nil
}

// SignOut ends a device's connections and its tokens.
func (a Accounts) SignOut(ctx context.Context, token string, device messages.DeviceID) error {
	return a.do(ctx, http.MethodDelete, "v1/devices/"+url.PathEscape(string(device)), token, nil, nil)
}

// DeleteAccount deletes the account that the token is for. It cannot be undone.
func (a Accounts) DeleteAccount(ctx context.Context, token string) error {
	return a.do(ctx, http.MethodDelete, "v1/account", token, nil, nil)
}

// do makes one call; request and answer are JSON where they are not nil.
func (a Accounts) do(ctx context.Context, method, path, token string, request, answer any) error {
	r, err := a.request(ctx, method, path, token, request)
	if err != nil {
		return err
	}
	response, err := cmp.Or(a.HTTP, patient).Do(r)
	if err != nil {
		return fmt.Errorf("calling the server: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("reading the server's answer: %w", err)
	}
	if response.StatusCode/100 != 2 {
		return refusal(response, body)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("reading the server's answer to %s: %w", path, err)
	}
	return nil
}

func (a Accounts) request(ctx context.Context, method, path, token string, request any) (*http.Request, error) {
	address, err := endpoint(a.Server, path, false)
	if err != nil {
		return nil, err
	}
	var body io.Reader
	if request != nil {
		b, err := json.Marshal(request)
		if err != nil {
			return nil, fmt.Errorf("encoding a request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, fmt.Errorf("making a request: %w", err)
	}
	if request != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r, nil
}

// refusal returns the failure that an answer tells of, in its body or, from
// something between the server and here, by its status only.
func refusal(response *http.Response, body []byte) error {
	var answer struct {
		Error struct {
			Code         string `json:"code"`
			Message      string `json:"message"`
			RetryAfterMs int64  `json:"retry_after_ms"`
		} `json:"error"`
	}
	wait := time.Duration(0)
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil {
		wait = time.Duration(seconds) * time.Second
	}
	if json.Unmarshal(body, &answer) != nil || answer.Error.Code == "" {
		return messages.Later(codeOf(response.StatusCode), wait, "the server answered "+response.Status)
	}
	if ms := answer.Error.RetryAfterMs; ms > 0 {
		wait = time.Duration(ms) * time.Millisecond
	}
	return messages.Later(answer.Error.Code, wait, answer.Error.Message)
}

func codeOf(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return messages.CodeUnauthenticated
	case http.StatusForbidden:
		return messages.CodeForbidden
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return messages.CodeNotFound
	case http.StatusRequestEntityTooLarge:
		return messages.CodeTooLarge
	case http.StatusTooManyRequests:
		return messages.CodeRateLimited
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return messages.CodeUnavailable
	}
	return messages.CodeInternal
}

func moment(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

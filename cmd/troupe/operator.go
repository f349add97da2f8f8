package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// operator talks to a node's operators' port.
type operator struct {
	base  string
	token string
	http  http.Client
}

func newOperator(c Config) (*operator, error) {
	token, err := secret("admin-token-file", c.AdminFile)
	if err != nil {
		return nil, err
	}
	return &operator{base: "http://" + reachable(c.Admin), token: token, http: http.Client{Timeout: 30 * time.Second}}, nil
}

// reachable turns an address to listen on into one to call.
func reachable(hostPort string) string {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return hostPort
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func (o *operator) get(ctx context.Context, path string, answer any) error {
	return o.call(ctx, http.MethodGet, path, nil, answer)
}

func (o *operator) post(ctx context.Context, path string, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encoding the call: %w", err)
	}
	return o.call(ctx, http.MethodPost, path, data, nil)
}

func (o *operator) call(ctx context.Context, method, path string, body []byte, answer any) error {
	r, err := http.NewRequestWithContext(ctx, method, o.base+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("making the call: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	if o.token != "" {
		r.Header.Set("Authorization", "Bearer "+o.token)
	}
	w, err := o.http.Do(r)
	if err != nil {
		return fmt.Errorf("no node answers at %s; is it running, and is --admin right? (%w)", o.base, cause(err))
	}
	defer w.Body.Close()
	if w.StatusCode >= 300 {
		return refusal(w)
	}
	if answer == nil {
		return nil
	}
	if err := json.NewDecoder(w.Body).Decode(answer); err != nil {
		return fmt.Errorf("reading the answer of %s: %w", o.base, err)
	}
	return nil
}

// cause drops the URL that net/http puts around an error.
func cause(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}

func refusal(w *http.Response) error {
	var body struct {
		Error struct{ Code, Message string }
	}
	data, _ := io.ReadAll(io.LimitReader(w.Body, 64<<10))
	if json.Unmarshal(data, &body) != nil || body.Error.Code == "" {
		return fmt.Errorf("the node answers %s; is --admin its operators' port?", w.Status)
	}
	return fmt.Errorf("%s: %s", body.Error.Code, body.Error.Message)
}

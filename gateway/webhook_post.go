package gateway

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"github.com/troupe-chat/troupe/messages"
)

const (
	postEntries  = 100 // in one post
	postTimeout  = 10 * time.Second
	maxRedirects = 3
)

// post is one call of the URL: entries of one or more appends. Its id stays the
// same however often it is tried.
type post struct {
	id      string
	entries []hookEntry
	of      []*waking
}

func newPost() *post {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	return &post{id: hex.EncodeToString(id[:])}
}

func (p *post) add(w *waking, e hookEntry, u messages.UserID) {
	if n := len(p.of); n == 0 || p.of[n-1] != w {
		w.left.Add(1)
		p.of = append(p.of, w)
	}
	e.User = u
	p.entries = append(p.entries, e)
}

func (p *post) body() []byte {
	body, err := json.Marshal(struct {
		ID      string      `json:"id"`
		Entries []hookEntry `json:"entries"`
	}{p.id, p.entries})
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	return body
}

func (h *Hook) send() {
	for {
		select {
		case <-h.ctx.Done():
			return
		case p := <-h.posts:
			h.deliver(p)
		}
	}
}

// deliver posts p until it is taken, or the hook is closed.
func (h *Hook) deliver(p *post) {
	body := p.body()
	for try := 0; ; try++ {
		err := h.attempt(p.id, body)
		if err == nil {
			break
		}
		if h.ctx.Err() != nil {
			return
		}
		pause := h.pause(try)
		h.cfg.Logger.Warn("the webhook did not take a post", "delivery", p.id, "try", try+1, "next", pause, "error", err)
		if !h.sleep(pause) {
			return
		}
	}
	for _, w := range p.of {
		h.part(w)
	}
}

// pause returns how long to wait after so many failures before the last one:
// twice as long each time, less up to a half by chance.
func (h *Hook) pause(failures int) time.Duration {
	pause := h.pace.most
	if doubled := h.pace.least << min(failures, 30); doubled < pause {
		pause = doubled
	}
	return pause - mathrand.N(pause/2+1)
}

// attempt makes one call. Its errors do not tell the URL, which may hold a
// token.
func (h *Hook) attempt(id string, body []byte) error {
	req, err := http.NewRequestWithContext(h.ctx, http.MethodPost, h.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return errors.New("the URL of the webhook is not valid")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Troupe-Delivery", id)
	req.Header.Set("Troupe-Signature", signature(h.cfg.Secret, h.cfg.Now(), body))
	res, err := h.client.Do(req)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		err = failed.Err
	}
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 4<<10) // so that the connection is used again
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("it answered with status %d", res.StatusCode)
	}
	return nil
}

// signature is the value of Troupe-Signature. Who knows the secret computes v1
// again from t and the body, and refuses what is too old.
func signature(secret []byte, now time.Time, body []byte) string {
	t := fmt.Sprint(now.Unix())
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(t + "."))
	mac.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

// hookClient makes calls that go where they were sent: a redirect is followed
// only within the host and as the same POST. Any other is an answer like any
// that is not 2xx.
func hookClient(posts int) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxConnsPerHost, transport.MaxIdleConnsPerHost = posts, posts
	return &http.Client{
		Transport: transport,
		Timeout:   postTimeout,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			first := via[0].URL
			same := req.URL.Host == first.Host && req.URL.Scheme == first.Scheme && req.Method == http.MethodPost
			if !same || len(via) > maxRedirects {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
}

//go:build linux

package load

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/troupe-chat/troupe/messages"
)

// Config says what a run does. Zero values of the second half have defaults.
type Config struct {
	URL    string // of the WebSocket: ws://host:port/v1/ws
	Tokens Tokens
	Prefix string // of the names of this run's users: a user id but for its end

	Pairs     int // direct conversations, both of whose sides send
	Groups    int
	GroupSize int
	Idle      int // connections that only stay

	Inflight int     // closed loop: unanswered sends of each sender of a pair, and of each whole group
	Rate     float64 // open loop: sends a second in all; 0: closed loop

	Duration time.Duration // of the measured window
	Warmup   time.Duration // before it
	Settle   time.Duration // at most, for what is under way at its end

	Body      int           // bytes of a text
	AckEvery  int           // entries after which a device acknowledges
	AckWithin time.Duration // and at the latest
	Loops     int           // event loops
	Sources   int           // loopback addresses to connect from
	Dials     int           // connects at once

	Server Process // to watch
	Log    *slog.Logger
}

// prepare fills in the defaults and returns what is wrong.
func (c *Config) prepare() error {
	setDefault(&c.Prefix, "load")
	setDefault(&c.Inflight, 1)
	setDefault(&c.Settle, 10*time.Second)
	setDefault(&c.Body, 128)
	setDefault(&c.AckEvery, 32)
	setDefault(&c.AckWithin, 100*time.Millisecond)
	setDefault(&c.Loops, 2)
	setDefault(&c.Sources, 16)
	setDefault(&c.Dials, 64)
	return c.validate()
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c *Config) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.URL != "", "URL: a server is needed")
	check(c.Tokens != nil, "Tokens: a source of tokens is needed")
	check(min(c.Pairs, c.Groups, c.Idle) >= 0, "Pairs %d, Groups %d, Idle %d: none may be negative", c.Pairs, c.Groups, c.Idle)
	check(c.Pairs+c.Groups+c.Idle > 0, "Pairs, Groups, Idle: there is nothing to do")
	check(c.Groups == 0 || c.GroupSize >= 2 && c.GroupSize <= messages.MaxMembers, "GroupSize %d: 2 to %d", c.GroupSize, messages.MaxMembers)
	check(c.Inflight > 0, "Inflight %d: at least 1", c.Inflight)
	check(c.Rate >= 0, "Rate %g: not negative", c.Rate)
	check(c.Duration > 0 && c.Warmup >= 0, "Duration %v, Warmup %v: a window is needed", c.Duration, c.Warmup)
	check(min(c.Body, c.AckEvery, c.Loops, c.Sources, c.Dials) > 0, "Body, AckEvery, Loops, Sources, Dials: at least 1 each")
	check(c.Sources <= 200, "Sources %d: at most 200", c.Sources)
	return errors.Join(errs...)
}

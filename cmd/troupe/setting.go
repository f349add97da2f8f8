package main

import (
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/troupe-chat/troupe/messages"
)

// rule returns what a value must be, or "" where it is.
type rule func(value string) (must string)

func text(name, takes, def, help string, rule rule, field func(*Config) *string) setting {
	return setting{name: name, takes: takes, def: def, help: help, set: func(c *Config, v string) string {
		*field(c) = v
		return rule(v)
	}}
}

func list(name, takes, def, help string, each rule, field func(*Config) *[]string) setting {
	return setting{name: name, takes: takes, def: def, help: help, set: func(c *Config, v string) string {
		*field(c) = nil
		for item := range strings.SplitSeq(v, ",") {
			item = strings.TrimSpace(item)
			if item == "" {
				continue
			}
			if must := each(item); must != "" {
				return must
			}
			*field(c) = append(*field(c), item)
		}
		return ""
	}}
}

func onOff(name, def, help string, field func(*Config) *bool) setting {
	return setting{name: name, takes: "on|off", def: def, help: help, set: func(c *Config, v string) string {
		on := v == "on" || v == "true"
		*field(c) = on
		if !on && v != "off" && v != "false" {
			return "must be on or off"
		}
		return ""
	}}
}

// alone lets a flag that is on or off be given without a value: on.
func alone(s setting) setting {
	s.alone = "on"
	return s
}

func span(name, def, help string, least time.Duration, field func(*Config) *time.Duration) setting {
	return setting{name: name, takes: "DURATION", def: def, help: help, set: func(c *Config, v string) string {
		d, err := time.ParseDuration(v)
		if err != nil || d < least {
			return fmt.Sprintf("must be a duration of at least %v, such as 90s or 24h", least)
		}
		*field(c) = d
		return ""
	}}
}

func number[T uint32 | int64](name, help string, least, most T, field func(*messages.Limits) *T) setting {
	def := strconv.FormatInt(int64(*field(messages.DefaultLimits())), 10)
	return setting{name: name, takes: "N", def: def, help: help, set: func(c *Config, v string) string {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < int64(least) || n > int64(most) {
			return fmt.Sprintf("must be a number from %d to %d", least, most)
		}
		*field(c.Limits) = T(n)
		return ""
	}}
}

func level(name, def, help string, field func(*Config) *slog.Level) setting {
	return setting{name: name, takes: "LEVEL", def: def, help: help, set: func(c *Config, v string) string {
		levels := []string{"debug", "info", "warn", "error"}
		if !slices.Contains(levels, v) {
			return "must be debug, info, warn or error"
		}
		if field(c).UnmarshalText([]byte(v)) != nil {
			return "must be a level"
		}
		return ""
	}}
}

func anything(string) string { return "" }

func notEmpty(v string) string {
	if v == "" {
		return "must not be empty"
	}
	return ""
}

func optional(r rule) rule {
	return func(v string) string {
		if v == "" {
			return ""
		}
		return r(v)
	}
}

func oneOf(values ...string) rule {
	return func(v string) string {
		if slices.Contains(values, v) {
			return ""
		}
		return "must be " + strings.Join(values, " or ")
	}
}

func nodeName(v string) string {
	if messages.UserID(v).Valid() {
		return ""
	}
	return "must be 1 to 64 of a-z 0-9 . _ -"
}

func hostPort(v string) string {
	_, port, err := net.SplitHostPort(v)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return "must be HOST:PORT, such as 127.0.0.1:7070"
	}
	return ""
}

func webURL(v string) string {
	u, err := url.Parse(v)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "must be an http or https URL"
	}
	return ""
}

func origin(v string) string {
	u, err := url.Parse(v)
	if v != "*" && (webURL(v) != "" || err != nil || u.Scheme+"://"+u.Host != v) {
		return "must be origins such as https://chat.example, without a path, or *"
	}
	return ""
}

// place takes URLs of these forms: "x:" stands alone, "x:DIR" needs a
// directory, and "x://" something behind it.
func place(forms ...string) rule {
	return func(v string) string {
		for _, form := range forms {
			if fits(v, form) {
				return ""
			}
		}
		return "must be one of " + strings.Join(forms, " ")
	}
}

func fits(v, form string) bool {
	if strings.HasSuffix(form, "DIR") {
		rest, ok := strings.CutPrefix(v, strings.TrimSuffix(form, "DIR"))
		return ok && rest != "" && !strings.HasPrefix(rest, "//")
	}
	if strings.HasSuffix(form, "//") {
		rest, ok := strings.CutPrefix(v, form)
		return ok && rest != ""
	}
	return v == form
}

// redacted is v, a URL or nearly one, as it may be shown: without its user, its
// password and what it asks. A directory of the machine has none of them.
func redacted(v string) string {
	if strings.HasPrefix(v, "pebble:") || strings.HasPrefix(v, "dir:") {
		return v
	}
	if at := strings.LastIndexByte(v, '@'); at >= 0 {
		scheme, _, _ := strings.Cut(v[:at], ":")
		v = scheme + "://REDACTED" + v[at:]
	}
	if before, _, ok := strings.Cut(v, "?"); ok {
		v = before + "?REDACTED"
	}
	return v
}

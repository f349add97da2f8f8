package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// result is what a command left behind.
type result struct {
	code     int
	out, err string
}

// troupe runs a command line as main does.
func troupe(t *testing.T, in string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	e := env{in: strings.NewReader(in), out: &out, err: &errs, getenv: func(string) string { return "" }}
	code := run(t.Context(), e, args)
	return result{code, out.String(), errs.String()}
}

func TestCommandLines(t *testing.T) {
	for _, c := range []struct {
		args     string
		code     int
		out, err string // what the streams must hold
	}{
		{"", 2, "", "Usage: troupe COMMAND"},
		{"help", 0, "Usage: troupe COMMAND", ""},
		{"--help", 0, "Usage: troupe COMMAND", ""},
		{"help serve", 0, "--listen HOST:PORT", ""},
		{"serve --help", 0, "--listen HOST:PORT", ""},
		{"users -h", 0, "--password-file", ""},
		{"help nothing", 2, "", `there is no command "nothing"`},
		{"nothing", 2, "", `there is no command "nothing"`},
		{"version", 0, "troupe ", ""},
		{"serve --listen x", 2, "", "troupe serve: listen"},
		{"serve --store cql://h/k", 2, "", "troupe serve: unavailable: --store"},
		{"serve --nothing", 2, "", "--nothing"},
		{"config --store x", 2, "", "troupe config: store"},
		{"top", 2, "", "troupe top: unavailable: not built in this version\n"},
	} {
		r := troupe(t, "", strings.Fields(c.args)...)
		if r.code != c.code || !strings.Contains(r.out, c.out) || !strings.Contains(r.err, c.err) {
			t.Errorf("troupe %s: got %+v", c.args, r)
		}
		if c.code == 2 && c.args != "" && strings.Count(r.err, "\n") != 1 {
			t.Errorf("troupe %s: more than one line: %s", c.args, r.err)
		}
	}
}

func TestHelpShowsEveryCommandAndEverySetting(t *testing.T) {
	all := troupe(t, "", "help").out
	for _, name := range strings.Fields("serve chat config verify users top members actors where inspect drain load why migrate backup restore doctor certs plan version help") {
		if c, ok := find(name); !ok || !strings.Contains(all, "  "+name+" ") || c.help == "" {
			t.Errorf("%s is missing", name)
		}
	}
	serve := troupe(t, "", "help", "serve").out
	for _, s := range settings {
		if !strings.Contains(serve, "--"+s.name+" "+s.takes) || s.help == "" {
			t.Errorf("--%s is missing", s.name)
		}
	}
}

func TestAFailureIsNotAMistake(t *testing.T) {
	var errs bytes.Buffer
	c := command{name: "x"}
	if code := report(env{err: &errs}, c, context.DeadlineExceeded); code != 1 {
		t.Errorf("a failure exits with %d", code)
	}
	if code := report(env{err: &errs}, c, mistake("two\nlines")); code != 2 || strings.Count(errs.String(), "\n") != 2 {
		t.Errorf("a mistake exits with %d: %s", code, &errs)
	}
}

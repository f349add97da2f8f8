package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// startError is something that whoever started the command must put right:
// exit code 2. Its text is one line that says what is wrong and what to do.
type startError struct{ text string }

func (e *startError) Error() string { return e.text }

// mistake makes a startError. A new line in what it tells becomes a space.
func mistake(format string, args ...any) error {
	return &startError{strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " ")}
}

// contradictions finds settings that cannot be in force together.
func (c Config) contradictions() error {
	switch {
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return mistake("tls-cert and tls-key go together: give both or neither")
	case c.Issuer != "" && (c.JWKS == "" || c.Audience == ""), c.Issuer == "" && (c.JWKS != "" || c.Audience != ""):
		return mistake("issuer, jwks and audience go together: give all or none")
	case c.Hook != "" && c.HookSecret == "":
		return mistake("hook needs hook-secret: a file with the secret that signs its calls")
	case c.Limits.TextBytes >= c.Limits.MessageBytes:
		return mistake("limit-text-bytes must be below limit-message-bytes: a text travels in a message")
	case c.AdminFile == "" && !loopback(c.Admin):
		return mistake("admin %s is not loopback: give --admin-token-file, a file with the operators' token", c.Admin)
	case c.many() && !loopback(c.Actors):
		return mistake("actors %s is not loopback: nodes need TLS between them, which this version does not have; listen on 127.0.0.1", c.Actors)
	}
	return c.shared()
}

// many reports whether there may be several nodes.
func (c Config) many() bool { return c.Cluster != "single:" }

// shared refuses to let several nodes keep apart what they must share.
func (c Config) shared() error {
	if !c.many() {
		return nil
	}
	for _, s := range []struct{ name, value, embedded, instead string }{
		{"store", c.Store, "pebble:", "cql://host,host/keyspace"},
		{"presence", c.Presence, "memory:", "redis://host"},
		{"media", c.Media, "dir:", "s3://KEY:SECRET@HOST/BUCKET"},
	} {
		if strings.HasPrefix(s.value, s.embedded) {
			return mistake("%s %s is of one node alone: with --cluster %s use --%s %s", s.name, s.value, redacted(c.Cluster), s.name, s.instead)
		}
	}
	return nil
}

// unavailable refuses what may be configured but is not built yet.
func (c Config) unavailable() error {
	for _, s := range []struct{ name, value, built string }{
		{"store", c.Store, "pebble:"}, {"presence", c.Presence, "memory:"},
		{"media", c.Media, "dir:"}, {"cluster", c.Cluster, "single:"},
	} {
		if !strings.HasPrefix(s.value, s.built) {
			return mistake("unavailable: --%s %s is not built in this version; use %s", s.name, redacted(s.value), s.built)
		}
	}
	if c.Retain != 0 {
		return mistake("unavailable: --retain is not built in this version; leave it out and entries live for ever")
	}
	return nil
}

// loopback reports whether an address is reached from its own machine alone.
func loopback(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

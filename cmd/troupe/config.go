package main

import (
	"io"
	"log/slog"
	"math"
	"time"

	"github.com/troupe-chat/troupe/messages"
)

// Config is everything that a node is told. The table in settings is its only
// source: flags, variables, the file and the help text all come from there.
type Config struct {
	Data      string // directory of what is embedded
	Name      string // of the node, stable
	Listen    string // HOST:PORT for clients
	TLSCert   string // PEM files for Listen; both or neither
	TLSKey    string
	Origins   []string // of web pages that may connect, besides the server's own
	Admin     string   // HOST:PORT for operators
	AdminFile string   // holds the operators' token; empty: none
	Actors    string   // HOST:PORT for other nodes
	Advertise string   // HOST:PORT by which other nodes reach Actors; empty: Actors

	TrustProxy bool // take clients' addresses from X-Forwarded-For

	Store    string // pebble:DIR or cql://…
	Presence string // memory: or redis://…
	Media    string // dir:DIR or s3://…
	Cluster  string // single:, etcd://…, kubernetes: or static://…

	Retain     time.Duration // how long entries live; 0: for ever
	Hook       string        // URL to tell of entries that wait; empty: none
	HookSecret string        // file whose content signs those calls

	TokenKey     string // file of the Ed25519 keys that sign tokens
	MakeTokenKey bool   // TokenKey is the default: made at the first start
	Issuer       string // whose tokens are trusted instead; empty: none
	JWKS         string
	Audience     string
	Registration bool

	RateLimits bool             // whether rates are limited at all
	Limits     *messages.Limits // as configured, rates included

	Grace     time.Duration // to end within, once told to
	IdleAfter time.Duration // without a message, an activation ends
	LogLevel  slog.Level
	LogFormat string // text or json
}

// EffectiveLimits returns the limits in force: without rates where those are
// off.
func (c Config) EffectiveLimits() *messages.Limits {
	if c.RateLimits {
		return c.Limits
	}
	return messages.WithoutRates(c.Limits)
}

// Logger returns the logger that was configured, writing to w.
func (c Config) Logger(w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// setting is one thing that can be configured: the flag --name, the variable
// TROUPE_NAME and the key name of the YAML file.
type setting struct {
	name  string
	takes string // the kind of value, for people
	help  string
	def   string // DATA in it stands for the data directory
	alone string // the value of a flag that is given without one; empty: it needs one
	// set stores a value, or returns what such a value must be.
	set func(c *Config, value string) (must string)
}

// settings is the one table of what can be configured, in the order in which
// it is shown. The data directory comes first: defaults name it.
var settings = []setting{
	text("data", "DIR", "troupe-data", "where embedded things live", notEmpty, func(c *Config) *string { return &c.Data }),
	text("name", "NAME", "troupe-1", "the node's stable name", nodeName, func(c *Config) *string { return &c.Name }),
	text("listen", "HOST:PORT", "127.0.0.1:7070", "clients: HTTP and WebSocket", hostPort, func(c *Config) *string { return &c.Listen }),
	text("tls-cert", "FILE", "", "certificate for clients (PEM)", anything, func(c *Config) *string { return &c.TLSCert }),
	text("tls-key", "FILE", "", "its private key (PEM)", anything, func(c *Config) *string { return &c.TLSKey }),
	list("origins", "URL,URL", "", "web pages that may connect, besides the server's own; * for any", origin, func(c *Config) *[]string { return &c.Origins }),
	alone(onOff("trust-proxy", "off", "take clients' addresses from X-Forwarded-For", func(c *Config) *bool { return &c.TrustProxy })),
	text("admin", "HOST:PORT", "127.0.0.1:7071", "operators", hostPort, func(c *Config) *string { return &c.Admin }),
	text("admin-token-file", "FILE", "", "holds the operators' token, needed where --admin is not loopback", anything, func(c *Config) *string { return &c.AdminFile }),
	text("actors", "HOST:PORT", "127.0.0.1:7072", "actors between nodes", hostPort, func(c *Config) *string { return &c.Actors }),
	text("advertise", "HOST:PORT", "", "how other nodes reach --actors, where that differs", optional(hostPort), func(c *Config) *string { return &c.Advertise }),

	text("store", "URL", "pebble:DATA/store", "messages, conversations, cursors, accounts: pebble:DIR or cql://host,host/keyspace", place("pebble:DIR", "cql://"), func(c *Config) *string { return &c.Store }),
	text("presence", "URL", "memory:", "presence, rate limits and typing: memory: or redis://…", place("memory:", "redis://"), func(c *Config) *string { return &c.Presence }),
	text("media", "URL", "dir:DATA/media", "media bytes: dir:DIR or s3://KEY:SECRET@HOST/BUCKET", place("dir:DIR", "s3://"), func(c *Config) *string { return &c.Media }),
	text("cluster", "URL", "single:", "how nodes find each other: single:, etcd://host,host/PREFIX, kubernetes: or static://host:port,…", place("single:", "etcd://", "kubernetes:", "static://"), func(c *Config) *string { return &c.Cluster }),

	span("retain", "0s", "how long entries live; 0s: for ever", 0, func(c *Config) *time.Duration { return &c.Retain }),
	text("hook", "URL", "", "told when an entry waits for a user with nothing connected", optional(webURL), func(c *Config) *string { return &c.Hook }),
	text("hook-secret", "FILE", "", "holds the secret that signs those calls", anything, func(c *Config) *string { return &c.HookSecret }),

	text("token-key", "FILE", defaultTokenKey, "Ed25519 private keys (PEM) that sign tokens, shared by all nodes; the default is made at the first start", notEmpty, func(c *Config) *string { return &c.TokenKey }),
	text("issuer", "ISS", "", "trust this issuer's tokens, and have no local accounts", anything, func(c *Config) *string { return &c.Issuer }),
	text("jwks", "URL", "", "where the issuer's keys are: a URL or a file", anything, func(c *Config) *string { return &c.JWKS }),
	text("audience", "AUD", "", "whom the issuer's tokens are for", anything, func(c *Config) *string { return &c.Audience }),
	onOff("registration", "on", "whether anyone may register", func(c *Config) *bool { return &c.Registration }),

	onOff("limits", "on", "rate limits; off lifts them, and no size or window", func(c *Config) *bool { return &c.RateLimits }),
	number("limit-message-bytes", "one WebSocket message to the server", 1<<10, 16<<20, func(l *messages.Limits) *uint32 { return &l.MessageBytes }),
	number("limit-text-bytes", "a text, an edit, a caption", 1, 1<<20, func(l *messages.Limits) *uint32 { return &l.TextBytes }),
	number("limit-window", "entries in flight to one device", 1, 1<<16, func(l *messages.Limits) *uint32 { return &l.Window }),
	number("limit-sends", "sends of a user in limit-send-seconds; 0: any", 0, math.MaxInt32, func(l *messages.Limits) *uint32 { return &l.Sends }),
	number("limit-send-seconds", "seconds", 1, 86400, func(l *messages.Limits) *uint32 { return &l.SendSeconds }),
	number("limit-typings", "typings of a user in limit-typing-seconds; 0: any", 0, math.MaxInt32, func(l *messages.Limits) *uint32 { return &l.Typings }),
	number("limit-typing-seconds", "seconds", 1, 86400, func(l *messages.Limits) *uint32 { return &l.TypingSeconds }),
	number("limit-connects", "connects of a user in limit-connect-seconds; 0: any", 0, math.MaxInt32, func(l *messages.Limits) *uint32 { return &l.Connects }),
	number("limit-connect-seconds", "seconds", 1, 86400, func(l *messages.Limits) *uint32 { return &l.ConnectSeconds }),
	number("limit-devices", "devices of a user connected at once", 1, messages.KeptDevices, func(l *messages.Limits) *uint32 { return &l.Devices }),
	number("limit-group-members", "members of a group", 1, messages.MaxMembers, func(l *messages.Limits) *uint32 { return &l.GroupMembers }),
	number("limit-media-bytes", "one upload", 1, 1<<40, func(l *messages.Limits) *int64 { return &l.MediaBytes }),
	number("limit-positions", "positions in one hello", 1, messages.MaxPositions, func(l *messages.Limits) *uint32 { return &l.Positions }),
	number("limit-watches", "users in one watch", 1, messages.MaxWatches, func(l *messages.Limits) *uint32 { return &l.Watches }),
	number("limit-page", "entries or conversations in one page", 1, messages.MaxPage, func(l *messages.Limits) *uint32 { return &l.Page }),

	span("grace", "10s", "time to end in, once told to", time.Second, func(c *Config) *time.Duration { return &c.Grace }),
	span("idle-after", "2m0s", "an activation without a message for so long ends", time.Second, func(c *Config) *time.Duration { return &c.IdleAfter }),
	level("log-level", "info", "debug, info, warn or error", func(c *Config) *slog.Level { return &c.LogLevel }),
	text("log-format", "FORMAT", "text", "text or json", oneOf("text", "json"), func(c *Config) *string { return &c.LogFormat }),
}

const defaultTokenKey = "DATA/token.key"

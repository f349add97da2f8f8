package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"time"

	"github.com/troupe-chat/troupe/messages"
)

// Options says how to connect. Server, Token and Device are needed.
type Options struct {
	// Server is the server's URL: http, https, ws or wss, and what comes
	// before /v1 in the path.
	Server string
	// Token returns a token for the server. It is called before the first
	// connection and whenever the server no longer takes the last one. A
	// *messages.Failure from it that is not temporary ends Run.
	Token func(context.Context) (string, error)
	// Device names this installation: the same in every run, for the server
	// keeps its cursors under it.
	Device messages.DeviceID
	// Client is the application, as name/version.
	Client string

	Handler Handler
	// Store keeps positions and unsent entries; nil keeps them in memory.
	Store Store
	// Start is "head" for an application that reads what came before by
	// History: the server then begins a new device at the present.
	Start string
	// JSON speaks troupe.v1.json in place of troupe.v1.proto.
	JSON bool
	// MaxQueued bounds the sends that wait; 0 means 1,000.
	MaxQueued int

	// Dial replaces the network.
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Logger *slog.Logger
}

// Handler is what an application wants to be told. Nil functions are not
// called. All are called on one goroutine; what they get is theirs to keep and
// not to change.
type Handler struct {
	// Entry gets each entry of each conversation, in order, once in this
	// process. An entry of one's own comes as it was sent: with a media, the
	// server's additions are in History only.
	Entry    func(*messages.Entry)
	Receipt  func(*messages.Receipt)
	Typing   func(*messages.Typing)
	Presence func(*messages.Presence)
	// CaughtUp is called when everything that waited at the connect has been
	// handed to Entry.
	CaughtUp func()
	State    func(State)
}

// Phase is where a Client stands.
type Phase string

// The phases of a Client.
const (
	Connecting Phase = "connecting"
	Online     Phase = "online"
	Waiting    Phase = "waiting" // will connect again
	Stopped    Phase = "stopped" // Run has an answer
)

// State is a change of the Client's connection.
type State struct {
	Phase   Phase
	Welcome *messages.Welcome // Online: what the server said
	Err     error             // Waiting, Stopped: why
	After   time.Duration     // Waiting: how long
}

// A Stats counts what has happened since New.
type Stats struct {
	Connects uint64 // answered with welcome
	Gaps     uint64 // entries that did not follow; each was healed by reconnecting
	Repeats  uint64 // entries that had come before and were not handed on
}

const defaultQueued = 1000

func (o Options) withDefaults() (Options, error) {
	if o.Token == nil {
		return o, errors.New("client options: Token is nil")
	}
	if !o.Device.Valid() {
		return o, fmt.Errorf("client options: device %q: want 1-64 printable ASCII characters", o.Device)
	}
	if o.Start != "" && o.Start != "head" {
		return o, fmt.Errorf("client options: start %q: want nothing or head", o.Start)
	}
	if o.Store == nil {
		o.Store = NewMemory()
	}
	if o.MaxQueued == 0 {
		o.MaxQueued = defaultQueued
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// endpoint returns server + path with the scheme for a socket or for HTTP.
func endpoint(server, path string, socket bool) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", fmt.Errorf("server address: %w", err)
	}
	schemes := map[string][2]string{
		"http": {"http", "ws"}, "ws": {"http", "ws"},
		"https": {"https", "wss"}, "wss": {"https", "wss"},
	}
	pair, ok := schemes[u.Scheme]
	if !ok || u.Host == "" {
		return "", fmt.Errorf("server address %q: want http://host:port or https://host", server)
	}
	u.Scheme = pair[0]
	if socket {
		u.Scheme = pair[1]
	}
	return u.JoinPath(path).String(), nil
}

// Package chat is a terminal client of a Troupe server: a full-screen one for
// people, and a line mode for scripts, tests and screen readers.
package chat

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/charmbracelet/x/term"

	"github.com/troupe-chat/troupe/gateway/client"
	"github.com/troupe-chat/troupe/messages"
)

// Options says who chats where. Server and User are needed.
type Options struct {
	Server string // URL of the server
	User   string
	// Password is for when the token of an earlier run is not there or not
	// taken: it logs in, or registers a user who has no account. Empty means
	// TROUPE_PASSWORD, then a question.
	Password string
	// Token replaces passwords, for a server with an issuer of its own.
	Token  func(context.Context) (string, error)
	Device string // empty: one that is made up once and kept
	To     string // a user or a group to begin with
	Plain  bool   // line mode; so it is where In or Out is no terminal
	Dir    string // where tokens and unsent entries are kept; empty: the user's configuration folder

	In  io.Reader // nil: standard input
	Out io.Writer // nil: standard output
	Err io.Writer // nil: standard error; for what is not part of the chat
}

func (o Options) withDefaults() Options {
	if o.In == nil {
		o.In = os.Stdin
	}
	if o.Out == nil {
		o.Out = os.Stdout
	}
	if o.Err == nil {
		o.Err = os.Stderr
	}
	if o.Password == "" {
		o.Password = os.Getenv("TROUPE_PASSWORD")
	}
	return o
}

// Run chats until the person quits, the input ends in line mode, ctx ends, or
// the server does not want this client back.
func Run(ctx context.Context, o Options) error {
	o = o.withDefaults()
	if !messages.UserID(o.User).Valid() {
		return fmt.Errorf("user %q: want 1-64 of a-z 0-9 . _ -", o.User)
	}
	dir, err := home(o)
	if err != nil {
		return err
	}
	device, store, closer, err := identity(o, dir)
	if err != nil {
		return err
	}
	defer closer.Close()
	options := client.Options{
		Server: o.Server,
		Token:  o.Token,
		Device: device,
		Client: "troupe-chat/1",
		Store:  store,
		Start:  "head",
		Logger: slog.New(slog.DiscardHandler),
	}
	if o.Token == nil {
		if options.Token, err = signIn(ctx, o, dir); err != nil {
			return err
		}
	}
	if !o.Plain && isTerminal(o.In) && isTerminal(o.Out) {
		return runScreen(ctx, o, options)
	}
	return runLines(ctx, o, options)
}

// signIn returns the source of tokens. A person is asked now, before the
// screen is taken, and not again.
func signIn(ctx context.Context, o Options, dir string) (func(context.Context) (string, error), error) {
	l := &login{
		accounts: client.Accounts{Server: o.Server},
		user:     messages.UserID(o.User),
		tell:     o.Err,
		file:     filepath.Join(dir, "token"),
		password: o.Password,
	}
	if in, ok := o.In.(*os.File); ok && isTerminal(in) {
		l.ask = person{in: in, out: o.Err}
	}
	first, err := l.token(ctx)
	if err == nil && l.ask != nil && l.isRefused(ctx, first) {
		first, err = l.token(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("signing in as %s: %w", o.User, err)
	}
	l.ask = nil
	return func(ctx context.Context) (string, error) {
		if token := first; token != "" {
			first = ""
			return token, nil
		}
		return l.token(ctx)
	}, nil
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(f.Fd())
}

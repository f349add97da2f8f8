package main

import (
	"context"
	"os"
	"strings"

	"github.com/troupe-chat/troupe/cmd/troupe/chat"
	"github.com/troupe-chat/troupe/messages"
)

func chatFlags() *flags {
	f := newFlags("chat", "listen")
	f.String("server", "", "URL of the server; without it, the one at --listen")
	f.String("user", "", "who you are; an unknown name is registered")
	f.String("to", "", "a user or a group to begin with")
	f.String("password-file", "", "holds the password; without it TROUPE_PASSWORD, the last token, or a question")
	f.String("token-file", "", "holds a token, for a server that trusts an issuer")
	f.String("device", "", "name of this installation; one is made up and kept")
	f.Bool("plain", false, "read lines and print lines, as for a pipe")
	return f
}

// runChat chats in the terminal.
func runChat(ctx context.Context, e env, args []string) error {
	f := chatFlags()
	if err := f.parse(args, 0); err != nil {
		return err
	}
	c, _, err := f.load(e.getenv)
	if err != nil {
		return err
	}
	o, err := f.chatOptions(c, e)
	if err != nil {
		return err
	}
	return chat.Run(ctx, o)
}

func (f *flags) chatOptions(c Config, e env) (chat.Options, error) {
	value := func(name string) string { v, _ := f.GetString(name); return v }
	o := chat.Options{
		Server: value("server"), User: value("user"), To: value("to"), Device: value("device"),
		In: e.in, Out: e.out, Err: e.err,
	}
	o.Plain, _ = f.GetBool("plain")
	if !messages.UserID(o.User).Valid() {
		return o, mistake("user: give --user NAME, 1 to 64 of a-z 0-9 . _ -")
	}
	if o.Server == "" {
		o.Server = "http://" + c.Listen
	}
	var err error
	if o.Password, err = secret("password-file", value("password-file")); err != nil {
		return o, err
	}
	if file := value("token-file"); file != "" {
		o.Token = func(context.Context) (string, error) {
			b, err := os.ReadFile(file)
			return strings.TrimSpace(string(b)), err
		}
	}
	return o, nil
}

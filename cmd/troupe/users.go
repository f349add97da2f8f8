package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/troupe-chat/troupe/gateway/console"
	"github.com/troupe-chat/troupe/messages"
)

func usersFlags() *flags {
	f := newFlags("users", "admin", "admin-token-file")
	f.Bool("json", false, "print JSON")
	f.String("password-file", "", "holds the password for create and password; - is standard input; without it one is made and printed")
	return f
}

// usersCall is one run of the users command.
type usersCall struct {
	*operator
	env
	name         string
	asJSON       bool
	passwordFile string
}

var userActions = []string{"create", "disable", "enable", "disconnect", "password", "list"}

func runUsers(ctx context.Context, e env, args []string) error {
	f := usersFlags()
	if err := f.parse(args, 2); err != nil {
		return err
	}
	action := f.Arg(0)
	if !slices.Contains(userActions, action) {
		return mistake("say what to do: %s", strings.Join(userActions, ", "))
	}
	if action == "list" && f.NArg() != 1 || action != "list" && f.NArg() != 2 {
		return mistake("list takes no name, everything else one; see: troupe help users")
	}
	c, _, err := f.load(e.getenv)
	if err != nil {
		return err
	}
	o, err := newOperator(c)
	if err != nil {
		return err
	}
	call := usersCall{operator: o, env: e, name: f.Arg(1)}
	call.asJSON, _ = f.GetBool("json")
	call.passwordFile, _ = f.GetString("password-file")
	return call.run(ctx, action)
}

func (c usersCall) run(ctx context.Context, action string) error {
	switch action {
	case "create":
		return c.create(ctx)
	case "password":
		return c.password(ctx)
	case "list":
		return c.list(ctx)
	}
	if err := c.post(ctx, c.path(action), nil); err != nil {
		return err
	}
	return c.say(map[string]string{"disable": "disabled", "enable": "enabled", "disconnect": "disconnected"}[action], "")
}

func (c usersCall) create(ctx context.Context) error {
	return c.withPassword("created", func(password string) error {
		return c.post(ctx, "/admin/v1/users", map[string]string{"user": c.name, "password": password})
	})
}

func (c usersCall) password(ctx context.Context) error {
	return c.withPassword("changed", func(password string) error {
		return c.post(ctx, c.path("password"), map[string]string{"password": password})
	})
}

func (c usersCall) path(action string) string {
	return "/admin/v1/users/" + url.PathEscape(c.name) + "/" + action
}

// withPassword calls do with the password of the file, or with a new one,
// which it then prints.
func (c usersCall) withPassword(done string, do func(password string) error) error {
	password, made, err := c.choosePassword()
	if err != nil {
		return err
	}
	if err := do(password); err != nil {
		return err
	}
	if !made {
		password = ""
	}
	return c.say(done, password)
}

func (c usersCall) choosePassword() (password string, made bool, err error) {
	if c.passwordFile == "" {
		return rand.Text(), true, nil
	}
	var data []byte
	if c.passwordFile == "-" {
		data, err = io.ReadAll(io.LimitReader(c.in, 64<<10))
	} else {
		data, err = os.ReadFile(c.passwordFile)
	}
	if err != nil {
		return "", false, mistake("reading the password: %v", err)
	}
	return strings.TrimRight(string(data), "\r\n"), false, nil
}

// say tells what was done to the user, with the password that was made.
func (c usersCall) say(done, password string) error {
	if c.asJSON {
		answer := map[string]string{"user": c.name, "done": done}
		if password != "" {
			answer["password"] = password
		}
		return printJSON(c.out, answer)
	}
	line := done + " " + c.name
	if password != "" {
		line += "; password: " + password
	}
	_, err := fmt.Fprintln(c.out, line)
	return err
}

func (c usersCall) list(ctx context.Context) error {
	var all []console.User
	for after := messages.UserID(""); ; {
		var page struct{ Users []console.User }
		if err := c.get(ctx, "/admin/v1/users?limit=1000&after="+url.QueryEscape(string(after)), &page); err != nil {
			return err
		}
		if len(page.Users) == 0 {
			break
		}
		all = append(all, page.Users...)
		after = page.Users[len(page.Users)-1].User
	}
	if c.asJSON {
		return printJSON(c.out, append([]console.User{}, all...))
	}
	return usersTable(c.out, all)
}

func usersTable(w io.Writer, all []console.User) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "USER\tSTATE\tCREATED\tLAST SEEN")
	for _, u := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", u.User, stateOf(u), timeText(u.CreatedAt), timeText(u.LastSeen))
	}
	return t.Flush()
}

func stateOf(u console.User) string {
	switch {
	case u.Deleted:
		return "deleted"
	case u.Disabled:
		return "disabled"
	}
	return "active"
}

func timeText(ms int64) string {
	if ms == 0 {
		return "-"
	}
	return time.UnixMilli(ms).UTC().Format(time.DateTime)
}

// Command troupe is the whole of Troupe in one binary: the server, a terminal
// client, and the tools of operators and load testers.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/pflag"
)

// env is what a command has of the world around it.
type env struct {
	in       io.Reader
	out, err io.Writer
	getenv   func(string) string
}

// command is one line of the table of commands.
type command struct {
	name string
	args string // as in the usage line
	help string
	run  func(ctx context.Context, e env, args []string) error
	// flags are what its help lists; nil: none.
	flags func() *flags
}

// commands is in the order in which help shows them. It is made by a function:
// help is in it and shows it.
func commands() []command {
	return []command{
		{"serve", "", "run a node; with no flags a complete chat service on 127.0.0.1", runServe, serveFlags},
		{"chat", "--user NAME [--to USER]", "chat in the terminal", runChat, chatFlags},
		{"config", "[--json]", "print the configuration in force, and who gave each value", runConfig, configFlags},
		{"verify", "[--json]", "read a whole store and check what it promises", runVerify, verifyFlags},
		{"users", "create|disable|enable|disconnect|password|list [NAME]", "accounts, for operators", runUsers, usersFlags},
		later("top", "live view of a cluster, for operators"),
		later("members", "the nodes of a cluster"),
		later("actors", "live activations"),
		later("where", "where an actor belongs, and where it is"),
		later("inspect", "one actor's state"),
		later("drain", "move a node's actors and clients elsewhere"),
		later("load", "load, through sockets, mailboxes or the store"),
		later("why", "why an entry has, or has not, reached a device"),
		later("migrate", "bring a store's schema up to date"),
		later("backup", "copy a store"),
		later("restore", "put a copy back"),
		later("doctor", "check a machine and its configuration"),
		later("certs", "make a small CA for the nodes"),
		later("plan", "capacity and placement on paper"),
		{"version", "", "print the version", runVersion, nil},
		{"help", "[COMMAND]", "print this, or the flags of a command", runHelp, nil},
	}
}

// later is a command of a version to come.
func later(name, help string) command {
	return command{name: name, help: help, run: func(context.Context, env, []string) error {
		return mistake("unavailable: not built in this version")
	}}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process as if nobody were listening.
	context.AfterFunc(ctx, stop)
	e := env{in: os.Stdin, out: os.Stdout, err: os.Stderr, getenv: os.Getenv}
	os.Exit(run(ctx, e, os.Args[1:]))
}

// run runs one command and returns the exit code: 0, 1 where it failed, 2
// where whoever started it must put something right.
func run(ctx context.Context, e env, args []string) int {
	if len(args) == 0 {
		printCommands(e.err)
		return 2
	}
	name := args[0]
	if name == "--help" || name == "-h" {
		name = "help"
	}
	c, ok := find(name)
	if !ok {
		fmt.Fprintf(e.err, "troupe: there is no command %q; see: troupe help\n", name)
		return 2
	}
	return report(e, c, c.run(ctx, e, args[1:]))
}

func find(name string) (command, bool) {
	for _, c := range commands() {
		if c.name == name {
			return c, true
		}
	}
	return command{}, false
}

func report(e env, c command, err error) int {
	if err == nil {
		return 0
	}
	if errors.Is(err, pflag.ErrHelp) {
		printHelp(e.out, c)
		return 0
	}
	fmt.Fprintf(e.err, "troupe %s: %v\n", c.name, err)
	if _, ok := errors.AsType[*startError](err); ok {
		return 2
	}
	return 1
}

func runServe(ctx context.Context, e env, args []string) error {
	f := serveFlags()
	if err := f.parse(args, 0); err != nil {
		return err
	}
	c, _, err := f.load(e.getenv)
	if err != nil {
		return err
	}
	if err := c.unavailable(); err != nil {
		return err
	}
	return serve(ctx, c, e)
}

func serveFlags() *flags { return newFlags("serve") }

func runHelp(_ context.Context, e env, args []string) error {
	if len(args) == 0 {
		printCommands(e.out)
		return nil
	}
	c, ok := find(args[0])
	if !ok {
		return mistake("there is no command %q", args[0])
	}
	printHelp(e.out, c)
	return nil
}

func printCommands(w io.Writer) {
	fmt.Fprint(w, "Troupe is a chat backend of virtual actors.\n\nUsage: troupe COMMAND [flags]\n\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range commands() {
		fmt.Fprintf(t, "  %s\t%s\n", c.name, c.help)
	}
	t.Flush()
	fmt.Fprint(w, "\nEvery setting is a flag, a TROUPE_ variable and a key of the YAML file of --config,\n"+
		"in this order of precedence. The flags of a command: troupe help COMMAND\n")
}

func printHelp(w io.Writer, c command) {
	fmt.Fprintf(w, "%s\n\nUsage: troupe %s %s\n", c.help, c.name, c.args)
	if c.flags != nil {
		fmt.Fprintf(w, "\n%s", c.flags().FlagUsages())
	}
}

// version is set by the linker; without it, the module's is shown.
var version string

func runVersion(_ context.Context, e env, _ []string) error {
	fmt.Fprintf(e.out, "troupe %s %s %s/%s\n", versionText(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}

func versionText() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown version)"
	}
	return info.Main.Version
}

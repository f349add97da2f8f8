//go:build linux

// Command bench measures a server against the minimal relay in the same run on
// this machine, and prints a table with ratios.
//
//	bench --server-bin bin/troupe [--parts pairs,group,drain,latency,idle] [--json FILE]
//
// It starts every server process itself, on free ports, with its data in a
// temporary directory, and ends them. Run as "bench relay --listen ADDRESS
// --dir DIR" it is the relay.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/troupe-chat/troupe/internal/load"
	"github.com/troupe-chat/troupe/internal/relay"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) > 1 && os.Args[1] == "relay" {
		err = serveRelay(ctx, os.Args[2:])
	} else {
		err = bench(ctx, os.Args[1:], os.Stdout)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func serveRelay(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("relay", flag.ContinueOnError)
	listen := fs.String("listen", "127.0.0.1:7080", "address to serve on")
	dir := fs.String("dir", "", "directory of the database, which must not exist yet")
	if err := fs.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return relay.Serve(ctx, l, *dir, slog.Default())
}

// options are the flags.
type options struct {
	server   string
	relay    bool
	parts    string
	duration time.Duration
	warmup   time.Duration
	pairs    int
	group    int
	groupIn  int
	entries  int
	idle     int
	body     int
	loops    int
	json     string
	keep     bool
	profile  string
}

func (o *options) parse(args []string) error {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.StringVar(&o.server, "server-bin", "", "the troupe binary; empty: the relay alone")
	fs.BoolVar(&o.relay, "relay", true, "measure the relay too")
	fs.StringVar(&o.parts, "parts", strings.Join(partNames(), ","), "what to measure")
	fs.DurationVar(&o.duration, "duration", 5*time.Second, "measured window of each step")
	fs.DurationVar(&o.warmup, "warmup", time.Second, "load before it")
	fs.IntVar(&o.pairs, "pairs", 200, "direct conversations")
	fs.IntVar(&o.group, "group-size", 256, "members of the group")
	fs.IntVar(&o.groupIn, "group-inflight", 64, "unanswered sends of the whole group")
	fs.IntVar(&o.entries, "entries", 10_000, "entries that wait for the device")
	fs.IntVar(&o.idle, "idle", 10_000, "idle connections")
	fs.IntVar(&o.body, "body", 128, "bytes of a text")
	fs.IntVar(&o.loops, "loops", 2, "event loops of the generator")
	fs.StringVar(&o.json, "json", "", "file for all results")
	fs.BoolVar(&o.keep, "keep", false, "leave data and logs of the servers where they are")
	fs.StringVar(&o.profile, "profile", "", "directory for a processor profile of troupe in each step")
	return fs.Parse(args)
}

// bench runs the chosen parts and prints what they found.
func bench(ctx context.Context, args []string, out io.Writer) error {
	var o options
	if err := o.parse(args); err != nil {
		return err
	}
	chosen, err := choose(o.parts)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "troupe-bench-")
	if err != nil {
		return fmt.Errorf("make a directory for data: %w", err)
	}
	if o.keep {
		fmt.Fprintln(out, "data and logs:", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	var rows []row
	for _, p := range chosen {
		more, err := p.run(ctx, &o, filepath.Join(dir, p.name))
		if err != nil {
			return fmt.Errorf("part %s: %w", p.name, err)
		}
		printRows(out, p.name, more)
		rows = append(rows, more...)
	}
	return report(o.json, rows)
}

// report writes the results and says whether any was incorrect.
func report(file string, rows []row) error {
	if file != "" {
		b, err := json.MarshalIndent(rows, "", "  ")
		if err != nil {
			return fmt.Errorf("encode the results: %w", err)
		}
		if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
			return fmt.Errorf("write the results: %w", err)
		}
	}
	for _, r := range rows {
		for _, res := range []*load.Result{r.Troupe, r.Relay} {
			if res != nil && !res.Correct() {
				return fmt.Errorf("%s: not correct: %s", r.Step, strings.Join(res.Violations, "; "))
			}
		}
	}
	return nil
}

func choose(names string) ([]part, error) {
	var chosen []part
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(parts, func(p part) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no part %q; there are %s", name, strings.Join(partNames(), ", "))
		}
		chosen = append(chosen, parts[i])
	}
	return chosen, nil
}

func partNames() []string {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	cockroach "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/troupe-chat/troupe/persistence"
	"github.com/troupe-chat/troupe/persistence/pebble"
)

func verifyFlags() *flags {
	f := newFlags("verify", "data", "store")
	f.Bool("json", false, "print JSON")
	return f
}

// runVerify reads the whole store, which no node may have open, and fails
// where something in it is not as promised.
func runVerify(ctx context.Context, e env, args []string) error {
	f := verifyFlags()
	if err := f.parse(args, 0); err != nil {
		return err
	}
	c, _, err := f.load(e.getenv)
	if err != nil {
		return err
	}
	store, err := openExisting(c, e)
	if err != nil {
		return err
	}
	report, err := store.Verify(ctx)
	err = errors.Join(err, store.Close())
	if err != nil {
		return fmt.Errorf("reading %s: %w", c.Store, err)
	}
	asJSON, _ := f.GetBool("json")
	if err := printReport(e.out, report, asJSON); err != nil {
		return err
	}
	if n := len(report.Findings) + report.Omitted; n > 0 {
		return fmt.Errorf("%d findings in %s", n, c.Store)
	}
	return nil
}

// openExisting opens the store and makes none.
func openExisting(c Config, e env) (*pebble.Store, error) {
	dir, ok := strings.CutPrefix(c.Store, "pebble:")
	if !ok {
		return nil, mistake("unavailable: only a store of pebble:DIR can be verified in this version")
	}
	desc, err := cockroach.Peek(dir, vfs.Default)
	if err != nil || !desc.Exists {
		return nil, mistake("there is no store in %s; name one with --store pebble:DIR", dir)
	}
	store, err := pebble.Open(dir, pebble.Options{Logger: c.Logger(e.err)})
	if err != nil {
		return nil, mistake("%v", err)
	}
	return store, nil
}

func printReport(w io.Writer, r persistence.Report, asJSON bool) error {
	if asJSON {
		return printJSON(w, reportJSON(r))
	}
	fmt.Fprintf(w, "%d conversations\n%d entries\n%d client ids\n%d cursors\n%d findings\n",
		r.Conversations, r.Entries, r.IDs, r.Cursors, len(r.Findings)+r.Omitted)
	for _, f := range r.Findings {
		fmt.Fprintln(w, f)
	}
	if r.Omitted > 0 {
		fmt.Fprintf(w, "and %d more\n", r.Omitted)
	}
	return nil
}

func reportJSON(r persistence.Report) map[string]any {
	type finding struct {
		Conversation string `json:"conversation"`
		Seq          uint64 `json:"seq,omitempty"`
		Problem      string `json:"problem"`
	}
	findings := make([]finding, 0, len(r.Findings))
	for _, f := range r.Findings {
		findings = append(findings, finding{string(f.Conversation), uint64(f.Seq), f.Problem})
	}
	return map[string]any{
		"conversations": r.Conversations, "entries": r.Entries, "client_ids": r.IDs, "cursors": r.Cursors,
		"findings": findings, "omitted": r.Omitted,
	}
}

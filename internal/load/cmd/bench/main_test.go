//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain lets the test binary be the relay, as the bench binary is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "relay" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestBenchOfTheRelay(t *testing.T) {
	file := filepath.Join(t.TempDir(), "results.json")
	var out bytes.Buffer
	err := bench(t.Context(), []string{
		"--parts", "pairs,latency,idle", "--pairs", "5", "--idle", "20",
		"--duration", "100ms", "--warmup", "10ms", "--json", file,
	}, &out)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var rows []row
	if err := json.Unmarshal(b, &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 6 {
		t.Fatalf("%d steps, want 6:\n%s", len(rows), out.String())
	}
	for _, r := range rows[:5] {
		if r.Relay == nil || r.Relay.DeliveredPerS == 0 || r.Relay.Server.RSSBytes == 0 || !strings.Contains(out.String(), r.Step) {
			t.Errorf("%s: %+v", r.Step, r.Relay)
		}
	}
}

func TestAServerThatDoesNotStartIsExplained(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "troupe")
	if err := os.WriteFile(bin, []byte("#!/bin/sh\necho the disk is on holiday\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err := bench(t.Context(), []string{"--parts", "drain", "--server-bin", bin}, &out)
	if err == nil || !strings.Contains(err.Error(), "the disk is on holiday") || !strings.Contains(err.Error(), "exit status 3") {
		t.Fatalf("%v", err)
	}
}

func TestAnUnknownPartIsRefused(t *testing.T) {
	var out bytes.Buffer
	err := bench(t.Context(), []string{"--parts", "pairs,nonsense"}, &out)
	if err == nil || !strings.Contains(err.Error(), `"nonsense"`) {
		t.Fatalf("%v", err)
	}
}

//go:build linux

package load

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// clockTicks is the unit of CPU times in /proc: USER_HZ, 100 on every
// architecture that Go runs on.
const clockTicks = 100

// Process is a server process on this machine, watched through /proc. The zero
// value watches nothing. Safe for concurrent use.
type Process struct {
	PID  int
	Heap string // URL of its pprof heap profile; empty: it cannot be asked to collect
}

// RSS returns the resident memory in bytes.
func (p Process) RSS() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.PID))
	if err != nil {
		return 0, fmt.Errorf("read the server's memory: %w", err)
	}
	fields := bytes.Fields(b)
	if len(fields) < 2 {
		return 0, fmt.Errorf("read the server's memory: %q", b)
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the server's memory: %w", err)
	}
	return pages * int64(os.Getpagesize()), nil
}

// CPU returns the processor time used so far, user and system, to 10 ms.
func (p Process) CPU() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	if err != nil {
		return 0, fmt.Errorf("read the server's processor time: %w", err)
	}
	// The name, in parentheses, may hold spaces; utime and stime are the 12th
	// and 13th fields after it.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("read the server's processor time: %q", b)
	}
	user, err1 := strconv.ParseInt(string(fields[11]), 10, 64)
	system, err2 := strconv.ParseInt(string(fields[12]), 10, 64)
	if err1 != nil || err2 != nil {
		return 0, fmt.Errorf("read the server's processor time: %q", b)
	}
	return time.Duration(user+system) * time.Second / clockTicks, nil
}

// collect asks the process for a garbage collection.
func (p Process) collect(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.Heap+"?gc=1", nil)
	if err != nil {
		return fmt.Errorf("ask the server to collect: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask the server to collect: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the server to collect: HTTP %d", resp.StatusCode)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// Rest polls: memory that a collection freed goes back to the system little by
// little.
const (
	restEvery = 250 * time.Millisecond
	restPolls = 40
	restSteps = 6 // polls without a lower value
)

// restingRSS returns the least resident memory after a collection, once it
// has stopped falling.
func (p Process) restingRSS(ctx context.Context) (int64, error) {
	least, steady := int64(1)<<62, 0
	for i := 0; i < restPolls && steady < restSteps; i++ {
		if p.Heap != "" {
			if err := p.collect(ctx); err != nil {
				return 0, err
			}
		}
		now, err := p.RSS()
		if err != nil {
			return 0, err
		}
		if now < least {
			least, steady = now, 0
		} else {
			steady++
		}
		if err := pause(ctx, restEvery); err != nil {
			return 0, err
		}
	}
	return least, nil
}

// ownCPU returns the processor time that this process has used.
func ownCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

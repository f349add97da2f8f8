//go:build linux

package nemesis

import (
	"context"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/troupe-chat/troupe/messages"
)

// A server that stands still for a while goes on where it was.
func TestPaused(t *testing.T) {
	r := newRun(t, t.TempDir(), true)
	r.pairs(8)
	r.begin()
	r.acknowledged(200)
	check(t, r.server.Signal(syscall.SIGSTOP))
	<-time.After(stopSeconds * time.Second) // the attack itself
	check(t, r.server.Signal(syscall.SIGCONT))
	r.acknowledged(200)
	r.sound(1)
}

// grace is how long a server may take to end, by default.
const grace = 10 * time.Second

// SIGTERM under load: every client is told, closed with 1012, and comes back;
// the process ends with 0 in time; nothing acknowledged is lost.
func TestTerminatedUnderLoad(t *testing.T) {
	r := newRun(t, t.TempDir(), true)
	r.pairs(8)
	r.begin()
	for round := range termRounds {
		r.acknowledged(200)
		check(t, r.crowd.AwaitOnline(r.ctx))
		check(t, r.server.Signal(syscall.SIGTERM))
		ctx, cancel := context.WithTimeout(r.ctx, grace)
		defer cancel()
		if code := must(r.server.Wait(ctx))(t); code != 0 {
			t.Errorf("it ended with %d%s", code, r.server.LastWords())
		}
		all := len(r.crowd.devices) * (round + 1)
		check(t, r.crowd.Await(r.ctx, "the end of every connection", func() bool { return r.crowd.Online() == 0 }))
		if told, closed := r.crowd.Figures().Closings, r.crowd.ClosedWith(messages.CloseRestarting); told != all || closed != all {
			t.Errorf("%d connections ended; %d were told so, %d closed with 1012", all, told, closed)
		}
		r.start()
	}
	r.acknowledged(200)
	r.sound(termRounds)
}

// A second process on the same directory says so in one line and leaves the
// first alone.
func TestSecondProcessOnTheStore(t *testing.T) {
	r := newRun(t, t.TempDir(), true)
	r.pairs(2)
	r.begin()
	r.acknowledged(20)
	ports := must(FreePorts(3))(t)
	args := slices.Concat(r.server.Args[1:], []string{"--listen", ports[0], "--admin", ports[1], "--actors", ports[2]})
	second := exec.Command(r.server.Args[0], args...)
	var said strings.Builder
	second.Stderr = &said
	_ = second.Run() // the exit code tells
	if code := second.ProcessState.ExitCode(); code != 2 || strings.Count(said.String(), "\n") != 1 || !strings.Contains(said.String(), "another process") {
		t.Errorf("the second process ended with %d and said: %s", code, &said)
	}
	r.acknowledged(20)
	r.sound(1)
}

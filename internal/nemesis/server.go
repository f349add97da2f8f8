//go:build linux

package nemesis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Server is a node as its operator sees it: one process after the other with
// the same arguments. Not safe for concurrent use, but for Exited.
type Server struct {
	Args    []string // the program and what it is told
	Env     []string // besides this process's own
	Address string   // HOST:PORT of its clients
	Log     string   // file to which its processes append what they say

	process *os.Process
	exited  chan struct{} // closed when process has ended; state is set then
	state   *os.ProcessState
}

const (
	readyWithin = time.Minute
	readyEvery  = 10 * time.Millisecond
)

// Start starts a process and waits until it is ready.
func (s *Server) Start(ctx context.Context) error {
	if err := s.Launch(); err != nil {
		return err
	}
	return s.Ready(ctx)
}

// Launch starts a process.
func (s *Server) Launch() error {
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the server's log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(s.Args[0], s.Args[1:]...)
	cmd.Env = append(os.Environ(), s.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.Args[0], err)
	}
	s.process, s.exited = cmd.Process, make(chan struct{})
	go func() {
		_ = cmd.Wait() // state tells
		s.state = cmd.ProcessState
		close(s.exited)
	}()
	return nil
}

// Ready polls until the process takes clients: there is nothing to wait on but
// the answer itself.
func (s *Server) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for !s.answers(ctx) {
		select {
		case <-tick.C:
		case <-s.exited:
			return fmt.Errorf("the server ended with %v before it was ready%s", s.state, s.LastWords())
		case <-ctx.Done():
			return fmt.Errorf("the server is not ready: %w%s", ctx.Err(), s.LastWords())
		}
	}
	return nil
}

func (s *Server) answers(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Address+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// Signal sends the process a signal.
func (s *Server) Signal(sig os.Signal) error {
	if err := s.process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to the server: %w", sig, err)
	}
	return nil
}

// Kill ends the process by SIGKILL, if it runs, and waits for its end.
func (s *Server) Kill() error {
	if s.process == nil {
		return nil
	}
	err := s.Signal(syscall.SIGKILL)
	<-s.exited
	return err
}

// Exited is closed when the process has ended.
func (s *Server) Exited() <-chan struct{} { return s.exited }

// Wait waits for the end of the process and returns its exit code; −1: a
// signal ended it.
func (s *Server) Wait(ctx context.Context) (int, error) {
	select {
	case <-s.exited:
		return s.state.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("waiting for the server's end: %w%s", context.Cause(ctx), s.LastWords())
	}
}

// LastWords returns the end of the server's log, to explain a failure.
func (s *Server) LastWords() string {
	b, err := os.ReadFile(s.Log)
	if err != nil || len(b) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return "\nit said:\n" + strings.Join(lines[max(0, len(lines)-12):], "\n")
}

// FreePorts returns n addresses on which nothing listens now. They are below
// the ports that the system gives to outgoing connections: those are free for
// a connection of a device while the server is away.
func FreePorts(n int) ([]string, error) {
	var addresses []string
	for tries := 0; len(addresses) < n; tries++ {
		address := fmt.Sprintf("127.0.0.1:%d", 15000+rand.IntN(15000))
		l, err := net.Listen("tcp", address)
		if err != nil {
			if tries > 100*n {
				return nil, fmt.Errorf("find a free port: %w", err)
			}
			continue
		}
		defer l.Close()
		addresses = append(addresses, address)
	}
	return addresses, nil
}

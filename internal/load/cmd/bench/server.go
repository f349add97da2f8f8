//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/troupe-chat/troupe/internal/load"
)

// server is a process that this one started, and ends.
type server struct {
	name    string
	address string // of clients
	pprof   string // URL of its profiles
	tokens  load.Tokens
	log     string // file with what it says

	process *os.Process
	exited  chan struct{} // closed when it has ended, err is set then
	err     error
}

const (
	readyWithin = 20 * time.Second
	readyEvery  = 20 * time.Millisecond
	stopWithin  = 15 * time.Second
)

func startTroupe(ctx context.Context, bin, dir string) (*server, error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the server's directory: %w", err)
	}
	issuer, err := load.NewIssuer("https://bench.invalid", "bench")
	if err != nil {
		return nil, err
	}
	jwks := filepath.Join(dir, "jwks.json")
	if err := os.WriteFile(jwks, issuer.JWKS(), 0o600); err != nil {
		return nil, fmt.Errorf("write the key set: %w", err)
	}
	s := &server{
		name:    "troupe",
		address: ports[0],
		pprof:   "http://" + ports[1] + "/debug/pprof",
		tokens:  issuer.Token,
		log:     filepath.Join(dir, "log"),
	}
	return s, s.start(ctx, bin, "serve",
		"--listen", ports[0], "--admin", ports[1], "--actors", ports[2],
		"--store", "pebble:"+filepath.Join(dir, "store"),
		"--media", "dir:"+filepath.Join(dir, "media"),
		"--issuer", issuer.Name, "--audience", issuer.Audience, "--jwks", jwks,
		"--limits", "off")
}

// startRelay runs this binary again, as the relay.
func startRelay(ctx context.Context, dir string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this binary: %w", err)
	}
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the relay's directory: %w", err)
	}
	s := &server{
		name:    "relay",
		address: ports[0],
		pprof:   "http://" + ports[0] + "/debug/pprof",
		tokens:  load.NameTokens,
		log:     filepath.Join(dir, "log"),
	}
	return s, s.start(ctx, self, "relay", "--listen", ports[0], "--dir", filepath.Join(dir, "store"))
}

// freePorts returns addresses on which nothing listens now.
func freePorts(n int) ([]string, error) {
	var addresses []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close()
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}

// start runs the process and waits until it is ready.
func (s *server) start(ctx context.Context, bin string, args ...string) error {
	log, err := os.Create(s.log)
	if err != nil {
		return fmt.Errorf("make a log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(bin, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = filepath.Dir(s.log)
	if cmd.Path, err = filepath.Abs(cmd.Path); err != nil {
		return fmt.Errorf("find %s: %w", bin, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", bin, err)
	}
	s.process, s.exited = cmd.Process, make(chan struct{})
	go func() {
		defer close(s.exited)
		s.err = cmd.Wait()
	}()
	if err := s.ready(ctx); err != nil {
		return errors.Join(err, s.stop())
	}
	return nil
}

// ready polls: there is nothing to wait on but the answer itself.
func (s *server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for {
		if s.answers(ctx) {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.exited:
			return fmt.Errorf("%s ended: %w%s", s.name, s.err, s.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w%s", s.name, ctx.Err(), s.lastWords())
		}
	}
}

func (s *server) answers(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+"/readyz", nil)
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

// stop asks the process to end, and makes it when it does not.
func (s *server) stop() error {
	if err := s.process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", s.name, err)
	}
	t := time.NewTimer(stopWithin)
	defer t.Stop()
	select {
	case <-s.exited:
		return nil
	case <-t.C:
		err := s.process.Kill()
		<-s.exited
		return errors.Join(fmt.Errorf("%s did not end within %v", s.name, stopWithin), err)
	}
}

// lastWords returns the end of the server's log, to explain a failure.
func (s *server) lastWords() string {
	b, err := os.ReadFile(s.log)
	if err != nil || len(b) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return "\nit said:\n" + strings.Join(lines[max(0, len(lines)-8):], "\n")
}

func (s *server) config(o *options) load.Config {
	return load.Config{
		URL:      "ws://" + s.address + "/v1/ws",
		Tokens:   s.tokens,
		Prefix:   "bench",
		Duration: o.duration,
		Warmup:   o.warmup,
		Body:     o.body,
		Loops:    o.loops,
		Server:   load.Process{PID: s.process.Pid, Heap: s.pprof + "/heap"},
	}
}

// profile takes a processor profile into a file while a step runs; what it
// returns waits for it.
func (s *server) profile(ctx context.Context, o *options, name string) func() {
	if o.profile == "" || s.name != "troupe" {
		return func() {}
	}
	seconds := int((o.warmup + o.duration).Seconds())
	done := make(chan error, 1)
	go func() {
		done <- fetch(ctx, fmt.Sprintf("%s/profile?seconds=%d", s.pprof, seconds), filepath.Join(o.profile, name+".pprof"))
	}()
	return func() {
		if err := <-done; err != nil {
			fmt.Fprintln(os.Stderr, "bench: no profile:", err)
		}
	}
}

func fetch(ctx context.Context, url, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: HTTP %d", url, resp.StatusCode)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Close())
}

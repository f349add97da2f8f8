//go:build linux

package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"
)

// Subprotocol is the binary protocol that the engine speaks.
const Subprotocol = "troupe.v1.proto"

// dialAttempts is how often a refused connect is tried in all: a server may
// hold a storm of them back.
const dialAttempts = 5

// dialer opens client sockets. Connections to loopback leave from several
// addresses in turn, as one address has ports for 28,000 only. Safe for
// concurrent use.
type dialer struct {
	url     string
	sources int
}

// dial connects, does the WebSocket handshake and returns the socket, in
// non-blocking mode, which the caller owns from then on.
func (d *dialer) dial(ctx context.Context, n int) (int, error) {
	var err error
	for attempt := range dialAttempts {
		if attempt > 0 {
			if err := pause(ctx, time.Duration(attempt)*50*time.Millisecond); err != nil {
				return 0, err
			}
		}
		var fd int
		if fd, err = d.once(ctx, n); err == nil {
			return fd, nil
		}
	}
	return 0, fmt.Errorf("connect to %s: %w", d.url, err)
}

func (d *dialer) once(ctx context.Context, n int) (int, error) {
	ws := websocket.Dialer{
		Subprotocols:     []string{Subprotocol},
		ReadBufferSize:   512,
		WriteBufferSize:  512,
		HandshakeTimeout: 20 * time.Second,
		NetDialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return d.connect(ctx, network, address, n)
		},
	}
	c, resp, err := ws.DialContext(ctx, d.url, nil)
	if err != nil {
		return 0, refusal(resp, err)
	}
	// The socket goes to a loop's epoll as a duplicate: closing the original
	// takes it out of the runtime's, which would be woken by every byte too.
	defer c.Close()
	if c.Subprotocol() != Subprotocol {
		return 0, fmt.Errorf("the server does not speak %s", Subprotocol)
	}
	return duplicate(c.NetConn())
}

func refusal(resp *http.Response, err error) error {
	if resp != nil {
		return fmt.Errorf("%w: HTTP %d", err, resp.StatusCode)
	}
	return err
}

func (d *dialer) connect(ctx context.Context, network, address string, n int) (net.Conn, error) {
	nd := net.Dialer{Control: bindNoPort}
	if local := d.source(address, n); local != nil {
		nd.LocalAddr = local
	}
	return nd.DialContext(ctx, network, address)
}

// source returns the loopback address to connect from, or nil where address
// is not on loopback.
func (d *dialer) source(address string, n int) net.Addr {
	ap, err := netip.ParseAddrPort(address)
	if err != nil || !ap.Addr().Is4() || !ap.Addr().IsLoopback() || d.sources < 2 {
		return nil
	}
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+n%d.sources))}
}

// bindNoPort leaves the choice of a port to connect, which knows the whole
// 4-tuple: bind alone would look for a port that nobody uses.
func bindNoPort(_, _ string, raw syscall.RawConn) error {
	var err error
	control := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	})
	return errors.Join(control, err)
}

func duplicate(c net.Conn) (int, error) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return 0, fmt.Errorf("a %T is not a plain TCP connection", c)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("reach the socket: %w", err)
	}
	var fd int
	var dupErr error
	err = raw.Control(func(orig uintptr) {
		fd, dupErr = unix.FcntlInt(orig, unix.F_DUPFD_CLOEXEC, 0)
		if dupErr == nil {
			dupErr = resetOnClose(fd)
		}
	})
	return fd, errors.Join(err, dupErr)
}

// resetOnClose makes closing free the port at once, with no TIME_WAIT.
func resetOnClose(fd int) error {
	return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// pause waits for about d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d/2 + rand.N(d))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

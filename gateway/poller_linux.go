package gateway

import (
	"cmp"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// poller tells which connections that nobody reads have something to read, so
// that an idle one needs neither goroutine nor stack. It holds them all in one
// epoll instance, edge-triggered: each is told of once for all that comes until
// somebody reads. The runtime's own poller waits on that instance as it does
// on any socket.
type poller struct {
	fd     int      // of the epoll instance
	epoll  *os.File // the same
	raw    syscall.RawConn
	tell   func(connection uint64)
	events [256]unix.EpollEvent // owned by run
	count  int                  // of events; owned by run
	ended  sync.WaitGroup
}

// newPoller starts a poller that calls tell for connections that something has
// come for. Close it.
func newPoller(tell func(connection uint64)) (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making an epoll instance: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("making an epoll instance: %w", err)
	}
	p := &poller{fd: fd, epoll: os.NewFile(uintptr(fd), "epoll"), tell: tell}
	if p.raw, err = p.epoll.SyscallConn(); err != nil {
		_ = p.epoll.Close()
		return nil, fmt.Errorf("waiting on an epoll instance: %w", err)
	}
	p.ended.Go(p.run)
	return p, nil
}

func (p *poller) run() {
	for p.raw.Read(p.wait) == nil {
		for i := range p.events[:p.count] {
			p.tell(connectionOf(&p.events[i]))
		}
	}
}

func (p *poller) wait(fd uintptr) bool {
	n, err := unix.EpollWait(int(fd), p.events[:], 0)
	if err != nil {
		n = 0 // interrupted; there is no other reason
	}
	p.count = n
	return n > 0
}

// watch tells of connection from now on, until its socket is closed. What has
// come already counts. Not to be called after close.
func (p *poller) watch(s *stream, connection uint64) error {
	event := unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET,
		Fd:     int32(connection), Pad: int32(connection >> 32),
	}
	var added error
	err := s.raw.Control(func(fd uintptr) {
		added = unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, int(fd), &event)
	})
	if err = cmp.Or(err, added); err != nil {
		return fmt.Errorf("watching a socket: %w", err)
	}
	return nil
}

func connectionOf(e *unix.EpollEvent) uint64 {
	return uint64(uint32(e.Pad))<<32 | uint64(uint32(e.Fd))
}

// close ends the poller's goroutine.
func (p *poller) close() {
	_ = p.epoll.Close()
	p.ended.Wait()
}

//go:build linux

package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poller waits for sockets on behalf of one loop. Each socket is registered
// under the loop's index of its connection. wake may be called by anyone, the
// rest only by the owner.
type poller struct {
	epoll, event int
	ready        [256]unix.EpollEvent
}

// wakeIndex is the registration of the poller's own eventfd.
const wakeIndex = -1

func newPoller() (*poller, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create an epoll instance: %w", err)
	}
	ev, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(ep)
		return nil, fmt.Errorf("create an eventfd: %w", err)
	}
	p := &poller{epoll: ep, event: ev}
	if err := p.add(ev, wakeIndex); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *poller) close() {
	unix.Close(p.event)
	unix.Close(p.epoll)
}

func (p *poller) add(fd, index int) error {
	return p.control(unix.EPOLL_CTL_ADD, fd, index, unix.EPOLLIN)
}

// writable starts or stops telling when the socket takes more bytes.
func (p *poller) writable(fd, index int, on bool) error {
	events := uint32(unix.EPOLLIN)
	if on {
		events |= unix.EPOLLOUT
	}
	return p.control(unix.EPOLL_CTL_MOD, fd, index, events)
}

func (p *poller) control(op, fd, index int, events uint32) error {
	e := unix.EpollEvent{Events: events, Fd: int32(index)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.epoll, op, fd, &e))
}

// wait returns the sockets that are ready, after at most d; d < 0 is for ever.
// The plain epoll_wait counts in milliseconds, too coarse for a schedule of
// thousands a second.
func (p *poller) wait(d time.Duration) ([]unix.EpollEvent, error) {
	var timeout *unix.Timespec
	if d >= 0 {
		ts := unix.NsecToTimespec(int64(d))
		timeout = &ts
	}
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.epoll),
		uintptr(unsafe.Pointer(&p.ready[0])), uintptr(len(p.ready)),
		uintptr(unsafe.Pointer(timeout)), 0, 0)
	if errno == unix.EINTR {
		return nil, nil
	}
	if errno != 0 {
		return nil, os.NewSyscallError("epoll_pwait2", errno)
	}
	return p.ready[:n], nil
}

func (p *poller) wake() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	// A full counter has woken the loop already.
	_, _ = unix.Write(p.event, one[:])
}

func (p *poller) drainWake() {
	var b [8]byte
	_, _ = unix.Read(p.event, b[:])
}

// again reports whether a socket has nothing to read, or no room to write.
func again(err error) bool { return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) }

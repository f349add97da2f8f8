//go:build !linux

package gateway

import "errors"

// poller is for systems with epoll; elsewhere a goroutine waits for each
// connection.
type poller struct{}

func newPoller(func(connection uint64)) (*poller, error) { return nil, errors.ErrUnsupported }

func (*poller) watch(*stream, uint64) error { return errors.ErrUnsupported }

func (*poller) close() {}

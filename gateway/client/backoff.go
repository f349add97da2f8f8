package client

import (
	"time"

	"github.com/troupe-chat/troupe/messages"
)

// The waits before connecting again: the bound of the random part doubles with
// each attempt. After a close that says "later" there is a fixed part too.
const (
	firstWait  = 500 * time.Millisecond
	longWait   = 30 * time.Second
	laterWait  = 5 * time.Second
	longLater  = 2 * time.Minute
	steadyTime = 10 * time.Second // a connection that lived so long was a success
)

// backoff returns the wait before attempt n, counted from 0 after a success.
// random(m) returns a number in [0, m).
func backoff(ret messages.Return, n int, random func(int64) int64) time.Duration {
	if ret == messages.ReturnLater {
		return laterWait + jitter(laterWait, longLater, n, random)
	}
	return jitter(firstWait, longWait, n, random)
}

// jitter is uniform over the whole wait, so that clients which lost their
// server together come back spread out.
func jitter(first, most time.Duration, n int, random func(int64) int64) time.Duration {
	bound := most
	if n < 16 && first<<n < most {
		bound = first << n
	}
	return time.Duration(random(int64(bound)))
}

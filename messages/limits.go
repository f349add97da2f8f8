package messages

import (
	"time"

	"google.golang.org/protobuf/proto"
)

// Sizes and counts that are fixed, not configured.
const (
	MaxMembers       = 1024
	MaxDevices       = 10  // of one user, connected at once
	KeptDevices      = 32  // of one user, the latest
	MaxPositions     = 500 // in one hello
	MaxWatches       = 200 // users in one watch
	MaxPage          = 100 // entries or conversations
	MaxDeliver       = 50  // entries in one deliver frame
	MaxServerMessage = 256 << 10
	MaxName          = 256 // bytes of a group's or a profile's name
	MaxEmoji         = 64  // bytes of a reaction
	MaxAvatar        = 1024
	MarkedMembers    = 64 // a larger group leaves no marks
)

// Times that are fixed, not configured.
const (
	DedupFor       = 7 * 24 * time.Hour
	EditFor        = 24 * time.Hour
	ForgetDevice   = 90 * 24 * time.Hour
	KeepMoves      = 30 * 24 * time.Hour
	KeepMarks      = 30 * 24 * time.Hour
	WatchFor       = 5 * time.Minute
	TypingFor      = 3 * time.Second
	HelloWithin    = 10 * time.Second
	ReceiptEvery   = 100 * time.Millisecond
	CommandTimeout = 5 * time.Second
)

// DefaultLimits is what a server takes when nothing else is configured.
func DefaultLimits() *Limits {
	return &Limits{
		MessageBytes:   64 << 10,
		TextBytes:      16 << 10,
		Window:         256,
		Sends:          60,
		SendSeconds:    60,
		Typings:        10,
		TypingSeconds:  10,
		Connects:       5,
		ConnectSeconds: 60,
		Devices:        MaxDevices,
		GroupMembers:   MaxMembers,
		MediaBytes:     100 << 20,
		Positions:      MaxPositions,
		Watches:        MaxWatches,
		Page:           MaxPage,
	}
}

// WithoutRates returns a copy of l with every rate limit lifted; sizes and
// windows stay.
func WithoutRates(l *Limits) *Limits {
	c := proto.CloneOf(l)
	c.Sends, c.Typings, c.Connects = 0, 0, 0
	return c
}

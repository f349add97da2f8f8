package actors

import "sync/atomic"

// Metrics counts what the actors of a node did. Safe for concurrent use.
type Metrics struct {
	Appends    atomic.Int64 // batches appended
	Entries    atomic.Int64 // entries in them
	Duplicates atomic.Int64 // retried commands that found their entry
	Conflicts  atomic.Int64 // appends that lost the compare-and-set
	Unknown    atomic.Int64 // appends re-issued because their outcome was not known
	Failed     atomic.Int64 // appends that the store refused
}

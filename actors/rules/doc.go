// Package rules decides what may happen in one conversation. It is pure: state
// and commands come in, entries and their effects come out, and the time is a
// number (ms since the epoch) that the caller passes. It does no I/O, starts
// nothing and waits for nothing.
//
// A State stands for exactly the prefix 1..Head of a conversation's log. A
// command goes through it in three steps:
//
//	Needs   which look-ups the command needs (client id, target, users, blocks)
//	Decide  judges it against the state and what was looked up: entries or a refusal
//	Apply   moves the state over each entry and says what that changes elsewhere
//
// Recovery is Apply over the log, or Restore from a head and a snapshot; both
// end in the same state. A caller that decides several commands for one append
// applies each one's entries before it decides the next, and throws the state
// away when the append fails.
//
// Receipts and Window hold the cursors of a conversation's members and the
// entries in flight to one device, under the same discipline.
//
//	state.go     the state of one conversation, and its snapshots
//	apply.go     what each entry changes
//	decide.go    who may say what: admission, then dispatch
//	send.go      texts, media, edits, retractions, reactions
//	group.go     creating and changing groups
//	hash.go      when two commands have the same content
//	receipts.go  delivered and read, and whom to tell of them
//	unread.go    counting what is unread
//	window.go    what is in flight to one device
//
// Nothing here is safe for concurrent use; each value has one owner. Slices,
// maps and messages that are handed in or returned are shared, and nobody
// changes them.
package rules

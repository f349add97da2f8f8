// Package persistence holds the contracts of what Troupe keeps: conversation
// logs, cursors, memberships and marks, accounts, and presence. Each
// technology that fulfils them is a folder below; storetest is the suite that
// every one of them passes.
//
// Every method may be called by any number of goroutines at once. Byte slices
// and messages handed to a store belong to it from then on; those it returns
// belong to the caller. Reads block for I/O and are never made on an actor's
// goroutine; writes are handed over, and tell their outcome by a callback.
package persistence

import (
	"context"
	"errors"

	"github.com/troupe-chat/troupe/messages"
)

// The errors of a store. Others are faults of the store itself.
var (
	// ErrConflict: the log's head is not the one expected. Nothing was written.
	ErrConflict = errors.New("the log has moved on")
	// ErrUnknown: the outcome of a write is not known; it may yet be found in
	// the store. Issue the identical write again to find out.
	ErrUnknown = errors.New("the outcome of the write is not known")
	// ErrUnavailable: the store cannot do it now. Nothing was written.
	ErrUnavailable = errors.New("the store is unavailable")
	// ErrNotFound: there is no such thing.
	ErrNotFound = errors.New("not found")
	// ErrExists: there is one already.
	ErrExists = errors.New("exists already")
)

// Done receives the outcome of a write, exactly once, on a goroutine of the
// store's: it must not block. A nil error means durable.
type Done func(error)

// Store is everything that one database keeps.
type Store interface {
	Log
	Cursors
	Memberships
	Accounts
	Outbox
	// Close waits for writes under way and releases the store.
	Close() error
}

// ---------------------------------------------------------------- logs

// AppendID tells one append from every other: 16 random bytes, stored with
// every row of it.
type AppendID [16]byte

// Head is the end of a conversation's log.
type Head struct {
	Seq       messages.Seq // 0: nothing was ever appended
	At        int64        // ms, of the last entry
	Countable uint64       // texts and media up to Seq
	StateSeq  messages.Seq // the last membership event up to Seq
}

// Batch is one append: entries ExpectHead+1, +2, … of one conversation, with
// all that must become durable with them or before the append is done.
type Batch struct {
	Conversation messages.ConversationID
	ExpectHead   messages.Seq
	ID           AppendID
	Rows         []Row        // seqs ExpectHead+1 …, dense; at least one
	Dedup        []Dedup      // ids that these rows use up
	Overlays     []Overlay    // edits and retractions among these rows
	Memberships  []Membership // interval rows to write
	Marks        []Mark
	Snapshot     []byte // encoded messages.Snapshot as of the last row; nil: as before
	Outbox       bool   // note the batch in the outbox
}

// Row is one row of a log.
type Row struct {
	Seq       messages.Seq
	At        int64  // ms, as in Entry
	Entry     []byte // an encoded messages.Entry; as served where it was Read
	Countable uint64
	StateSeq  messages.Seq
}

// Dedup says that an author's client id is used up by the entry Seq.
type Dedup struct {
	Author   messages.UserID
	ClientID messages.ClientID
	Seq      messages.Seq
	Hash     uint64 // of the content
	At       int64  // ms, of the entry
}

// Overlay is an edit or a retraction (at Seq) of the entry Target.
type Overlay struct {
	Target  messages.Seq
	Seq     messages.Seq
	At      int64 // ms
	Retract bool
	Body    string // of an edit
}

// Range selects rows of one log. Exactly one of After and Before is used:
// rows (After, …] ascending, or, with Before not 0, the last rows before it,
// ascending too.
type Range struct {
	After, Before messages.Seq
	UpTo          messages.Seq // inclusive; 0: the durable head
	Limit         int          // rows; 0: no bound
	Bytes         int          // of entries; at least one row is returned; 0: no bound
}

// Query is what a conversation must know before it decides. IDs and Targets
// are answered in the same order.
type Query struct {
	IDs     []AuthorID
	Targets []messages.Seq
	Blocks  bool // whether either of a direct conversation's users blocks the other
}

// AuthorID is one author's client id.
type AuthorID struct {
	Author   messages.UserID
	ClientID messages.ClientID
}

// Answer answers a Query.
type Answer struct {
	IDs     []Dedup  // Seq 0: not used, or longer ago than messages.DedupFor
	Targets []Target // Seq 0: no such entry
	Blocked bool
}

// Target is an older entry that a command names.
type Target struct {
	Seq       messages.Seq
	Author    messages.UserID
	At        int64 // ms
	Countable bool  // a text or media
	Retracted bool
}

// Log keeps the conversations' logs. What it returns is durable: an entry
// whose append is not is neither read, counted nor used to answer.
type Log interface {
	// Append writes b if the log's head is b.ExpectHead. When done is called
	// with nil, everything in b is durable. With ErrConflict or ErrUnavailable
	// nothing was written. After ErrUnknown, Append the identical b again: if
	// it was written, that answers nil, by b.ID.
	Append(b *Batch, done Done)
	// Load returns the head of c and its newest snapshot (nil: none).
	Load(ctx context.Context, c messages.ConversationID) (Head, []byte, error)
	// Heads returns the heads of several conversations, in their order.
	Heads(ctx context.Context, cs []messages.ConversationID) ([]Head, error)
	// Read returns rows of c as they are served now: edits and retractions
	// applied (see Served).
	Read(ctx context.Context, c messages.ConversationID, r Range) ([]Row, error)
	// Know answers q for c. An id whose append is under way is waited for.
	Know(ctx context.Context, c messages.ConversationID, q Query) (Answer, error)
	// Unblocked reports, without I/O, that neither user of a direct
	// conversation blocks the other. False says nothing: ask Know.
	Unblocked(c messages.ConversationID) bool
	// Recent returns the ids used within messages.DedupFor, or false where
	// they are more than limit.
	Recent(ctx context.Context, c messages.ConversationID, limit int) ([]Dedup, bool, error)
	// Mark makes marks durable without an append.
	Mark(marks []Mark, done Done)
}

// ---------------------------------------------------------------- cursors

// DeviceKey names a device to the store: the incarnation changes when a device
// was forgotten and comes again, so that old cursors are never its.
type DeviceKey struct {
	User        messages.UserID
	Incarnation uint64
}

// Position is a seq in a conversation.
type Position struct {
	Conversation messages.ConversationID
	Seq          messages.Seq
}

// MemberCursor is how far a user has a conversation, on any of its devices.
type MemberCursor struct {
	User            messages.UserID
	Delivered, Read messages.Seq
}

// Since tells since when a user has had and has read an entry: ms, to the
// second, or 0 where that is not known any more.
type Since struct {
	Delivered, Read int64
}

// Cursors keeps cursors. A stored cursor never moves back: a write of a lower
// seq changes nothing.
type Cursors interface {
	// DevicePositions returns the device's cursors in cs, in their order; 0
	// where there is none.
	DevicePositions(ctx context.Context, d DeviceKey, cs []messages.ConversationID) ([]messages.Seq, error)
	// SaveDevice stores cursors of a device, and with caughtUp not 0 that the
	// pass that began then (ms) is complete.
	SaveDevice(d DeviceKey, ps []Position, caughtUp int64, done Done)
	// CaughtUp returns the start (ms) of the device's last complete pass, or 0.
	CaughtUp(ctx context.Context, d DeviceKey) (int64, error)
	// ForgetDevice deletes all cursors of a device.
	ForgetDevice(d DeviceKey, done Done)
	// MemberCursors returns the cursors of users in c, in their order.
	MemberCursors(ctx context.Context, c messages.ConversationID, users []messages.UserID) ([]MemberCursor, error)
	// SaveMembers stores cursors of members of c that moved at (ms).
	SaveMembers(c messages.ConversationID, ms []MemberCursor, at int64, done Done)
	// Since tells since when each of users has had and has read seq.
	Since(ctx context.Context, c messages.ConversationID, seq messages.Seq, users []messages.UserID) ([]Since, error)
}

// ---------------------------------------------------------------- memberships

// Membership is one interval of a user's membership in a conversation. The
// user's view is the union of [From, Ended] over its intervals; Ended 0 is
// open. Joined, the seq of the event that added it, tells intervals of one
// user and conversation apart; in a direct conversation it is 1.
type Membership struct {
	User         messages.UserID
	Conversation messages.ConversationID
	Joined       messages.Seq
	From         messages.Seq // Joined, or 1 where the group shows all
	Ended        messages.Seq // the event that removed it, which it still gets
	Unmarked     bool         // the group has had more than messages.MarkedMembers
}

// Mark says that a conversation has an entry of that day for a user.
type Mark struct {
	User         messages.UserID
	Day          int64 // days since the epoch
	Conversation messages.ConversationID
}

// Settings is what a user has set for itself in one conversation.
type Settings struct {
	Muted, Archived, Pinned bool
	Cleared                 messages.Seq // entries up to here are hidden
}

// Memberships keeps who is in which conversation, and the inbox marks. An
// interval that began or ended by an entry that is not durable is not seen.
type Memberships interface {
	// Memberships returns all intervals of u, by conversation, then Joined.
	Memberships(ctx context.Context, u messages.UserID) ([]Membership, error)
	// Membership returns the intervals of u in c, by Joined.
	Membership(ctx context.Context, u messages.UserID, c messages.ConversationID) ([]Membership, error)
	// Marked returns the conversations of u marked on the day since or later,
	// each once.
	Marked(ctx context.Context, u messages.UserID, since int64) ([]messages.ConversationID, error)
	// Settings returns the settings of u in cs, in their order.
	Settings(ctx context.Context, u messages.UserID, cs []messages.ConversationID) ([]Settings, error)
	// SaveSettings stores settings. Cleared never moves back.
	SaveSettings(u messages.UserID, c messages.ConversationID, s Settings, done Done)
}

// ---------------------------------------------------------------- accounts

// Account is one user.
type Account struct {
	User       messages.UserID
	Password   string // encoded argon2id hash; empty: no local password
	Name       string // of the profile
	Avatar     string
	Created    int64 // ms
	Disabled   bool
	Deleted    bool   // the name is never freed
	Erased     bool   // of a deleted one: its entries are retracted everywhere
	Generation uint64 // tokens of an older generation are revoked
	LastSeen   int64  // ms: when its last connection ended
}

// Device is one client installation of a user.
type Device struct {
	ID          messages.DeviceID
	Incarnation uint64
	Number      uint64   // of its newest connection
	Client      string   // name/version
	Created     int64    // ms
	LastSeen    int64    // ms
	Tokens      []string // ids of tokens it used that may still be valid
}

// Accounts keeps users, their devices, revoked tokens and blocks.
type Accounts interface {
	// CreateAccount stores a new account, or answers ErrExists.
	CreateAccount(ctx context.Context, a Account) error
	// Account returns u's account, or ErrNotFound.
	Account(ctx context.Context, u messages.UserID) (Account, error)
	// UpdateAccount changes u's account by f, one caller at a time. What f
	// returns as an error is returned as it is, and nothing is stored.
	UpdateAccount(ctx context.Context, u messages.UserID, f func(*Account) error) error
	// Accounts returns up to limit accounts with ids beyond after, ascending.
	Accounts(ctx context.Context, after messages.UserID, limit int) ([]Account, error)
	// Unknown returns those of users that have no account, or a deleted one.
	Unknown(ctx context.Context, users []messages.UserID) ([]messages.UserID, error)
	// Devices returns u's devices, in no order.
	Devices(ctx context.Context, u messages.UserID) ([]Device, error)
	// UpdateDevices changes u's devices by f, one caller at a time.
	UpdateDevices(ctx context.Context, u messages.UserID, f func([]Device) ([]Device, error)) error
	// Revoke makes a token id revoked until (ms).
	Revoke(ctx context.Context, token string, until int64) error
	// Revoked reports whether a token id is revoked.
	Revoked(ctx context.Context, token string) (bool, error)
	// SetBlock makes u block other, or no longer.
	SetBlock(ctx context.Context, u, other messages.UserID, blocked bool) error
	// Blocks returns whom u blocks.
	Blocks(ctx context.Context, u messages.UserID) ([]messages.UserID, error)
	// Blocked reports whether a blocks b or b blocks a.
	Blocked(ctx context.Context, a, b messages.UserID) (bool, error)
}

// ---------------------------------------------------------------- outbox

// Pending is an append that was noted in the outbox.
type Pending struct {
	Conversation messages.ConversationID
	First, Last  messages.Seq
}

// Outbox keeps which appends a webhook has yet to be told of.
type Outbox interface {
	// PendingHooks returns up to limit notes, oldest conversations in no
	// order; after is the last note of the page before, or nil.
	PendingHooks(ctx context.Context, after *Pending, limit int) ([]Pending, error)
	// HookDone removes a note.
	HookDone(p Pending, done Done)
}

package actors

import (
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/internal/crew"
	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// Cluster places virtual actors and hands messages to them. Tell never blocks
// on I/O; messages of one goroutine to one identity arrive in order.
type Cluster interface {
	Tell(kind, identity string, m any) error
}

// Gateways reaches the gateway of a node: Answer, Attached, News and Expel go
// there.
type Gateways interface {
	Tell(node string, m proto.Message)
	// Connection returns a live connection of this node.
	Connection(node string, id uint64) (Connection, bool)
}

// Connection is one client's socket, as seen from the actors. Its methods
// never block, and may be called by several goroutines at once.
type Connection interface {
	// ID is the gateway's number of the connection.
	ID() uint64
	// InFlight is how many entries wait for its acknowledgement.
	InFlight() int
	// Hint tells of durable entries. It may be told again, late or not at all:
	// the log is the truth.
	Hint(h *messages.Hint)
	// Notify shows a receipt, typing or presence frame, or a later one about
	// the same thing in its place.
	Notify(f *messages.ServerFrame)
}

// Hooks is told of entries that wait for users with nothing connected.
type Hooks interface {
	// Waiting hands over one append, durable and noted in the outbox. absent
	// are those of its users that are not connected; none means that the note
	// can go. Where there are events among the entries, not all of them are
	// due to all of absent. It does not block.
	Waiting(c messages.ConversationID, entries []*messages.Entry, absent []messages.UserID)
}

// Env is what the actors of a node share. Immutable once actors run.
type Env struct {
	Node     string
	Store    persistence.Store
	Presence persistence.Presence
	Cluster  Cluster
	Gateways Gateways
	Routes   *Routes
	Hooks    Hooks // nil: no webhook
	Limits   *messages.Limits
	Pool     *crew.Crew // runs work that blocks
	Now      func() time.Time
	Log      *slog.Logger
	Metrics  *Metrics
	Reached  func(Point) // nil but in tests of crashes

	settings sync.Mutex // held while a user's settings are changed
}

func (e *Env) nowMs() int64 { return e.Now().UnixMilli() }

// answer sends the one reply to a command. The server's own have no origin and
// get none.
func (e *Env) answer(o *messages.Origin, f *messages.ServerFrame) {
	if o == nil {
		return
	}
	e.Gateways.Tell(o.Node, &messages.Answer{Connection: o.Connection, Token: o.Token, Frame: f})
}

func (e *Env) fail(o *messages.Origin, err *messages.Failure) {
	e.answer(o, err.Frame(0))
}

// unavailable is what a command gets when the store could not serve it.
func unavailable() *messages.Failure {
	return messages.Later(messages.CodeUnavailable, 500*time.Millisecond, "the store can't be reached; try again")
}

func okFrame() *messages.ServerFrame {
	return &messages.ServerFrame{Event: &messages.ServerFrame_Ok{Ok: &messages.Ok{}}}
}

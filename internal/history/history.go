// Package history judges what real clients saw. Each device keeps a Tape of
// what it sent, acknowledged and received; at the end the logs are read back
// by history pages; Check then compares every tape with the logs and with the
// promises: nothing lost, nothing twice, one order without holes, nothing
// shown to those who are not members, no cursor back.
//
// Times are for real-time order only (see Linearizable): Check does not need
// the clocks of devices to agree.
package history

import (
	"sync"
	"time"

	"github.com/troupe-chat/troupe/messages"
)

// History is the tapes of a test and the logs it left. Tape and Log may be
// called concurrently; Check and Linearizable when all tapes are complete.
type History struct {
	start time.Time

	mu    sync.Mutex
	tapes []*Tape                             // guarded by mu
	logs  map[messages.ConversationID][]Entry // guarded by mu
}

// New makes an empty history, which starts now.
func New() *History {
	return &History{start: time.Now(), logs: make(map[messages.ConversationID][]Entry)}
}

// Entry is one entry as somebody got it. Hash stands for its content: equal
// content, equal hash.
type Entry struct {
	Conversation messages.ConversationID
	Seq          messages.Seq
	Author       messages.UserID
	ClientID     messages.ClientID
	At           int64 // ms
	Hash         uint64
	Event        *messages.Event // of a membership event
}

// Log tells the final log of a conversation, as one who may see all of it read
// it by history pages.
func (h *History) Log(c messages.ConversationID, entries []Entry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.logs[c] = entries
}

// Tape makes the tape of one device.
func (h *History) Tape(u messages.UserID, d messages.DeviceID) *Tape {
	t := &Tape{User: u, Device: d, start: h.start}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tapes = append(h.tapes, t)
	return t
}

// Kind is what a record tells.
type Kind uint8

// The kinds of records.
const (
	Connected Kind = iota + 1 // welcome on a new connection
	Resumed                   // hello said that this device has everything up to Seq
	Joined                    // a deliver frame said that a membership starts at Seq
	Sending                   // a send left
	Sent                      // its answer
	Refused                   // an error instead
	Delivered                 // an entry by a deliver frame
	Paged                     // an entry by a history page
	Acked                     // this device acknowledged up to Seq
	Read                      // read up to Seq was answered ok
	Receipt                   // of Author: Seq is delivered, Read is read
)

var kindNames = [...]string{
	Connected: "connected", Resumed: "resumed", Joined: "joined", Sending: "sending", Sent: "sent",
	Refused: "refused", Delivered: "delivered", Paged: "paged", Acked: "acked", Read: "read", Receipt: "receipt",
}

func (k Kind) String() string { return kindNames[k] }

// record is one thing that a device saw or did.
type record struct {
	kind      Kind
	duplicate bool // of a sent
	head      bool // of a connect: start at head
	conn      uint32
	at        time.Duration // since the history's start
	conv      messages.ConversationID
	seq       messages.Seq
	read      messages.Seq
	author    messages.UserID
	clientID  messages.ClientID
	hash      uint64
	code      string
}

// Tape is what one device did and saw, in that order. One goroutine at a time
// may use it; different tapes are independent.
type Tape struct {
	User   messages.UserID
	Device messages.DeviceID

	start   time.Time
	conn    uint32
	gone    bool
	records []record
}

func (t *Tape) add(r record) {
	r.conn, r.at = t.conn, time.Since(t.start)
	t.records = append(t.records, r)
}

// Connect says that the device was welcomed on a new connection; head, that it
// asked to start at the head.
func (t *Tape) Connect(head bool) {
	t.conn++
	t.add(record{kind: Connected, head: head})
}

// Resume says that hello, on this connection, gave a position.
func (t *Tape) Resume(c messages.ConversationID, seq messages.Seq) {
	t.add(record{kind: Resumed, conv: c, seq: seq})
}

// Join says that deliver named the start of a membership.
func (t *Tape) Join(c messages.ConversationID, seq messages.Seq) {
	t.add(record{kind: Joined, conv: c, seq: seq})
}

// Sending says that a send is about to leave.
func (t *Tape) Sending(c messages.ConversationID, id messages.ClientID, hash uint64) {
	t.add(record{kind: Sending, conv: c, author: t.User, clientID: id, hash: hash})
}

// Sent says that a send was answered.
func (t *Tape) Sent(c messages.ConversationID, id messages.ClientID, seq messages.Seq, duplicate bool) {
	t.add(record{kind: Sent, conv: c, author: t.User, clientID: id, seq: seq, duplicate: duplicate})
}

// Refused says that a send was answered with an error.
func (t *Tape) Refused(c messages.ConversationID, id messages.ClientID, code string) {
	t.add(record{kind: Refused, conv: c, author: t.User, clientID: id, code: code})
}

// Deliver says that an entry was delivered.
func (t *Tape) Deliver(e Entry) { t.add(e.record(Delivered)) }

// Page says that a history page showed an entry.
func (t *Tape) Page(e Entry) { t.add(e.record(Paged)) }

// Ack says that the device acknowledged.
func (t *Tape) Ack(c messages.ConversationID, seq messages.Seq) {
	t.add(record{kind: Acked, conv: c, seq: seq})
}

// Read says that a read was answered ok: it is durable, and moves delivered
// with it.
func (t *Tape) Read(c messages.ConversationID, seq messages.Seq) {
	t.add(record{kind: Read, conv: c, seq: seq})
}

// Receipt says that a receipt of user arrived.
func (t *Tape) Receipt(c messages.ConversationID, user messages.UserID, delivered, read messages.Seq) {
	t.add(record{kind: Receipt, conv: c, author: user, seq: delivered, read: read})
}

// Gone says that the device did not stay to the end: it need not have all.
func (t *Tape) Gone() { t.gone = true }

func (e Entry) record(k Kind) record {
	return record{kind: k, conv: e.Conversation, seq: e.Seq, author: e.Author, clientID: e.ClientID, hash: e.Hash}
}

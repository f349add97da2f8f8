package pebble

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// The whole key space. A key is its table's letter, then its fields: numbers
// are big-endian, a "name" is its length and its bytes, and a last field that
// is text ends with the key. So no id, whatever bytes it holds, can be taken
// for part of another.
//
//	table         key                                      value
//	format        F                                        version
//	log           l name(conversation) seq                 messages.Record
//	dedup         d period name(conversation)
//	                name(author) client id                 seq, hash, at
//	overlay       o name(conversation) target kind seq     at, body
//	snapshot      s name(conversation) seq                 messages.Snapshot
//	outbox        h name(conversation) first               last
//	device        p name(user) incarnation conversation    seq; of "": caught up (ms)
//	member        r name(conversation) user                delivered, read, and of the
//	                                                       last move of each: second, from
//	move          v period name(conversation) name(user)
//	                kind second                            from, to
//	membership    u name(user) name(conversation) joined   from, ended, flags
//	mark          m day name(user) conversation            (empty)
//	settings      t name(user) conversation                flags, cleared
//	account       a user                                   JSON of persistence.Account
//	devices       e user                                   JSON of []persistence.Device
//	revoked       x token id                               until (ms)
//	block         b name(user) other                       (empty)
//
// What expires begins with its time, so that one range deletion ends it.
// Marks are kept by the day. Dedup ids and moves are kept by longer periods,
// of which two cover the time promised: an id is looked up twice, not once
// for each of eight days, and costs half as much again in storage.
const (
	tableFormat     = 'F'
	tableLog        = 'l'
	tableDedup      = 'd'
	tableOverlay    = 'o'
	tableSnapshot   = 's'
	tableOutbox     = 'h'
	tableDevice     = 'p'
	tableMember     = 'r'
	tableMove       = 'v'
	tableMembership = 'u'
	tableMark       = 'm'
	tableSettings   = 't'
	tableAccount    = 'a'
	tableDevices    = 'e'
	tableRevoked    = 'x'
	tableBlock      = 'b'
)

// Kinds within a table.
const (
	overlayEdit    = 0
	overlayRetract = 1
	moveDelivered  = 0
	moveRead       = 1
)

const (
	day = 24 * time.Hour
	// The promise, and a day for clocks that were set back.
	dedupPeriod = messages.DedupFor + day
	movePeriod  = messages.KeepMoves + 2*day
	keepMarks   = 31 // days
)

// key is a key under construction. Its methods append a field.
type key []byte

func table(t byte) key { return append(make(key, 0, 64), t) }

func (k key) name(s string) key { return append(binary.AppendUvarint(k, uint64(len(s))), s...) }
func (k key) text(s string) key { return append(k, s...) }
func (k key) byte(b byte) key   { return append(k, b) }
func (k key) num(n uint64) key  { return binary.BigEndian.AppendUint64(k, n) }
func (k key) num32(n uint32) key {
	return binary.BigEndian.AppendUint32(k, n)
}

// end returns the first key beyond all that begin with k.
func (k key) end() key {
	end := append(make(key, 0, len(k)), k...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

func logOf(c messages.ConversationID) key { return table(tableLog).name(string(c)) }

func logKey(c messages.ConversationID, seq messages.Seq) key { return logOf(c).num(uint64(seq)) }

func dedupOf(period uint32, c messages.ConversationID) key {
	return table(tableDedup).num32(period).name(string(c))
}

func dedupKey(period uint32, c messages.ConversationID, id persistence.AuthorID) key {
	return dedupOf(period, c).name(string(id.Author)).text(string(id.ClientID))
}

func overlaysOf(c messages.ConversationID) key { return table(tableOverlay).name(string(c)) }

func overlayKey(c messages.ConversationID, target messages.Seq, kind byte, seq messages.Seq) key {
	return overlaysOf(c).num(uint64(target)).byte(kind).num(uint64(seq))
}

func snapshotsOf(c messages.ConversationID) key { return table(tableSnapshot).name(string(c)) }

func snapshotKey(c messages.ConversationID, seq messages.Seq) key {
	return snapshotsOf(c).num(uint64(seq))
}

func outboxKey(c messages.ConversationID, first messages.Seq) key {
	return table(tableOutbox).name(string(c)).num(uint64(first))
}

func deviceOf(d persistence.DeviceKey) key {
	return table(tableDevice).name(string(d.User)).num(d.Incarnation)
}

func deviceKey(d persistence.DeviceKey, c messages.ConversationID) key {
	return deviceOf(d).text(string(c))
}

func membersOf(c messages.ConversationID) key { return table(tableMember).name(string(c)) }

func memberKey(c messages.ConversationID, u messages.UserID) key { return membersOf(c).text(string(u)) }

func movesOf(period uint32, c messages.ConversationID, u messages.UserID, kind byte) key {
	return table(tableMove).num32(period).name(string(c)).name(string(u)).byte(kind)
}

func moveKey(c messages.ConversationID, u messages.UserID, kind byte, second uint64) key {
	period := periodOf(int64(second)*1000, movePeriod)
	return movesOf(period, c, u, kind).num32(uint32(second))
}

func membershipsOf(u messages.UserID) key { return table(tableMembership).name(string(u)) }

func membershipsIn(u messages.UserID, c messages.ConversationID) key {
	return membershipsOf(u).name(string(c))
}

func membershipKey(m persistence.Membership) key {
	return membershipsIn(m.User, m.Conversation).num(uint64(m.Joined))
}

func marksOf(day uint32, u messages.UserID) key { return table(tableMark).num32(day).name(string(u)) }

func markKey(m persistence.Mark) key {
	return marksOf(uint32(m.Day), m.User).text(string(m.Conversation))
}

func settingsKey(u messages.UserID, c messages.ConversationID) key {
	return table(tableSettings).name(string(u)).text(string(c))
}

func accountKey(u messages.UserID) key { return table(tableAccount).text(string(u)) }

func devicesKey(u messages.UserID) key { return table(tableDevices).text(string(u)) }

func revokedKey(token string) key { return table(tableRevoked).text(token) }

func blocksOf(u messages.UserID) key { return table(tableBlock).name(string(u)) }

func blockKey(u, other messages.UserID) key { return blocksOf(u).text(string(other)) }

// periodOf numbers the period that holds the time ms.
func periodOf(ms int64, period time.Duration) uint32 {
	return uint32(max(ms, 0) / period.Milliseconds())
}

// fields reads a key from its front. A key that ends early reads as zeros and
// sets short.
type fields struct {
	rest  []byte
	short bool
}

func fieldsOf(k []byte) *fields { return &fields{rest: k[1:]} }

func (f *fields) take(n int) []byte {
	if n > len(f.rest) {
		f.short = true
		return make([]byte, 8)
	}
	b := f.rest[:n]
	f.rest = f.rest[n:]
	return b
}

func (f *fields) num() uint64   { return binary.BigEndian.Uint64(f.take(8)) }
func (f *fields) num32() uint32 { return binary.BigEndian.Uint32(f.take(4)) }
func (f *fields) text() string  { return string(f.rest) }

func (f *fields) name() string {
	n, size := binary.Uvarint(f.rest)
	if size <= 0 || n > uint64(len(f.rest)-size) {
		f.short = true
		return ""
	}
	f.take(size)
	return string(f.take(int(n)))
}

// pack makes a value of numbers.
func pack(ns ...uint64) []byte {
	b := make([]byte, 0, 8*len(ns))
	for _, n := range ns {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

// unpack reads a value of numbers and returns what follows them.
func unpack(b []byte, ns ...*uint64) ([]byte, error) {
	if len(b) < 8*len(ns) {
		return nil, fmt.Errorf("a value of %d bytes, not %d or more: %w", len(b), 8*len(ns), ErrCorrupt)
	}
	for _, n := range ns {
		*n, b = binary.BigEndian.Uint64(b), b[8:]
	}
	return b, nil
}

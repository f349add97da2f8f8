package messages

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

// UserID names an account: 1–64 of a-z 0-9 . _ -.
type UserID string

// DeviceID names one client installation of a user; chosen by the client,
// 1–64 printable ASCII characters.
type DeviceID string

// ConversationID names a conversation: 1–160 of A-Z a-z 0-9 . _ - ~ :.
type ConversationID string

// ClientID is the author's own id of one entry: 1–64 characters, unique per
// author and conversation.
type ClientID string

// Seq numbers the entries of one conversation: 1, 2, 3 …; 0 is before the
// first.
type Seq uint64

// The prefixes keep direct and group ids apart. "~" is in no user id, so the
// pair can be read back from a direct id: the map is injective.
const (
	directPrefix = "d:"
	groupPrefix  = "g:"
	pairSign     = "~"
)

// Conversation kinds, as in frames and as actor kinds.
const (
	KindDirect = "direct"
	KindGroup  = "group"
)

// Virtual actor kinds.
const (
	ActorConversation = "conversation"
	ActorGroup        = "group"
	ActorSession      = "session"
	ActorInbox        = "inbox"
)

// Valid reports whether u is well formed.
func (u UserID) Valid() bool {
	if len(u) < 1 || len(u) > 64 {
		return false
	}
	for i := 0; i < len(u); i++ {
		if !isUserByte(u[i]) {
			return false
		}
	}
	return true
}

func isUserByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= '0' && b <= '9' || b == '.' || b == '_' || b == '-'
}

// Valid reports whether d is well formed.
func (d DeviceID) Valid() bool { return validToken(string(d)) }

// Valid reports whether c is well formed.
func (c ClientID) Valid() bool { return validToken(string(c)) }

func validToken(s string) bool {
	if len(s) < 1 || len(s) > 64 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Direct returns the id of the direct conversation of a and b, the same
// whichever comes first.
func Direct(a, b UserID) ConversationID {
	if b < a {
		a, b = b, a
	}
	return ConversationID(directPrefix + string(a) + pairSign + string(b))
}

// NewGroup returns the id of the group that creator makes with the client id:
// the same for every retry.
func NewGroup(creator UserID, id ClientID) ConversationID {
	sum := sha256.Sum256([]byte(string(creator) + "\x00" + string(id)))
	return ConversationID(groupPrefix + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:20])))
}

// Pair returns the two users of a direct conversation, in order, or false
// where c is not the id of one.
func (c ConversationID) Pair() (low, high UserID, ok bool) {
	rest, ok := strings.CutPrefix(string(c), directPrefix)
	if !ok {
		return "", "", false
	}
	a, b, ok := strings.Cut(rest, pairSign)
	low, high = UserID(a), UserID(b)
	if !ok || !low.Valid() || !high.Valid() || low >= high {
		return "", "", false
	}
	return low, high, true
}

// Peer returns the other user of a direct conversation of u, or false where c
// is not one of u's.
func (c ConversationID) Peer(u UserID) (UserID, bool) {
	low, high, ok := c.Pair()
	switch {
	case ok && u == low:
		return high, true
	case ok && u == high:
		return low, true
	}
	return "", false
}

// Kind returns KindDirect, KindGroup, or "" where c can name no conversation.
func (c ConversationID) Kind() string {
	if _, _, ok := c.Pair(); ok {
		return KindDirect
	}
	rest, ok := strings.CutPrefix(string(c), groupPrefix)
	if !ok || len(rest) != 32 {
		return ""
	}
	for i := 0; i < len(rest); i++ {
		if b := rest[i]; (b < 'a' || b > 'z') && (b < '2' || b > '7') {
			return ""
		}
	}
	return KindGroup
}

// ActorKind returns the actor kind that owns c, or "".
func (c ConversationID) ActorKind() string {
	switch c.Kind() {
	case KindDirect:
		return ActorConversation
	case KindGroup:
		return ActorGroup
	}
	return ""
}

package pebble

import (
	"testing"

	"github.com/troupe-chat/troupe/persistence"
)

// FuzzDecode gives every decoder of the key space what a damaged store may
// hold: it is an error or a value, never a panic.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{tableMembership}, []byte{})
	f.Add([]byte(membershipKey(persistence.Membership{User: "ana", Conversation: "d:ana~bob", Joined: 1})),
		encodeMembership(persistence.Membership{From: 1, Unmarked: true}))
	f.Add([]byte(logKey("d:ana~bob", 7)), []byte{10, 2, 40, 1, 18, 1, 0})
	f.Add([]byte(dedupKey(1, "d:ana~bob", persistence.AuthorID{Author: "ana", ClientID: "c"})), pack(1, 2, 3))
	f.Fuzz(func(t *testing.T, k, value []byte) {
		if len(k) == 0 {
			return // no table has such a key
		}
		_, _ = decodeMembership(k, value)
		_, _, _ = decodeRow("d:ana~bob", k, value)
		_, _ = decodeOverlay(1, k, value)
		_, _ = decodeDedup(persistence.AuthorID{}, value)
		_, _ = decodeMember(value, nil)
		_, _ = decodeSettings(value, nil)
		var account persistence.Account
		_ = decodeJSON(value, &account)
		key := fieldsOf(k)
		_, _, _ = key.name(), key.num(), key.num32()
	})
}

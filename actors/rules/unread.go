package rules

import "github.com/troupe-chat/troupe/messages"

// Unread returns how many texts and media lie beyond a read cursor, from how
// many the log holds up to its head and up to the cursor.
func Unread(head, read uint64) uint64 {
	return head - min(head, read)
}

// ReadAfterSend returns where an author's read cursor is after its own entry
// seq: there, if it had read everything countable that others wrote before
// (Effects.OthersBefore), else where it was. The second result tells whether
// it moved.
func ReadAfterSend(read, othersBefore, seq messages.Seq) (messages.Seq, bool) {
	if read < othersBefore || read >= seq {
		return read, false
	}
	return seq, true
}

// StartsRead returns the read cursor of one whose membership begins, given the
// one it has from before, or 0: everything before what it may see counts as
// read.
func (m Member) StartsRead(before messages.Seq) messages.Seq {
	return max(before, m.From-1)
}

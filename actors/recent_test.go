package actors

import (
	"strconv"
	"testing"

	"github.com/troupe-chat/troupe/actors/rules"
	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

func dedup(n int) persistence.Dedup {
	return persistence.Dedup{Author: "ana", ClientID: messages.ClientID(strconv.Itoa(n)), Seq: messages.Seq(n + 1)}
}

func idOf(n int) persistence.AuthorID {
	return persistence.AuthorID{Author: "ana", ClientID: messages.ClientID(strconv.Itoa(n))}
}

func sendOf(n int) rules.Command {
	return rules.Command{User: "ana", Frame: &messages.ClientFrame{
		Command: &messages.ClientFrame_Send{Send: &messages.Send{ClientId: strconv.Itoa(n)}},
	}}
}

func TestAnIDInUseIsNeverUnused(t *testing.T) {
	r := remember([]persistence.Dedup{dedup(0)}, true)
	for n := 1; n < maxSeen+100; n++ {
		r.add(dedup(n))
	}
	for n := range maxSeen + 100 {
		if r.unused(idOf(n)) {
			t.Fatalf("id %d is in use, and was said to be unused", n)
		}
	}
}

func TestANewIDNeedsNoLookUpWhileAllAreKnown(t *testing.T) {
	r := remember([]persistence.Dedup{dedup(0)}, true)
	if !r.unused(idOf(1)) || r.unused(idOf(0)) {
		t.Fatal("told a new id and one in use the wrong way round")
	}
	if part := remember(nil, false); part.unused(idOf(1)) {
		t.Fatal("took an id for unused where not all are known")
	}
}

func TestTheLastIDsAreFound(t *testing.T) {
	r := remember(nil, true)
	for n := range 3 * maxRecent {
		r.add(dedup(n))
	}
	for n := 3*maxRecent - maxWaiting; n < 3*maxRecent; n++ {
		if d := r.find(sendOf(n)); d == nil || d.Seq != messages.Seq(n+1) {
			t.Fatalf("id %d: found %v", n, d)
		}
	}
	if len(r.last) > maxRecent || len(r.order) > maxRecent {
		t.Fatalf("remembers %d ids, at most %d are wanted", len(r.last), maxRecent)
	}
}

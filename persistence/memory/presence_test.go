package memory

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

func put(p *Presence, u messages.UserID, o persistence.Online) {
	if err := p.Put(context.Background(), u, o); err != nil {
		panic(err)
	}
}

func get(p *Presence, us ...messages.UserID) []persistence.Online {
	found, err := p.Get(context.Background(), us)
	if err != nil {
		panic(err)
	}
	return found
}

func TestPresence(t *testing.T) {
	p := NewPresence()
	put(p, "ana", persistence.Online{Online: true})
	put(p, "bo", persistence.Online{Online: true})
	put(p, "bo", persistence.Online{LastSeen: 7})
	want := []persistence.Online{{LastSeen: 7}, {}, {Online: true}}
	if found := get(p, "bo", "cy", "ana"); !slices.Equal(found, want) {
		t.Errorf("presence is %v, not %v", found, want)
	}
	put(p, "bo", persistence.Online{Online: true})
	if found := get(p, "bo"); !found[0].Online {
		t.Error("bo is back and not online")
	}
}

func TestPresenceIsBounded(t *testing.T) {
	p := NewPresence()
	put(p, "ana", persistence.Online{Online: true})
	for i := range 3 * lastSeenKept {
		put(p, messages.UserID(fmt.Sprint("u", i)), persistence.Online{LastSeen: int64(i + 1)})
		if n := len(p.offline) + len(p.earlier); n > 2*lastSeenKept {
			t.Fatalf("%d offline users kept", n)
		}
	}
	last := messages.UserID(fmt.Sprint("u", 3*lastSeenKept-1))
	if found := get(p, "ana", last); !found[0].Online || found[1].LastSeen == 0 {
		t.Errorf("forgotten: %v", found)
	}
}

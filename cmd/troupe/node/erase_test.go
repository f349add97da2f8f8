package node_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/troupe-chat/troupe/cmd/troupe/node"
	"github.com/troupe-chat/troupe/gateway/client"
	"github.com/troupe-chat/troupe/internal/world"
	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
	"github.com/troupe-chat/troupe/persistence/faulty"
)

// Deleting an account takes back what its user wrote, everywhere.
func TestDeletedAccountIsErased(t *testing.T) {
	w := world.Start(t)
	ana, bo := w.As("ana"), w.As("bo")
	team := ana.Makes("team", "joined", "bo", "cy")
	former := bo.Makes("former", "joined", "ana")
	ana.SaysMany("bo", "private", 3)
	ana.SaysMany(team, "public", 3)
	ana.Says(former, "farewell")
	bo.Changes(former, &messages.ChangeGroup{Remove: []string{"ana"}})
	bo.Says("ana", "an answer")

	server := client.Accounts{Server: w.Node.ClientURL()}
	if err := server.DeleteAccount(t.Context(), w.Token("ana")); err != nil {
		t.Fatal(err)
	}
	if code := ana.Closed(); code != messages.CloseUnauthenticated {
		t.Errorf("the deleted user is closed with %d", code)
	}
	for _, c := range []string{anaBo, team, former} {
		bo.Await("ana's retractions in "+c, func(f *messages.ServerFrame) bool {
			for _, e := range f.GetDeliver().GetEntries() {
				if e.Conversation == c && e.From == "ana" && e.GetRetract() != nil {
					return true
				}
			}
			return false
		})
	}
	w.Until("the account is erased", func() bool { return erased(w, "ana") })
	for _, c := range []messages.ConversationID{anaBo, messages.ConversationID(team), messages.ConversationID(former)} {
		nothingOf(t, "ana", w.Log(c))
	}
	tablet := w.Connect(world.Device{User: "bo", Name: "tablet"})
	tablet.Sees("an answer")
	nothingOf(t, "ana", tablet.Entries())
	if left := bo.Ask(world.Do(&messages.GroupQuery{Conversation: team})).GetGroup(); len(left.GetMembers()) != 2 {
		t.Errorf("the team is left with %v", left.GetMembers())
	}
}

func erased(w *world.World, u messages.UserID) bool {
	a, err := w.Store.Account(context.Background(), u)
	return err == nil && a.Erased
}

func nothingOf(t *testing.T, user string, entries []*messages.Entry) {
	t.Helper()
	for _, e := range entries {
		if body := e.GetText().GetBody(); e.From == user && body != "" {
			t.Errorf("%s entry %d is served with %q", e.Conversation, e.Seq, body)
		}
	}
}

// An erasure that a crash or a failing store has cut short is done by the next
// process.
func TestErasureResumesAtStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	keep := func(c *node.Config) { c.Dir = dir }
	t.Run("deletes", func(t *testing.T) {
		w := world.Start(t, keep)
		w.Users("bo")
		w.As("ana").SaysMany("bo", "private", 3)
		w.Store.Randomly(func(op faulty.Op) faulty.Fault {
			if op == faulty.Memberships {
				return faulty.Refused
			}
			return faulty.None
		})
		if err := (client.Accounts{Server: w.Node.ClientURL()}).DeleteAccount(t.Context(), w.Token("ana")); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("starts again", func(t *testing.T) {
		w := world.Start(t, keep, func(c *node.Config) {
			c.Wrap = func(s persistence.Store) persistence.Store {
				if a, err := s.Account(context.Background(), "ana"); err != nil || !a.Deleted || a.Erased {
					t.Errorf("the account is found as %+v, %v", a, err)
				}
				return s
			}
		})
		w.Until("the account is erased", func() bool { return erased(w, "ana") })
		nothingOf(t, "ana", w.Log(anaBo))
	})
}

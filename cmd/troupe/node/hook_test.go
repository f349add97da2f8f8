package node_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/troupe-chat/troupe/cmd/troupe/node"
	"github.com/troupe-chat/troupe/internal/world"
)

// The webhook is told of what waits for who is away, and of nothing else.
func TestWebhookTellsOfWhoIsAway(t *testing.T) {
	type told struct {
		User, Conversation, From string
		Seq                      uint64
	}
	calls := make(chan told, 100)
	endpoint := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var post struct{ Entries []told }
		if err := json.NewDecoder(r.Body).Decode(&post); err != nil {
			t.Error(err)
		}
		for _, e := range post.Entries {
			calls <- e
		}
	}))
	defer endpoint.Close()
	w := world.Start(t, func(c *node.Config) {
		c.Hook = &node.Hook{URL: endpoint.URL, Secret: []byte("secret")}
	})
	ana, cy := w.As("ana"), w.As("cy")
	w.Users("bo")
	ana.Says("cy", "here")
	cy.Sees("here")
	team := ana.Makes("team", "joined", "bo", "cy")
	ana.Says(team, "some are away")
	ana.Says("bo", "away")
	got := map[told]bool{<-calls: true, <-calls: true}
	if want := (told{"bo", team, "ana", 2}); !got[want] {
		t.Errorf("told %v, want %v", got, want)
	}
	if want := (told{"bo", anaBo, "ana", 1}); !got[want] {
		t.Errorf("told %v, want %v", got, want)
	}
	w.Until("the outbox is empty", func() bool {
		notes, err := w.Store.PendingHooks(context.Background(), nil, 1)
		return err == nil && len(notes) == 0
	})
	if len(calls) > 0 {
		t.Errorf("told of %v, too", <-calls)
	}
}

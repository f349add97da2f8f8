package node_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/troupe-chat/troupe/internal/world"
	"github.com/troupe-chat/troupe/messages"
)

// Nobody but a member reads or writes a conversation: every command about it is
// not_found to a stranger and to a former member, nothing of it is delivered to
// a device that claims a position in it, and nothing has changed.
func TestStrangersAndFormerMembers(t *testing.T) {
	w := world.Start(t)
	ana, bo := w.As("ana"), w.As("bo")
	eve, old := w.As("eve"), w.As("old")
	direct := ana.Says("bo", "secret").Conversation
	group := ana.Makes("crew", "all", "bo", "old")
	ana.Says(group, "while old was here")
	old.Sees("while old was here")
	left := old.Changes(group, &messages.ChangeGroup{Leave: true}).Head
	ana.Says(group, "after")
	bo.Sees("after")
	before := snapshot(w, direct, group)

	for _, c := range []*world.Client{eve, old} {
		for _, id := range []string{direct, group} {
			for _, m := range about(id) {
				c.Refused(t, fmt.Sprintf("%s: %T of %s", c.User, m, id), m, messages.CodeNotFound)
			}
			for _, change := range allChanges(c.User) {
				change.Conversation = id
				c.Refused(t, fmt.Sprintf("%s: %v", c.User, change), change, messages.CodeNotFound)
			}
		}
		c.Hello = func(h *messages.Hello) { h.Positions = []*messages.Position{at(direct, 0), at(group, 0)} }
		c.Reconnect()
		c.Await("caught_up", isCaughtUp)
		c.Settle()
		for _, e := range c.Entries() {
			if c == eve || e.Conversation != group || e.Seq > left {
				t.Errorf("%s is delivered %v", c.User, e)
			}
		}
		if list := c.List(); len(list) != 0 {
			t.Errorf("%s's list shows %v", c.User, list)
		}
	}
	ana.Settle()
	for _, f := range ana.Frames() {
		if f.GetReceipt() != nil && f.GetReceipt().User == "eve" || f.GetTyping() != nil {
			t.Errorf("ana was told %v", f)
		}
	}
	if after := snapshot(w, direct, group); after != before {
		t.Errorf("changed:\n%s\n%s", before, after)
	}
	w.Judge()
}

func allChanges(self string) []*messages.ChangeGroup {
	return []*messages.ChangeGroup{
		{ClientId: "a", Add: []string{self}},
		{ClientId: "b", Remove: []string{"bo"}},
		{ClientId: "c", Promote: []string{self}},
		{ClientId: "d", Demote: []string{"ana"}},
		{ClientId: "e", Name: "mine"},
		{ClientId: "f", Leave: true},
	}
}

// snapshot is what the logs hold.
func snapshot(w *world.World, ids ...string) string {
	var b strings.Builder
	for _, id := range ids {
		for _, e := range w.Log(messages.ConversationID(id)) {
			fmt.Fprintln(&b, e)
		}
	}
	return b.String()
}

// Members without the right to are forbidden, each by its role.
func TestRoles(t *testing.T) {
	w := world.Start(t)
	ana := w.As("ana")
	group := ana.Makes("crew", "joined", "adm", "mem", "other")
	ana.Changes(group, &messages.ChangeGroup{Promote: []string{"adm"}})
	adm, mem := w.As("adm"), w.As("mem")
	w.Users("new")
	theirs := adm.Says(group, "of an admin").Seq
	refused := func(c *world.Client, change *messages.ChangeGroup) {
		t.Helper()
		change.Conversation, change.ClientId = group, "refused"
		c.Refused(t, fmt.Sprintf("%s: %v", c.User, change), change, messages.CodeForbidden)
	}
	for _, change := range []*messages.ChangeGroup{
		{Add: []string{"new"}}, {Remove: []string{"other"}}, {Promote: []string{"mem"}}, {Demote: []string{"adm"}}, {Name: "x"},
	} {
		refused(mem, change)
	}
	mem.Refused(t, "an admin's entry", &messages.Send{
		Conversation: group, ClientId: "refused", Content: &messages.Send_Retract{Retract: &messages.Retract{Seq: theirs}},
	}, messages.CodeForbidden)
	refused(adm, &messages.ChangeGroup{Promote: []string{"mem"}})
	refused(adm, &messages.ChangeGroup{Demote: []string{"adm"}})
	refused(adm, &messages.ChangeGroup{Remove: []string{"ana"}})
	// A refused change has not used its client id up, and the allowed work.
	adm.Changes(group, &messages.ChangeGroup{Add: []string{"new"}, Remove: []string{"other"}, Name: "ship"})
	mem.Changes(group, &messages.ChangeGroup{Leave: true})
	g := ana.Changes(group, &messages.ChangeGroup{Leave: true})
	roles := map[string]string{}
	for _, m := range adm.Ask(world.Do(&messages.GroupQuery{Conversation: group})).GetGroup().Members {
		roles[m.User] = m.Role
	}
	if len(roles) != 2 || roles["adm"] != "owner" || roles["new"] != "member" {
		t.Errorf("in the end: %v (the owner left with %v)", roles, g)
	}
	w.Judge()
}

// Whoever has blocked, or is blocked, can't send to the other nor tell it
// anything; both keep what they have, and groups go on.
func TestBlocks(t *testing.T) {
	w := world.Start(t)
	ana, bo := w.As("ana"), w.As("bo")
	seq := ana.Says("bo", "hi").Seq
	bo.Sees("hi")
	group := ana.Makes("crew", "joined", "bo")
	presence(t, ana, "bo", true)
	if f := bo.Ask(world.Do(&messages.Block{User: "ana"})); f.GetOk() == nil {
		t.Fatal(f)
	}
	ana.Await("presence that ends", func(f *messages.ServerFrame) bool {
		return f.GetPresence().GetUser() == "bo" && !f.GetPresence().GetOnline()
	})
	for _, c := range []*world.Client{ana, bo} {
		for i, content := range []*messages.Send{
			{Content: &messages.Send_Text{Text: &messages.Text{Body: "x"}}},
			{Content: &messages.Send_Reaction{Reaction: &messages.Reaction{Seq: seq, Emoji: "x"}}},
			{Content: &messages.Send_Edit{Edit: &messages.Edit{Seq: seq, Body: "x"}}},
		} {
			content.Conversation, content.ClientId = anaBo, fmt.Sprint("blocked-", i)
			c.Refused(t, fmt.Sprintf("%s: %v", c.User, content), content, messages.CodeForbidden)
		}
		c.Refused(t, c.User+" typing", &messages.Typing{Conversation: anaBo, Active: true}, messages.CodeForbidden)
		if n := len(c.History(&messages.History{Conversation: anaBo}).Entries); n != 1 {
			t.Errorf("%s has %d entries", c.User, n)
		}
	}
	presence(t, ana, "bo", false)
	ana.Says(group, "to all")
	bo.Sees("to all")
	if f := bo.Ask(world.Do(&messages.Unblock{User: "ana"})); f.GetOk() == nil {
		t.Fatal(f)
	}
	ana.Says("bo", "again")
	bo.Sees("again")
	if n := len(w.Log(anaBo)); n != 2 {
		t.Errorf("the log has %d entries", n)
	}
	w.Judge()
}

// presence watches a user and wants it online or not.
func presence(t *testing.T, c *world.Client, user string, online bool) {
	t.Helper()
	seen := len(c.Frames())
	if f := c.Ask(world.Do(&messages.Watch{Users: []string{user}})); f.GetOk() == nil {
		t.Fatal(f)
	}
	n := 0
	c.Await("presence of "+user, func(f *messages.ServerFrame) bool {
		n++
		if n <= seen || f.GetPresence().GetUser() != user {
			return false
		}
		if f.GetPresence().Online != online {
			t.Errorf("%s is shown %v", c.User, f)
		}
		return true
	})
}

// A token that has expired, or was taken back, opens nothing, ends the
// connection that it opened, and serves no HTTP call.
func TestExpiredTokens(t *testing.T) {
	w := world.Start(t)
	token := w.Brief("ana", time.Minute)
	ana := w.Connect(world.Device{User: "ana", Name: "phone", Token: token})
	bo := w.Connect(world.Device{User: "bo", Name: "phone", Token: w.Brief("bo", time.Minute)})
	ana.Says("bo", "in time")
	if f := bo.Ask(world.Do(&messages.Hello{Token: w.Token("bo"), Device: "phone"})); f.GetWelcome() == nil {
		t.Errorf("renewal: %v", f)
	}
	w.Clock.Advance(2 * time.Minute)
	if code := ana.Closed(); code != messages.CloseUnauthenticated {
		t.Errorf("closed with %d", code)
	}
	if f := ana.Greet(); f.GetError().GetCode() != messages.CodeUnauthenticated {
		t.Errorf("hello: %v", f)
	}
	if code := ana.Closed(); code != messages.CloseUnauthenticated {
		t.Errorf("closed with %d", code)
	}
	for _, call := range []string{"GET /v1/devices", "DELETE /v1/devices/all", "DELETE /v1/account", "POST /v1/password"} {
		method, path, _ := strings.Cut(call, " ")
		if status := httpCall(t, w, method, path, token); status != http.StatusUnauthorized {
			t.Errorf("%s: %d", call, status)
		}
	}
	bo.Settle() // renewed

	if status := httpCall(t, w, "DELETE", "/v1/devices/all", w.Token("bo")); status != http.StatusNoContent {
		t.Errorf("signing out: %d", status)
	}
	if code := bo.Closed(); code != messages.CloseUnauthenticated {
		t.Errorf("signed out, closed with %d", code)
	}
}

func httpCall(t *testing.T, w *world.World, method, path, token string) int {
	t.Helper()
	r, err := http.NewRequest(method, w.Node.ClientURL()+path, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	return answer.StatusCode
}

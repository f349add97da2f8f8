package client_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/troupe-chat/troupe/gateway/client"
	"github.com/troupe-chat/troupe/gateway/client/clienttest"
	"github.com/troupe-chat/troupe/messages"
)

func (w *world) texts(id messages.ConversationID) []string {
	var out []string
	for _, e := range w.server.Log(id) {
		out = append(out, e.GetText().GetBody())
	}
	return out
}

func TestWhatIsQueuedOfflineIsSentInOrder(t *testing.T) {
	inWorld(t, func(w *world) {
		ana := w.prepare("ana", nil)
		var want []string
		var last *client.Outgoing
		for i := range 50 {
			to := client.ToUser("bo")
			if i%2 == 1 {
				to = client.In(anaBo) // the same target
			}
			out, err := ana.Send(client.Text(to, fmt.Sprint(i)))
			last = must(t, out, err)()
			want = append(want, fmt.Sprint(i))
		}
		w.run(ana)
		if _, err := last.Wait(w.ctx); err != nil {
			t.Fatal(err)
		}
		w.want(w.texts(anaBo), want)
		synctest.Wait()
		w.want(ana.bodies(), want)
		if n := len(ana.Unsent()); n != 0 {
			t.Errorf("%d unsent", n)
		}
	})
}

func TestLostAnswerIsAskedForWithTheSameID(t *testing.T) {
	inWorld(t, func(w *world) {
		lost := 0
		w.server.Intercept = func(c *clienttest.Conn, f *messages.ClientFrame) bool {
			if f.GetSend() == nil || lost == 3 {
				return false
			}
			lost++
			c.Drop()
			if lost == 2 {
				w.server.Do(c, f) // it is appended, and the answer finds nobody
			}
			return true
		}
		ana := w.start("ana", nil)
		out, err := ana.Send(client.Text(client.ToUser("bo"), "once"))
		sent, err := must(t, out, err)().Wait(w.ctx)
		if err != nil || sent.Seq != 1 || !sent.Duplicate {
			t.Errorf("sent %v, %v", sent, err)
		}
		time.Sleep(time.Second)
		w.want(w.texts(anaBo), []string{"once"})
		w.want(ana.bodies(), []string{"once"})
	})
}

func TestRefusalsThatPassAreWaitedOut(t *testing.T) {
	for _, code := range []string{messages.CodeRateLimited, messages.CodeOverloaded, messages.CodeUnavailable} {
		t.Run(code, func(t *testing.T) {
			inWorld(t, func(w *world) {
				refused := 0
				w.server.Intercept = func(c *clienttest.Conn, f *messages.ClientFrame) bool {
					if f.GetSend() == nil || refused == 2 {
						return false
					}
					refused++
					c.Refuse(f, messages.Later(code, 7*time.Second, "later"))
					return true
				}
				ana := w.start("ana", nil)
				synctest.Wait()
				began := time.Now()
				var last *client.Outgoing
				for i := range 3 {
					out, err := ana.Send(client.Text(client.ToUser("bo"), fmt.Sprint(i)))
					last = must(t, out, err)()
				}
				if _, err := last.Wait(w.ctx); err != nil {
					t.Fatal(err)
				}
				w.want(w.texts(anaBo), []string{"0", "1", "2"})
				if d := time.Since(began); d != 14*time.Second {
					t.Errorf("it took %v, want twice 7 s", d)
				}
			})
		})
	}
}

func TestOneFullConversationHoldsNoOtherBack(t *testing.T) {
	inWorld(t, func(w *world) {
		w.server.AddUser("cy", "a password")
		w.server.Intercept = func(c *clienttest.Conn, f *messages.ClientFrame) bool {
			if f.GetSend().GetUser() != "bo" {
				return false
			}
			c.Refuse(f, messages.Later(messages.CodeOverloaded, time.Hour, "later"))
			return true
		}
		ana := w.start("ana", nil)
		ana.Send(client.Text(client.ToUser("bo"), "stuck"))
		out, err := ana.Send(client.Text(client.ToUser("cy"), "through"))
		if _, err := must(t, out, err)().Wait(w.ctx); err != nil {
			t.Fatal(err)
		}
	})
}

func TestManyLargeSendsAreSpreadOverMessages(t *testing.T) {
	inWorld(t, func(w *world) {
		ana := w.prepare("ana", nil)
		body := strings.Repeat("x", 15<<10)
		for i := range 12 {
			to := messages.UserID(fmt.Sprint("user", i))
			w.server.AddUser(string(to), "a password")
			out, err := ana.Send(client.Text(client.ToUser(to), body))
			must(t, out, err)
		}
		w.run(ana)
		for _, out := range ana.Unsent() {
			if _, err := out.Wait(w.ctx); err != nil {
				t.Error(err)
			}
		}
		if n := ana.Stats().Connects; n != 1 {
			t.Errorf("%d connects, want 1: a message was too large", n)
		}
	})
}

func TestOtherRefusalsAreFinal(t *testing.T) {
	inWorld(t, func(w *world) {
		ana := w.start("ana", nil)
		first, err := ana.Send(client.Text(client.ToUser("nobody"), "hi"))
		must(t, first, err)
		var f *messages.Failure
		if _, err := first.Wait(w.ctx); !errors.As(err, &f) || f.Code != messages.CodeNotFound {
			t.Errorf("got %v", err)
		}
		if n := len(ana.Unsent()); n != 0 {
			t.Errorf("%d unsent", n)
		}
		if _, err := ana.Send(&messages.Send{}); err == nil {
			t.Error("a send to nobody was queued")
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	inWorld(t, func(w *world) {
		ana := w.prepare("ana", func(o *client.Options) { o.MaxQueued = 2 })
		for range 2 {
			out, err := ana.Send(client.Text(client.ToUser("bo"), "x"))
			must(t, out, err)
		}
		var f *messages.Failure
		if _, err := ana.Send(client.Text(client.ToUser("bo"), "x")); !errors.As(err, &f) || f.Code != messages.CodeOverloaded {
			t.Errorf("got %v", err)
		}
	})
}

func TestQueueSurvivesTheProcess(t *testing.T) {
	inWorld(t, func(w *world) {
		path := t.TempDir() + "/state"
		open := func() *client.FileStore {
			s, err := client.OpenFile(path)
			return must(t, s, err)()
		}
		store := open()
		first := w.prepare("ana", func(o *client.Options) { o.Store = store })
		ids := map[messages.ClientID]bool{}
		for i := range 3 {
			out, err := first.Send(client.Text(client.ToUser("bo"), fmt.Sprint(i)))
			ids[must(t, out, err)().ClientID()] = true
		}
		store.Close()
		store = open()
		second := w.start("ana", func(o *client.Options) { o.Store = store })
		for _, out := range second.Unsent() {
			if _, err := out.Wait(w.ctx); err != nil || !ids[out.ClientID()] {
				t.Errorf("%s: %v", out.ClientID(), err)
			}
		}
		w.want(w.texts(anaBo), []string{"0", "1", "2"})
		synctest.Wait()
		second.end()
		store.Close()
		saved, err := open().Load()
		if err != nil || len(saved.Sends) != 0 || saved.Positions[anaBo] != 3 {
			t.Errorf("saved %v, %v", saved, err)
		}
	})
}

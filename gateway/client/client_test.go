package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/gateway/client"
	"github.com/troupe-chat/troupe/gateway/client/clienttest"
	"github.com/troupe-chat/troupe/messages"
)

func TestEntriesComeOnceInOrderOverLostConnections(t *testing.T) {
	for _, json := range []bool{false, true} {
		t.Run(fmt.Sprintf("json=%t", json), func(t *testing.T) {
			inWorld(t, func(w *world) {
				bo := w.start("bo", func(o *client.Options) { o.JSON = json })
				synctest.Wait()
				var want []string
				for i := range 30 {
					body := fmt.Sprint("n", i)
					want = append(want, body)
					w.server.Say("ana", "bo", body)
					if i%7 == 3 {
						w.only("bo").Drop()
						time.Sleep(time.Minute)
					}
				}
				time.Sleep(time.Second)
				w.want(bo.bodies(), want)
				if s := bo.Stats(); s.Connects != 5 || s.Gaps != 0 {
					t.Errorf("stats %+v, want 5 connects and no gap", s)
				}
				if err := bo.end(); err != nil {
					t.Errorf("Run: %v", err)
				}
			})
		})
	}
}

func TestAnotherRunGoesOnWhereTheFirstEnded(t *testing.T) {
	inWorld(t, func(w *world) {
		store := client.NewMemory()
		keep := func(o *client.Options) { o.Store = store }
		bo := w.start("bo", keep)
		synctest.Wait()
		w.server.Say("ana", "bo", "one")
		synctest.Wait()
		bo.end()
		w.server.Say("ana", "bo", "two")
		again := w.start("bo", keep)
		time.Sleep(time.Second)
		w.want(again.bodies(), []string{"two"})
		hellos := w.server.Frames(func(f *messages.ClientFrame) bool { return f.GetHello() != nil })
		if p := hellos[1].GetHello().Positions; len(p) != 1 || p[0].Seq != 1 {
			t.Errorf("the second hello has positions %v, want one at 1", p)
		}
	})
}

func TestGapIsHealedByReconnecting(t *testing.T) {
	inWorld(t, func(w *world) {
		bo := w.start("bo", nil)
		synctest.Wait()
		w.server.Say("ana", "bo", "one")
		w.server.Append("ana", "bo", "two")
		third := w.server.Append("ana", "bo", "three")
		w.only("bo").Deliver(third)
		synctest.Wait()
		w.want(bo.bodies(), []string{"one"})
		time.Sleep(time.Minute)
		w.want(bo.bodies(), []string{"one", "two", "three"})
		if s := bo.Stats(); s.Gaps != 1 || s.Connects != 2 {
			t.Errorf("stats %+v, want 1 gap and 2 connects", s)
		}
	})
}

func TestJumpToAMembershipIsNoGap(t *testing.T) {
	inWorld(t, func(w *world) {
		bo := w.start("bo", nil)
		synctest.Wait()
		group := string(messages.NewGroup("ana", "1"))
		entry := func(seq uint64, body string) *messages.Entry {
			return &messages.Entry{Conversation: group, Seq: seq, From: "ana", Kind: &messages.Entry_Text{Text: &messages.Text{Body: body}}}
		}
		w.only("bo").Deliver(entry(1, "one"), entry(2, "two"))
		w.only("bo").Write(&messages.ServerFrame{Event: &messages.ServerFrame_Deliver{Deliver: &messages.Deliver{
			Entries: []*messages.Entry{entry(9, "nine"), entry(10, "ten")},
			Starts:  []*messages.Position{{Conversation: group, Seq: 9}},
		}}})
		synctest.Wait()
		w.want(bo.bodies(), []string{"one", "two", "nine", "ten"})
		if s := bo.Stats(); s.Gaps != 0 {
			t.Errorf("%d gaps, want none", s.Gaps)
		}
	})
}

func TestRepeatsAreAcknowledgedButNotHandedOn(t *testing.T) {
	inWorld(t, func(w *world) {
		bo := w.start("bo", nil)
		synctest.Wait()
		first := w.server.Say("ana", "bo", "one")
		time.Sleep(time.Second)
		w.only("bo").Deliver(first)
		time.Sleep(time.Second)
		w.want(bo.bodies(), []string{"one"})
		if n := len(w.server.Frames(isAck)); n != 2 || bo.Stats().Repeats != 1 {
			t.Errorf("%d acks and %d repeats, want 2 and 1", n, bo.Stats().Repeats)
		}
	})
}

func isAck(f *messages.ClientFrame) bool { return f.GetAck() != nil }

func TestMalformedEntryEndsTheConnection(t *testing.T) {
	inWorld(t, func(w *world) {
		bo := w.start("bo", nil)
		synctest.Wait()
		w.only("bo").Deliver(&messages.Entry{Conversation: string(anaBo)})
		time.Sleep(time.Minute)
		if s := bo.Stats(); s.Connects != 2 || len(bo.bodies()) != 0 {
			t.Errorf("stats %+v, entries %q: want 2 connects and none", s, bo.bodies())
		}
	})
}

func TestOwnEntryTakesItsPlace(t *testing.T) {
	inWorld(t, func(w *world) {
		// The server answers before it has delivered what comes earlier.
		w.server.Intercept = func(c *clienttest.Conn, f *messages.ClientFrame) bool {
			if f.GetSend() == nil {
				return false
			}
			second := w.server.Append("bo", "ana", "two")
			own := w.server.Append("ana", "bo", f.GetSend().GetText().Body)
			c.Write(&messages.ServerFrame{Re: f.Id, Event: &messages.ServerFrame_Sent{Sent: &messages.Sent{
				Conversation: own.Conversation, Seq: own.Seq, ClientId: f.GetSend().ClientId, At: own.At,
			}}})
			c.Deliver(second)
			return true
		}
		ana := w.start("ana", nil)
		synctest.Wait()
		w.server.Say("bo", "ana", "one")
		out, err := ana.Send(client.Text(client.ToUser("bo"), "three"))
		sent := must(t, out, err)()
		if _, err := sent.Wait(w.ctx); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.want(ana.bodies(), []string{"one", "two", "three"})
		own := ana.entries[2]
		if own.From != "ana" || own.ClientId != string(sent.ClientID()) || own.Seq != 3 || own.At == 0 {
			t.Errorf("own entry %v", own)
		}
	})
}

func TestAcknowledgesAfterTheHandlerAndTheStore(t *testing.T) {
	inWorld(t, func(w *world) {
		release := make(chan struct{})
		store := &watchedStore{Memory: client.NewMemory()}
		w.start("bo", func(o *client.Options) {
			o.Store = store
			o.Handler.Entry = func(*messages.Entry) { <-release }
		})
		synctest.Wait()
		w.server.Say("ana", "bo", "one")
		time.Sleep(time.Minute)
		if n := len(w.server.Frames(isAck)); n != 0 {
			t.Errorf("%d acks while the handler runs", n)
		}
		store.fail(errors.New("disk full"))
		close(release)
		time.Sleep(time.Minute)
		if n := len(w.server.Frames(isAck)); n != 0 {
			t.Errorf("%d acks of a position that is not saved", n)
		}
		store.fail(nil)
		time.Sleep(time.Second)
		if n := w.server.Acked("bo", "bo-1", anaBo); n != 1 {
			t.Errorf("acknowledged %d, want 1", n)
		}
	})
}

// watchedStore is a Memory that can be made to fail.
type watchedStore struct {
	*client.Memory
	mu  sync.Mutex
	err error // guarded by mu
}

func (s *watchedStore) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *watchedStore) Move(p map[messages.ConversationID]messages.Seq) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	return s.Memory.Move(p)
}

func TestAcknowledgementsAreFewAndInsideTheWindow(t *testing.T) {
	inWorld(t, func(w *world) {
		for i := range 1000 {
			w.server.Append("ana", "bo", fmt.Sprint(i))
		}
		bo := w.start("bo", nil)
		time.Sleep(time.Second)
		if n := len(bo.bodies()); n != 1000 {
			t.Fatalf("%d entries, want 1000", n)
		}
		acks := w.server.Frames(isAck)
		if len(acks) < 1000/64 || len(acks) > 40 {
			t.Errorf("%d acks for 1000 entries", len(acks))
		}
		last := uint64(0)
		for _, f := range acks {
			seq := f.GetAck().Positions[0].Seq
			if seq-last > 64 {
				t.Errorf("an ack jumps from %d to %d", last, seq)
			}
			last = seq
		}
	})
}

func TestHelloCarriesAllPositionsInPieces(t *testing.T) {
	inWorld(t, func(w *world) {
		store := client.NewMemory()
		positions := map[messages.ConversationID]messages.Seq{}
		for i := range 1200 {
			id := fmt.Sprintf("d:%064d~%064d", i, i+1)
			positions[messages.ConversationID(id)] = messages.Seq(i + 1)
		}
		store.Move(positions)
		w.start("bo", func(o *client.Options) { o.Store = store })
		time.Sleep(time.Second)
		seen := 0
		for _, f := range w.server.Frames(func(f *messages.ClientFrame) bool { return f.GetHello() != nil }) {
			if n := len(f.GetHello().Positions); n > messages.MaxPositions {
				t.Errorf("%d positions in one hello", n)
			}
			if n := proto.Size(f); n > 64<<10 {
				t.Errorf("a hello of %d bytes", n)
			}
			seen += len(f.GetHello().Positions)
		}
		if seen != 1200 {
			t.Errorf("%d positions in all, want 1200", seen)
		}
	})
}

func TestCloseCodesSayWhetherToComeBack(t *testing.T) {
	tests := []struct {
		code       int
		stays      bool
		token      bool // a new one is got
		least, max time.Duration
	}{
		{code: messages.CloseBadFrame, stays: true},
		{code: messages.CloseReplaced, stays: true},
		{code: messages.CloseTooManyDevices, stays: true},
		{code: messages.CloseTooLarge, stays: true},
		{code: messages.CloseUnauthenticated, token: true, max: 500 * time.Millisecond},
		{code: messages.CloseTimeout, max: 500 * time.Millisecond},
		{code: messages.CloseRestarting, max: 500 * time.Millisecond},
		{code: messages.CloseOverloaded, least: 5 * time.Second, max: 10 * time.Second},
		{code: messages.CloseRateLimited, least: 5 * time.Second, max: 10 * time.Second},
		{code: 1011, max: 500 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.code), func(t *testing.T) {
			inWorld(t, func(w *world) {
				bo := w.start("bo", nil)
				synctest.Wait()
				w.only("bo").Close(tt.code, "because")
				time.Sleep(time.Minute)
				if tt.stays {
					var closed *client.Closed
					if <-bo.done; !errors.As(bo.err, &closed) || closed.Code != tt.code {
						t.Errorf("Run returned %v, want a Closed with %d", bo.err, tt.code)
					}
					return
				}
				waits := bo.waits()
				if len(waits) != 1 || bo.Stats().Connects != 2 {
					t.Fatalf("waits %v, connects %d: want 1 and 2", waits, bo.Stats().Connects)
				}
				if d := waits[0].After; d < tt.least || d > tt.max {
					t.Errorf("waited %v, want %v to %v", d, tt.least, tt.max)
				}
				if got := bo.tokensGot() == 2; got != tt.token {
					t.Errorf("%d tokens got; a new one: want %t", bo.tokensGot(), tt.token)
				}
			})
		})
	}
}

func TestClosingSaysWhenToComeBack(t *testing.T) {
	inWorld(t, func(w *world) {
		bo := w.start("bo", nil)
		synctest.Wait()
		w.only("bo").Write(&messages.ServerFrame{Event: &messages.ServerFrame_Closing{
			Closing: &messages.Closing{Reason: "restart", ReconnectAfterMs: 42_000},
		}})
		w.only("bo").Close(messages.CloseRestarting, "restart")
		synctest.Wait()
		if waits := bo.waits(); len(waits) != 1 || waits[0].After != 42*time.Second {
			t.Fatalf("waits %v, want 42 s", waits)
		}
		time.Sleep(41 * time.Second)
		if n := bo.Stats().Connects; n != 1 {
			t.Errorf("%d connects after 41 s", n)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := bo.Stats().Connects; n != 2 {
			t.Errorf("%d connects after 42 s", n)
		}
	})
}

func TestWaitsGrowUntilAConnectionHolds(t *testing.T) {
	inWorld(t, func(w *world) {
		var hold atomic.Bool
		w.server.Intercept = func(c *clienttest.Conn, f *messages.ClientFrame) bool {
			if hold.Load() {
				return false
			}
			w.server.Do(c, f)
			c.Drop()
			return true
		}
		bo := w.start("bo", nil)
		time.Sleep(20 * time.Minute)
		longest := time.Duration(0)
		for i, s := range bo.waits() {
			longest = max(longest, s.After)
			if i < 6 && s.After > 500*time.Millisecond<<i {
				t.Errorf("wait %d is %v", i, s.After)
			}
		}
		if longest < 10*time.Second || longest > 30*time.Second {
			t.Errorf("the longest of %d waits was %v", len(bo.waits()), longest)
		}
		hold.Store(true)
		time.Sleep(time.Minute)
		before := len(bo.waits())
		w.only("bo").Drop()
		synctest.Wait()
		if waits := bo.waits(); len(waits) != before+1 || waits[before].After > 500*time.Millisecond {
			t.Errorf("after a connection that held: %v", waits[before:])
		}
	})
}

func TestOnlyTheFirstHelloStartsAtTheHead(t *testing.T) {
	inWorld(t, func(w *world) {
		w.server.Append("ana", "bo", "long ago")
		bo := w.start("bo", func(o *client.Options) { o.Start = "head" })
		synctest.Wait()
		w.only("bo").Drop()
		w.server.Append("ana", "bo", "meanwhile")
		time.Sleep(time.Second)
		var starts []string
		for _, f := range w.server.Frames(func(f *messages.ClientFrame) bool { return f.GetHello() != nil }) {
			starts = append(starts, f.GetHello().Start)
		}
		w.want(starts, []string{"head", ""})
		w.want(bo.bodies(), []string{"meanwhile"})
	})
}

func TestOwnEntriesAreNotAcknowledged(t *testing.T) {
	inWorld(t, func(w *world) {
		bo := w.start("bo", nil)
		out, err := bo.Send(client.Text(client.ToUser("ana"), "hi"))
		must(t, out, err)
		time.Sleep(time.Second)
		if n := len(w.server.Frames(isAck)); n != 0 || len(bo.bodies()) != 1 {
			t.Errorf("%d acks for %d entries of one's own", n, len(bo.bodies()))
		}
	})
}

func TestNewTokenThatIsRefusedIsTheEnd(t *testing.T) {
	inWorld(t, func(w *world) {
		bo := w.start("bo", func(o *client.Options) {
			o.Token = func(context.Context) (string, error) { return "forged", nil }
		})
		<-bo.done
		var closed *client.Closed
		if !errors.As(bo.err, &closed) || closed.Code != messages.CloseUnauthenticated {
			t.Errorf("Run returned %v", bo.err)
		}
	})
}

func TestTokenSourceThatRefusesIsTheEnd(t *testing.T) {
	inWorld(t, func(w *world) {
		attempts := 0
		bo := w.start("bo", func(o *client.Options) {
			o.Token = func(context.Context) (string, error) {
				if attempts++; attempts < 3 {
					return "", errors.New("no network")
				}
				return "", messages.Fail(messages.CodeUnauthenticated, "wrong password")
			}
		})
		<-bo.done
		var f *messages.Failure
		if !errors.As(bo.err, &f) || f.Code != messages.CodeUnauthenticated || attempts != 3 {
			t.Errorf("Run returned %v after %d attempts", bo.err, attempts)
		}
	})
}

func TestSilentServerIsLeft(t *testing.T) {
	inWorld(t, func(w *world) {
		bo := w.start("bo", nil)
		synctest.Wait()
		time.Sleep(62 * time.Second)
		if n := bo.Stats().Connects; n != 1 || len(bo.waits()) != 0 {
			t.Errorf("%d connects within the heartbeat", n)
		}
		time.Sleep(10 * time.Second)
		if n := bo.Stats().Connects; n != 2 {
			t.Errorf("%d connects, want 2: two heartbeats and a half were missed", n)
		}
	})
}

func TestCommandSurvivesALostConnection(t *testing.T) {
	inWorld(t, func(w *world) {
		dropped := false
		w.server.Intercept = func(c *clienttest.Conn, f *messages.ClientFrame) bool {
			if f.GetPing() == nil || dropped {
				return false
			}
			dropped = true
			c.Drop()
			return true
		}
		bo := w.start("bo", nil)
		if _, err := bo.Ping(w.ctx); err != nil {
			t.Fatal(err)
		}
		if n := bo.Stats().Connects; n != 2 {
			t.Errorf("%d connects, want 2", n)
		}
	})
}

func TestCommandsEndWithTheirContextAndWithRun(t *testing.T) {
	inWorld(t, func(w *world) {
		bo := w.prepare("bo", nil)
		ctx, cancel := context.WithTimeout(w.ctx, time.Second)
		defer cancel()
		if _, err := bo.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("offline: %v", err)
		}
		w.run(bo)
		bo.end()
		if _, err := bo.Ping(w.ctx); !errors.Is(err, client.ErrStopped) {
			t.Errorf("stopped: %v", err)
		}
		if err := bo.Run(w.ctx); err == nil {
			t.Error("a second Run went through")
		}
	})
}

func TestRefusalIsAFailure(t *testing.T) {
	inWorld(t, func(w *world) {
		w.server.Intercept = func(c *clienttest.Conn, f *messages.ClientFrame) bool {
			if f.GetHistory() != nil {
				c.Refuse(f, messages.Later(messages.CodeOverloaded, 1500*time.Millisecond, "try later"))
			}
			return f.GetHistory() != nil
		}
		bo := w.start("bo", nil)
		_, err := bo.History(w.ctx, anaBo, client.HistoryQuery{})
		var f *messages.Failure
		if !errors.As(err, &f) || f.Code != messages.CodeOverloaded || f.RetryAfter != 1500*time.Millisecond {
			t.Errorf("got %v", err)
		}
		if err := bo.Mute(w.ctx, anaBo, true); err != nil {
			t.Errorf("the connection did not survive: %v", err)
		}
	})
}

func TestTooLargeIsNotSentToTheServer(t *testing.T) {
	inWorld(t, func(w *world) {
		bo := w.prepare("bo", nil)
		huge, err := bo.Send(client.Text(client.ToUser("ana"), string(make([]byte, 70<<10))))
		must(t, huge, err)
		small, err := bo.Send(client.Text(client.ToUser("ana"), "small"))
		must(t, small, err)
		w.run(bo)
		var f *messages.Failure
		if _, err := huge.Wait(w.ctx); !errors.As(err, &f) || f.Code != messages.CodeTooLarge {
			t.Errorf("got %v", err)
		}
		if _, err := small.Wait(w.ctx); err != nil {
			t.Errorf("the one behind it: %v", err)
		}
		if n := bo.Stats().Connects; n != 1 {
			t.Errorf("%d connects, want 1", n)
		}
	})
}

func TestCommands(t *testing.T) {
	inWorld(t, func(w *world) {
		w.server.Say("ana", "bo", "to nobody yet")
		bo := w.start("bo", nil)
		synctest.Wait()
		for i := range 5 {
			w.server.Say("ana", "bo", fmt.Sprint("n", i))
		}
		page, err := bo.History(w.ctx, anaBo, client.HistoryQuery{Before: 4, Limit: 2})
		if err != nil || len(page.Entries) != 2 || page.Entries[0].Seq != 2 || !page.More {
			t.Errorf("history: %v %v", page, err)
		}
		group, err := bo.CreateGroup(w.ctx, &messages.CreateGroup{Name: "team", Members: []string{"ana"}})
		if err != nil || len(group.Members) != 2 {
			t.Fatalf("create: %v %v", group, err)
		}
		id := messages.ConversationID(group.Conversation)
		if group, err = bo.ChangeGroup(w.ctx, &messages.ChangeGroup{Conversation: string(id), Name: "crew"}); err != nil || group.Name != "crew" {
			t.Errorf("change: %v %v", group, err)
		}
		if group, err = bo.Group(w.ctx, id); err != nil || group.Head != 2 {
			t.Errorf("group: %v %v", group, err)
		}
		if err := bo.Read(w.ctx, anaBo, 3); err != nil {
			t.Errorf("read: %v", err)
		}
		receipts, err := bo.Receipts(w.ctx, anaBo, 3)
		if err != nil || len(receipts.Members) != 2 || receipts.Members[1].Status != "read" {
			t.Errorf("receipts: %v %v", receipts, err)
		}
		errs := []error{
			bo.Block(w.ctx, "ana"), bo.Unblock(w.ctx, "ana"), bo.SetProfile(w.ctx, "Bo", ""),
			bo.Mute(w.ctx, id, true), bo.Archive(w.ctx, id, true), bo.Pin(w.ctx, id, true), bo.Clear(w.ctx, id),
		}
		if err := errors.Join(errs...); err != nil {
			t.Error(err)
		}
		profiles, err := bo.Profiles(w.ctx, "bo", "ana")
		if err != nil || len(profiles) != 2 || profiles[0].Name != "Bo" {
			t.Errorf("profiles: %v %v", profiles, err)
		}
		for c, err := range bo.Conversations(w.ctx) {
			if err != nil {
				t.Fatal(err)
			}
			if c.Conversation == string(id) && (!c.Muted || !c.Pinned || !c.Archived || c.Name != "crew") {
				t.Errorf("summary %v", c)
			}
		}
	})
}

func TestConversationsAsksForAllPages(t *testing.T) {
	inWorld(t, func(w *world) {
		w.server.Intercept = func(c *clienttest.Conn, f *messages.ClientFrame) bool {
			q := f.GetConversations()
			if q == nil {
				return false
			}
			next := map[string]string{"": "x", "x": "y", "y": ""}[q.Cursor]
			c.Write(&messages.ServerFrame{Re: f.Id, Event: &messages.ServerFrame_ConversationList{ConversationList: &messages.ConversationList{
				Conversations: []*messages.Conversation{{Conversation: "after-" + q.Cursor}}, Cursor: next,
			}}})
			return true
		}
		bo := w.start("bo", nil)
		var got []string
		for c, err := range bo.Conversations(w.ctx) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, c.Conversation)
		}
		w.want(got, []string{"after-", "after-x", "after-y"})
	})
}

func TestEventsComeInOrderAndFromTheHandlerCommandsWork(t *testing.T) {
	inWorld(t, func(w *world) {
		var ana *app
		ana = w.prepare("ana", func(o *client.Options) {
			o.Handler.Entry = func(e *messages.Entry) {
				if err := ana.Read(w.ctx, messages.ConversationID(e.Conversation), messages.Seq(e.Seq)); err != nil {
					t.Errorf("read: %v", err)
				}
			}
		})
		w.run(ana)
		bo := w.start("bo", nil)
		synctest.Wait()
		if err := bo.Watch(w.ctx, "ana"); err != nil {
			t.Fatal(err)
		}
		out, err := bo.Send(client.Text(client.ToUser("ana"), "hi"))
		must(t, out, err)().Wait(w.ctx)
		time.Sleep(time.Second)
		ana.Typing(anaBo, true)
		synctest.Wait()
		ana.end()
		synctest.Wait()
		w.want(bo.noted(), []string{"caught up", "presence ana true", "receipt ana 1/1", "typing ana true", "presence ana false"})
	})
}

func TestWatchIsRenewedAndFollowsTheConnection(t *testing.T) {
	inWorld(t, func(w *world) {
		isWatch := func(f *messages.ClientFrame) bool { return f.GetWatch() != nil }
		bo := w.start("bo", func(o *client.Options) { o.Handler = client.Handler{} })
		synctest.Wait()
		if err := bo.Watch(w.ctx, "ana"); err != nil {
			t.Fatal(err)
		}
		w.only("bo").Drop()
		time.Sleep(5 * time.Second)
		if n := len(w.server.Frames(isWatch)); n != 2 {
			t.Errorf("%d watches after a reconnect, want 2", n)
		}
		for range 5 {
			time.Sleep(time.Minute)
			for _, c := range w.server.Conns("bo") {
				c.Write(&messages.ServerFrame{}) // a sign of life
			}
		}
		if n := len(w.server.Frames(isWatch)); n < 3 {
			t.Errorf("%d watches after 5 minutes, want a renewal", n)
		}
		tooMany := make([]messages.UserID, messages.MaxWatches+1)
		if err := bo.Watch(w.ctx, tooMany...); err == nil {
			t.Error("too many were watched")
		}
		w.only("bo").Drop()
		time.Sleep(5 * time.Second)
		all := w.server.Frames(isWatch)
		if users := all[len(all)-1].GetWatch().Users; len(users) != 1 {
			t.Errorf("a watch that was refused is repeated: %d users", len(users))
		}
	})
}

func TestTypingIsThrottled(t *testing.T) {
	inWorld(t, func(w *world) {
		w.server.Say("ana", "bo", "hi")
		bo := w.start("bo", nil)
		synctest.Wait()
		for range 40 {
			bo.Typing(anaBo, true)
			time.Sleep(100 * time.Millisecond)
		}
		bo.Typing(anaBo, false)
		bo.Typing(anaBo, false)
		synctest.Wait()
		var got []bool
		for _, f := range w.server.Frames(func(f *messages.ClientFrame) bool { return f.GetTyping() != nil }) {
			got = append(got, f.GetTyping().Active)
		}
		if !slices.Equal(got, []bool{true, true, false}) {
			t.Errorf("sent %v, want two renewals in 4 s and one end", got)
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	token := func(context.Context) (string, error) { return "", nil }
	for _, o := range []client.Options{
		{},
		{Server: "http://x", Token: token},
		{Server: "ftp://x", Token: token, Device: "d"},
		{Server: "x:70", Token: token, Device: "d"},
		{Server: "http://x", Token: token, Device: "d", Start: "tail"},
	} {
		if _, err := client.New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

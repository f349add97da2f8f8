//go:build linux

package load

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/troupe-chat/troupe/internal/relay"
	"github.com/troupe-chat/troupe/messages"
)

// startRelay returns the WebSocket URL of a relay that lives as long as t.
func startRelay(t *testing.T) string {
	t.Helper()
	s, err := relay.Open(filepath.Join(t.TempDir(), "db"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		h.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return "ws" + strings.TrimPrefix(h.URL, "http") + "/v1/ws"
}

func short(url string) Config {
	return Config{
		URL: url, Tokens: NameTokens, Log: slog.New(slog.DiscardHandler),
		Duration: 200 * time.Millisecond, Warmup: 50 * time.Millisecond,
	}
}

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func run(t *testing.T, cfg Config) *Result {
	t.Helper()
	r, err := Run(bounded(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustBeCorrect(t *testing.T, r *Result) {
	t.Helper()
	if !r.Correct() || r.Disconnects != 0 || r.Unanswered != 0 {
		t.Fatalf("%+v", r)
	}
}

func TestPairsInAClosedLoopThroughTheRelay(t *testing.T) {
	cfg := short(startRelay(t))
	cfg.Pairs, cfg.Inflight = 8, 4
	r := run(t, cfg)
	mustBeCorrect(t, r)
	if r.Acked == 0 || r.Acked != r.Attempts || r.DeliveredPerS == 0 {
		t.Fatalf("%+v", r)
	}
	if r.Latency.P50 <= 0 || r.Latency.Max < r.Latency.P99 || r.Latency.P99 < r.Latency.P50 {
		t.Fatalf("latencies %+v", r.Latency)
	}
}

func TestOpenLoopSendsWhatTheScheduleSays(t *testing.T) {
	cfg := short(startRelay(t))
	cfg.Pairs, cfg.Rate = 5, 1000
	r := run(t, cfg)
	mustBeCorrect(t, r)
	// 0.25 s at 1,000/s: every send that was due by the end, however late; the
	// last few are due in the instant at which sending ends.
	if r.Attempts < 240 || r.Attempts > 252 {
		t.Fatalf("%d attempts, want about 250", r.Attempts)
	}
}

func TestASecondRunGoesOnInTheSameConversations(t *testing.T) {
	cfg := short(startRelay(t))
	cfg.Pairs = 2
	for range 2 {
		r := run(t, cfg)
		mustBeCorrect(t, r)
		if r.Acked == 0 {
			t.Fatalf("%+v", r)
		}
	}
}

func TestGroupCountsEveryOtherMember(t *testing.T) {
	cfg := short((&fake{}).start(t))
	cfg.Groups, cfg.GroupSize, cfg.Inflight = 2, 10, 6
	delivered := int64(0)
	ctx := bounded(t)
	if err := cfg.prepare(); err != nil {
		t.Fatal(err)
	}
	f, ctx, err := newFleet(ctx, &cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	groups := f.plan()
	if err := errors.Join(f.connect(ctx, f.clients), f.createGroups(ctx, groups)); err != nil {
		t.Fatal(err)
	}
	r, err := f.load(ctx, ServerUse{})
	if err != nil {
		t.Fatal(err)
	}
	mustBeCorrect(t, r)
	for _, g := range groups {
		for _, m := range g.members {
			// From the creation, or from the first send after it was known.
			delivered += int64(m.last) - 1 - int64(m.acks)
			if m.acks == 0 {
				t.Errorf("%s never had its turn", m.c.user)
			}
		}
	}
	if delivered != r.Acked*9 {
		t.Fatalf("%d delivered of %d sends to 9 others each", delivered, r.Acked)
	}
}

func TestMixed(t *testing.T) {
	cfg := short((&fake{}).start(t))
	cfg.Pairs, cfg.Groups, cfg.GroupSize, cfg.Idle, cfg.Rate = 3, 1, 5, 7, 500
	cfg.Server = Process{PID: os.Getpid()}
	r := run(t, cfg)
	mustBeCorrect(t, r)
	if r.Scenario != "mixed" || r.Clients != 18 || r.Acked != r.Attempts || r.Server.RSSBytes == 0 {
		t.Fatalf("%+v", r)
	}
}

func TestDrainTakesEveryEntryOfEveryConversation(t *testing.T) {
	for _, conversations := range []int{1, 20} {
		s := &fake{window: 64}
		cfg := DrainConfig{Config: short(s.start(t)), Entries: 1000, Conversations: conversations}
		r, err := Drain(bounded(t), cfg)
		if err != nil {
			t.Fatal(err)
		}
		mustBeCorrect(t, r)
		if r.Drain.Entries != 1000 || r.Acked != 1000 || r.Drain.Seconds <= 0 || r.Drain.FirstSeconds > r.Drain.Seconds {
			t.Fatalf("%+v", r.Drain)
		}
	}
}

// TestBrokenPromisesAreCounted has a server break each promise once, and
// expects exactly that to be found.
func TestBrokenPromisesAreCounted(t *testing.T) {
	type spoiler func(f *messages.ServerFrame) []*messages.ServerFrame
	// onSeq applies once to a delivery to the second side of the pair.
	onSeq := func(seq uint64, then spoiler) func(string, *messages.ServerFrame) []*messages.ServerFrame {
		return func(user string, f *messages.ServerFrame) []*messages.ServerFrame {
			es := f.GetDeliver().GetEntries()
			if user == "load-p1" && len(es) == 1 && es[0].Seq == seq {
				return then(f)
			}
			return []*messages.ServerFrame{f}
		}
	}
	other := func(f *messages.ServerFrame, change func(*messages.Entry)) *messages.ServerFrame {
		e := f.GetDeliver().Entries[0]
		spoilt := &messages.Entry{Conversation: e.Conversation, Seq: e.Seq, From: e.From, ClientId: e.ClientId}
		change(spoilt)
		return deliver(spoilt)
	}
	receipt := func(delivered uint64) *messages.ServerFrame {
		return &messages.ServerFrame{Event: &messages.ServerFrame_Receipt{Receipt: &messages.Receipt{
			Conversation: "d:load-p0~load-p1", User: "load-p0", Delivered: delivered,
		}}}
	}
	var held *messages.ServerFrame
	cases := map[string]struct {
		spoil func(string, *messages.ServerFrame) []*messages.ServerFrame
		found func(r *Result) bool
	}{
		"lost": {
			onSeq(5, func(*messages.ServerFrame) []*messages.ServerFrame { return nil }),
			func(r *Result) bool { return r.Lost == 1 && r.Reordered == 1 && r.Duplicated == 0 },
		},
		"duplicated": {
			onSeq(5, func(f *messages.ServerFrame) []*messages.ServerFrame { return []*messages.ServerFrame{f, f} }),
			func(r *Result) bool { return r.Lost == 0 && r.Reordered == 0 && r.Duplicated == 1 },
		},
		"reordered": {
			func(user string, f *messages.ServerFrame) []*messages.ServerFrame {
				es := f.GetDeliver().GetEntries()
				switch {
				case user != "load-p1" || len(es) == 0:
				case es[0].Seq == 5:
					held = f
					return nil
				case held != nil:
					f, held = held, nil
					return []*messages.ServerFrame{deliver(es...), f}
				}
				return []*messages.ServerFrame{f}
			},
			func(r *Result) bool { return r.Lost == 0 && r.Reordered == 1 && r.Duplicated == 0 },
		},
		"one send at two seqs": {
			onSeq(6, func(f *messages.ServerFrame) []*messages.ServerFrame {
				first := other(f, func(e *messages.Entry) { e.ClientId = e.ClientId[:8] + "0" + e.ClientId[9:] })
				return []*messages.ServerFrame{first}
			}),
			// The device saw the first send again, where the log has another.
			func(r *Result) bool { return r.Lost == 0 && r.Reordered == 1 && r.Duplicated == 1 },
		},
		"receipts back": {
			onSeq(5, func(f *messages.ServerFrame) []*messages.ServerFrame {
				return []*messages.ServerFrame{f, receipt(3), receipt(2)}
			}),
			func(r *Result) bool { return r.ReceiptsBack == 1 },
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := &fake{
				spoil: c.spoil,
				// One side sends, so every entry is delivered to the other.
				refuse: func(user string, _ *messages.Send) *messages.Failure {
					if user == "load-p1" {
						return messages.Fail(messages.CodeForbidden, "only the other side sends")
					}
					return nil
				},
			}
			cfg := short(s.start(t))
			cfg.Pairs, cfg.Inflight, cfg.Settle = 1, 4, 300*time.Millisecond
			r := run(t, cfg)
			if r.Correct() || !c.found(r) {
				t.Fatalf("lost %d, duplicated %d, reordered %d, receipts back %d: %v",
					r.Lost, r.Duplicated, r.Reordered, r.ReceiptsBack, r.Violations)
			}
		})
	}
}

func TestRefusedSendsAreCountedAndReplaced(t *testing.T) {
	var sends atomic.Int64
	s := &fake{refuse: func(string, *messages.Send) *messages.Failure {
		if sends.Add(1)%3 == 0 {
			return messages.Later(messages.CodeOverloaded, time.Millisecond, "wait a little")
		}
		return nil
	}}
	cfg := short(s.start(t))
	cfg.Pairs, cfg.Inflight = 2, 3
	r := run(t, cfg)
	mustBeCorrect(t, r)
	if r.Refused[messages.CodeOverloaded] < 12 || r.Acked+r.Refused[messages.CodeOverloaded] != r.Attempts {
		t.Fatalf("%+v", r)
	}
}

func TestAClosedConnectionIsCountedAndTheRestGoesOn(t *testing.T) {
	s := &fake{}
	var deliveries atomic.Int64
	s.spoil = func(user string, f *messages.ServerFrame) []*messages.ServerFrame {
		if user == "load-p1" && f.GetDeliver() != nil && deliveries.Add(1) == 3 {
			_ = s.conns[user].WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(messages.CloseReplaced, ""))
		}
		return []*messages.ServerFrame{f}
	}
	cfg := short(s.start(t))
	cfg.Pairs, cfg.Inflight = 3, 2
	r := run(t, cfg)
	if !r.Correct() || r.Disconnects != 1 || r.Acked < 10 {
		t.Fatalf("%+v", r)
	}
}

func TestAClientThatIsNotWelcomedIsAnError(t *testing.T) {
	s := &fake{spoil: func(user string, f *messages.ServerFrame) []*messages.ServerFrame {
		if f.GetWelcome() != nil && user == "load-p1" {
			return []*messages.ServerFrame{messages.Fail(messages.CodeUnauthenticated, "who are you").Frame(0)}
		}
		return []*messages.ServerFrame{f}
	}}
	cfg := short(s.start(t))
	cfg.Pairs = 1
	_, err := Run(bounded(t), cfg)
	if err == nil || messages.FailureOf(err).Code != messages.CodeUnauthenticated {
		t.Fatalf("%v", err)
	}
}

func TestAnUnreachableServerIsAnError(t *testing.T) {
	cfg := short("ws://127.0.0.1:1/v1/ws")
	cfg.Pairs = 1
	if _, err := Run(bounded(t), cfg); err == nil {
		t.Fatal("no error")
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	cfg := short(startRelay(t))
	cfg.Pairs, cfg.Duration = 2, time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	stop := context.AfterFunc(ctx, func() {})
	defer stop()
	cfg.Tokens = func(_ context.Context, user string) (string, error) {
		if user == "load-p3" {
			defer cancel() // the last client is on its way
		}
		return user, nil
	}
	if _, err := Run(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
}

func TestConfigSaysWhatIsWrong(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"URL":       func(c *Config) { c.URL = "" },
		"Tokens":    func(c *Config) { c.Tokens = nil },
		"nothing":   func(c *Config) { c.Pairs = 0 },
		"GroupSize": func(c *Config) { c.Groups, c.GroupSize = 1, 1 },
		"Inflight":  func(c *Config) { c.Inflight = -1 },
		"Rate":      func(c *Config) { c.Rate = -1 },
		"Duration":  func(c *Config) { c.Duration = 0 },
	} {
		cfg := short("ws://127.0.0.1:1")
		cfg.Pairs = 1
		change(&cfg)
		if err := cfg.prepare(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

package cluster

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	pcluster "github.com/asynkron/protoactor-go/cluster"
	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

// answers is a kind that answers each *messages.Delivered by reply; ok says
// whether to answer at all.
func answers(reply func(attempt int) (answer any, ok bool)) Kind {
	return Kind{Name: "echo", New: func(string) Behaviour {
		attempts := 0
		return actor.ReceiveFunc(func(ctx actor.Context) {
			if _, asked := ctx.Message().(*messages.Delivered); !asked {
				return
			}
			attempts++
			if answer, ok := reply(attempts); ok {
				ctx.Respond(answer)
			}
		})
	}}
}

func request(n *Node) (proto.Message, error) {
	return n.Request(context.Background(), "echo", "ana", &messages.Delivered{User: "bo", Seq: 7})
}

func TestRequestIsAnswered(t *testing.T) {
	n := start(t, Config{Kinds: []Kind{answers(func(int) (any, bool) { return &messages.Detach{Number: 7}, true })}})
	answer, err := request(n)
	if d, ok := answer.(*messages.Detach); err != nil || !ok || d.Number != 7 {
		t.Errorf("got %v, %v", answer, err)
	}
}

func TestRequestIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last atomic.Int64
		n := start(t, Config{Kinds: []Kind{answers(func(attempt int) (any, bool) {
			last.Store(int64(attempt))
			return &messages.Detach{}, attempt == 3
		})}})
		begin := time.Now()
		if _, err := request(n); err != nil {
			t.Error(err)
		}
		took := time.Since(begin)
		if last.Load() != 3 || took < 2*(attemptLeast+backOffLeast) || took > 2*(attemptMost+backOffMost) {
			t.Errorf("answered at attempt %d after %v", last.Load(), took)
		}
		stop(t, n)
	})
}

func TestRequestGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var attempts atomic.Int64
		n := start(t, Config{Kinds: []Kind{answers(func(int) (any, bool) { attempts.Add(1); return nil, false })}})
		begin := time.Now()
		_, err := request(n)
		if !errors.Is(err, ErrNoReply) || time.Since(begin) != requestTimeout {
			t.Errorf("gave up after %v with %v", time.Since(begin), err)
		}
		if a := attempts.Load(); a < 3 || a > 10 {
			t.Errorf("%d attempts in %v", a, requestTimeout)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		begin = time.Now()
		if _, err := n.Request(ctx, "echo", "ana", &messages.Delivered{}); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 100*time.Millisecond {
			t.Errorf("with a deadline of 100 ms: %v after %v", err, time.Since(begin))
		}
		stop(t, n)
	})
}

func TestANilReplyIsAnErrorAtOnce(t *testing.T) {
	for name, reply := range map[string]any{"nil": nil, "typed nil": (*messages.Detach)(nil), "no message": "text"} {
		t.Run(name, func(t *testing.T) {
			var attempts atomic.Int64
			n := start(t, Config{Kinds: []Kind{answers(func(int) (any, bool) { attempts.Add(1); return reply, true })}})
			if _, err := request(n); !errors.Is(err, ErrBadReply) {
				t.Errorf("got %v, want ErrBadReply", err)
			}
			if attempts.Load() != 1 {
				t.Errorf("asked %d times", attempts.Load())
			}
		})
	}
}

func TestAnErrorAsAnswerIsAFailure(t *testing.T) {
	n := start(t, Config{Kinds: []Kind{answers(func(int) (any, bool) {
		return messages.Later(messages.CodeOverloaded, time.Second, "later").Proto(), true
	})}})
	_, err := request(n)
	if f := messages.FailureOf(err); f.Code != messages.CodeOverloaded || f.RetryAfter != time.Second {
		t.Errorf("got %v", err)
	}
}

func TestAPanicFailsTheRequestAndIsNotRepeated(t *testing.T) {
	var attempts atomic.Int64
	n := start(t, Config{Kinds: []Kind{answers(func(int) (any, bool) { attempts.Add(1); panic("on purpose") })}})
	_, err := request(n)
	if f := messages.FailureOf(err); f.Code != messages.CodeInternal {
		t.Errorf("got %v", err)
	}
	if attempts.Load() != 1 {
		t.Errorf("the message that panicked was handled %d times", attempts.Load())
	}
}

func TestRequestsLeaveNothingInTheRegistry(t *testing.T) {
	n := start(t, Config{Kinds: []Kind{answers(func(int) (any, bool) { return &messages.Detach{}, true })}})
	count := func() (total int) {
		for _, bucket := range n.System().ProcessRegistry.LocalPIDs.LocalPIDs {
			total += bucket.Count()
		}
		return total
	}
	if _, err := request(n); err != nil {
		t.Fatal(err)
	}
	before := count()
	for range 100 {
		if _, err := request(n); err != nil {
			t.Fatal(err)
		}
	}
	if after := count(); after != before {
		t.Errorf("%d processes, there were %d", after, before)
	}
}

func TestProtoactorsClusterRunsOnTheNode(t *testing.T) {
	n := start(t, Config{Kinds: []Kind{answers(func(int) (any, bool) { return &messages.Detach{Number: 7}, true })}})
	c := pcluster.GetCluster(n.System())
	answer, err := c.Request("ana", "echo", &messages.Delivered{}, pcluster.WithTimeout(time.Minute))
	if d, ok := answer.(*messages.Detach); err != nil || !ok || d.Number != 7 {
		t.Errorf("Request: %v, %v", answer, err)
	}
	future, err := c.RequestFuture("ana", "echo", &messages.Delivered{})
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := future.Result(); err != nil {
		t.Errorf("RequestFuture: %v, %v", answer, err)
	}
	at, _ := n.Locate("echo", "ana")
	if pid := c.Get("ana", "echo"); !pid.Equal(at.PID) {
		t.Errorf("Get: %v, want %v", pid, at.PID)
	}
	if pid := c.Get("bo", "echo"); pid == nil {
		t.Error("Get does not activate")
	}
	if pid := c.Get("bo", "nothing"); pid != nil {
		t.Errorf("Get of an unknown kind: %v", pid)
	}
}

// The options of protoactor's own context stay in force for every later call.
func TestOptionsAreOfOneCallOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, Config{Kinds: []Kind{answers(func(int) (any, bool) { return nil, false })}})
		for _, timeout := range []time.Duration{time.Second, 3 * time.Second} {
			begin := time.Now()
			future, err := n.Cluster().RequestFuture("ana", "echo", &messages.Delivered{}, pcluster.WithTimeout(timeout))
			if err != nil {
				t.Fatal(err)
			}
			_, err = future.Result()
			if took := time.Since(begin); !errors.Is(err, actor.ErrTimeout) || took != timeout {
				t.Errorf("with %v: %v after %v", timeout, err, took)
			}
		}
		stop(t, n)
	})
}

func TestAFailureIsItsActivationsOwn(t *testing.T) {
	var log bytes.Buffer
	ends, got := newEnded(), newCollector[int]()
	n := start(t, Config{
		Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Kinds: []Kind{kindOf("echo", func(ctx actor.Context) {
			switch m := ctx.Message().(type) {
			case *messages.Text:
				panic("secret: " + m.Body)
			case int:
				got.add(m)
			}
		})},
		OnEnded: ends.on,
	})
	tell(t, n, "bo", 0)
	tell(t, n, "ana", &messages.Text{Body: "secret"})
	tell(t, n, "ana", 1)
	if cause := <-ends.causes; cause != Failed {
		t.Errorf("it ended as %q", cause)
	}
	got.wait(2)
	stop(t, n)
	if ends.count.Load() != 3 || n.Failures()["echo"] != 1 {
		t.Errorf("%d ends, %d failures", ends.count.Load(), n.Failures()["echo"])
	}
	text := log.String()
	for _, want := range []string{"kind=echo", "identity=ana", "message=*messages.Text"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log does not say %s:\n%s", want, text)
		}
	}
	if strings.Contains(text, "secret") {
		t.Errorf("the log says what was secret:\n%s", text)
	}
}

// A behaviour that can't begin must neither loop nor lose what comes later.
func TestAKindThatFailsToBeginDropsOneMessageEach(t *testing.T) {
	ends, got := newEnded(), newCollector[int]()
	var made atomic.Int64
	n := start(t, Config{
		Kinds: []Kind{{Name: "echo", New: func(string) Behaviour {
			if made.Add(1) <= 2 {
				panic("on purpose")
			}
			return actor.ReceiveFunc(ints(got))
		}}},
		OnEnded: ends.on,
	})
	for i := range 5 {
		tell(t, n, "ana", i)
	}
	if all := got.wait(3); all[0] != 2 || len(all) != 3 {
		t.Errorf("got %v, want 2 3 4", all)
	}
	if made.Load() != 3 {
		t.Errorf("made %d times", made.Load())
	}
}

func TestAPanicInAContinuationEndsTheActivation(t *testing.T) {
	ends := newEnded()
	n := start(t, Config{
		Kinds: []Kind{kindOf("echo", func(ctx actor.Context) {
			if _, ok := ctx.Message().(int); ok {
				future := actor.NewFuture(ctx.ActorSystem(), time.Minute)
				ctx.ReenterAfter(future, func(any, error) { panic("on purpose") })
				ctx.Send(future.PID(), "go on")
			}
		})},
		OnEnded: ends.on,
	})
	tell(t, n, "ana", 1)
	if cause := <-ends.causes; cause != Failed {
		t.Errorf("it ended as %q", cause)
	}
}

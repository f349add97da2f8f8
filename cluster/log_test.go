package cluster

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/troupe-chat/troupe/messages"
)

func TestProtoactorsLogIsRedacted(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(redactor{slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})})
	secret := &messages.Text{Body: "secret"}
	log.With("kept", secret).WithGroup("g").Error("failed", "message", secret, "pid", actor.NewPID("host", "id"),
		"error", errors.New("cause"), "count", 7, slog.Group("in", "message", secret), "reason", any([]string{"secret"}))
	log.Info("chatter")
	text := out.String()
	if strings.Contains(text, "secret") {
		t.Errorf("it says what is secret: %s", text)
	}
	for _, want := range []string{"host/id", "cause", "count=7", "*messages.Text", "level=DEBUG msg=chatter"} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q: %s", want, text)
		}
	}
}

func TestADeadLetterIsLoggedWithoutItsContent(t *testing.T) {
	var out bytes.Buffer
	n := start(t, Config{Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	n.Root().Send(actor.NewPID(n.System().Address(), "nobody"), &messages.Text{Body: "secret"})
	stop(t, n)
	if text := out.String(); !strings.Contains(text, "DeadLetter") || strings.Contains(text, "secret") {
		t.Errorf("the log: %s", text)
	}
}

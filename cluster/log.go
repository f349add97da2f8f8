package cluster

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/asynkron/protoactor-go/actor"
)

// newSystem makes an actor system that logs to log, without contents.
func newSystem(log *slog.Logger) *actor.ActorSystem {
	redacted := slog.New(redactor{log.Handler()})
	return actor.NewActorSystem(actor.WithLoggerFactory(func(system *actor.ActorSystem) *slog.Logger {
		return redacted.With("system", system.ID)
	}))
}

// redactor makes protoactor's logging fit for operators: it logs whole
// messages where something goes wrong, and as information what is of interest
// to nobody but itself.
type redactor struct{ next slog.Handler }

// Enabled implements slog.Handler.
func (r redactor) Enabled(ctx context.Context, level slog.Level) bool {
	return r.next.Enabled(ctx, demoted(level))
}

// Handle implements slog.Handler.
func (r redactor) Handle(ctx context.Context, record slog.Record) error {
	clean := slog.NewRecord(record.Time, demoted(record.Level), record.Message, record.PC)
	record.Attrs(func(a slog.Attr) bool {
		clean.AddAttrs(redact(a))
		return true
	})
	return r.next.Handle(ctx, clean)
}

// WithAttrs implements slog.Handler.
func (r redactor) WithAttrs(attrs []slog.Attr) slog.Handler {
	clean := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		clean[i] = redact(a)
	}
	return redactor{r.next.WithAttrs(clean)}
}

// WithGroup implements slog.Handler.
func (r redactor) WithGroup(name string) slog.Handler {
	return redactor{r.next.WithGroup(name)}
}

func demoted(level slog.Level) slog.Level {
	if level == slog.LevelInfo {
		return slog.LevelDebug
	}
	return level
}

// redact leaves names and numbers; of any other value, its type.
func redact(a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindAny, slog.KindLogValuer:
		return slog.String(a.Key, describe(a.Value.Any()))
	case slog.KindGroup:
		group := a.Value.Group()
		clean := make([]any, len(group))
		for i, member := range group {
			clean[i] = redact(member)
		}
		return slog.Group(a.Key, clean...)
	}
	return a
}

func describe(v any) string {
	switch v := v.(type) {
	case *actor.PID:
		return v.GetAddress() + "/" + v.GetId()
	case actor.Directive:
		return v.String()
	case error:
		return v.Error()
	}
	return fmt.Sprintf("%T", v)
}

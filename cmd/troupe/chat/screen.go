package chat

import (
	"context"
	"errors"
	"fmt"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/lipgloss"

	"github.com/troupe-chat/troupe/gateway/client"
	"github.com/troupe-chat/troupe/messages"
)

// runScreen runs the full-screen client.
func runScreen(ctx context.Context, o Options, options client.Options, more ...tea.ProgramOption) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	renderer := lipgloss.NewRenderer(o.Out)
	renderer.HasDarkBackground() // asks the terminal, before the program reads from it
	var program *tea.Program
	options.Handler = client.Handler{
		Entry:    func(e *messages.Entry) { program.Send(e) },
		Receipt:  func(r *messages.Receipt) { program.Send(r) },
		Typing:   func(t *messages.Typing) { program.Send(t) },
		Presence: func(p *messages.Presence) { program.Send(p) },
		State:    func(s client.State) { program.Send(s) },
	}
	c, err := client.New(options)
	if err != nil {
		return err
	}
	m := newModel(ctx, c, o.User, o.To, newStyles(renderer), time.Local)
	program = tea.NewProgram(m, append([]tea.ProgramOption{
		tea.WithContext(ctx), tea.WithInput(o.In), tea.WithOutput(o.Out), tea.WithAltScreen(),
	}, more...)...)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	_, err = program.Run()
	cancel()
	if stopped := <-ended; stopped != nil {
		return stopped
	}
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, tea.ErrInterrupted) {
		return fmt.Errorf("drawing the screen: %w", err)
	}
	return nil
}

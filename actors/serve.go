package actors

import (
	"context"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// serve answers a command that appends nothing. It was judged in its turn, and
// everything decided before it is durable.
func (c *conversation) serve(it *item) {
	user := it.command.User
	switch cmd := it.command.Frame.Command.(type) {
	case *messages.ClientFrame_History:
		c.history(it, cmd.History)
	case *messages.ClientFrame_Receipts:
		c.receiptList(it, messages.Seq(cmd.Receipts.Seq))
	case *messages.ClientFrame_Read:
		c.read(it, messages.Seq(cmd.Read.Seq))
	case *messages.ClientFrame_Typing:
		c.setTyping(user, cmd.Typing.Active)
	case *messages.ClientFrame_Mute:
		c.set(it, func(s *persistence.Settings) { s.Muted = cmd.Mute.Value })
	case *messages.ClientFrame_Archive:
		c.set(it, func(s *persistence.Settings) { s.Archived = cmd.Archive.Value })
	case *messages.ClientFrame_Pin:
		c.set(it, func(s *persistence.Settings) { s.Pinned = cmd.Pin.Value })
	case *messages.ClientFrame_Clear:
		head := c.state.Head().Seq
		c.set(it, func(s *persistence.Settings) { s.Cleared = head })
		c.withBook(nil, func() { c.move(user, 0, head, it.origin.GetConnection()) })
	}
}

// aside runs work that blocks and answers it with what it returns.
func (c *conversation) aside(it *item, work func(ctx context.Context) (*messages.ServerFrame, error)) {
	env := c.env
	env.Pool.Do(func() {
		ctx, cancel := ioContext()
		defer cancel()
		frame, err := work(ctx)
		if err != nil {
			env.Log.Warn("reading for a command", "conversation", c.id, "error", err)
			frame = unavailable().Frame(0)
		}
		env.answer(it.origin, frame)
	})
}

func (c *conversation) history(it *item, h *messages.History) {
	head := c.state.Head().Seq
	c.aside(it, func(ctx context.Context) (*messages.ServerFrame, error) {
		page, err := c.env.page(ctx, it.command.User, c.id, h, head)
		return &messages.ServerFrame{Event: &messages.ServerFrame_Page{Page: page}}, err
	})
}

// set changes what a user has set for itself here.
func (c *conversation) set(it *item, change func(*persistence.Settings)) {
	env, user := c.env, it.command.User
	c.aside(it, func(ctx context.Context) (*messages.ServerFrame, error) {
		env.settings.Lock()
		defer env.settings.Unlock()
		now, err := env.Store.Settings(ctx, user, []messages.ConversationID{c.id})
		if err != nil {
			return nil, err
		}
		change(&now[0])
		return okFrame(), await(ctx, func(done persistence.Done) { env.Store.SaveSettings(user, c.id, now[0], done) })
	})
}

// await waits for the outcome of a write, or for ctx.
func await(ctx context.Context, write func(persistence.Done)) error {
	outcome := make(chan error, 1)
	write(func(err error) { outcome <- err })
	select {
	case err := <-outcome:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

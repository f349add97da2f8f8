package actors

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/actors/rules"
	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// recalled is how many of a log's last entries a restored state is shown.
const recalled = 16

// ioContext bounds one look-up in the store.
func ioContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), messages.CommandTimeout)
}

// loadConversation reads the state of a conversation. Blocks.
func (e *Env) loadConversation(id messages.ConversationID) *loaded {
	ctx, cancel := ioContext()
	defer cancel()
	state, err := e.restore(ctx, id)
	if err != nil {
		return &loaded{err: err}
	}
	rows, complete, err := e.Store.Recent(ctx, id, maxLoaded)
	if err != nil {
		return &loaded{err: err}
	}
	return &loaded{state: state, ids: remember(rows, complete)}
}

func (e *Env) restore(ctx context.Context, id messages.ConversationID) (*rules.State, error) {
	head, encoded, err := e.Store.Load(ctx, id)
	if err != nil {
		return nil, err
	}
	snapshot := &messages.Snapshot{}
	if err := proto.Unmarshal(encoded, snapshot); err != nil {
		return nil, fmt.Errorf("decode the snapshot of %s: %w", id, err)
	}
	state, err := rules.Restore(id, rules.Head(head), snapshot)
	if err != nil || head.Seq == 0 {
		return state, err
	}
	tail, err := e.entries(ctx, id, persistence.Range{Before: head.Seq + 1, Limit: recalled})
	if err != nil {
		return nil, err
	}
	state.Recall(tail)
	return state, nil
}

// entries reads rows as entries. Blocks.
func (e *Env) entries(ctx context.Context, id messages.ConversationID, r persistence.Range) ([]*messages.Entry, error) {
	rows, err := e.Store.Read(ctx, id, r)
	if err != nil {
		return nil, err
	}
	out := make([]*messages.Entry, len(rows))
	for i, row := range rows {
		out[i] = &messages.Entry{}
		if err := proto.Unmarshal(row.Entry, out[i]); err != nil {
			return nil, fmt.Errorf("decode entry %d of %s: %w", row.Seq, id, err)
		}
	}
	return out, nil
}

// lookUp fills in what items need. Blocks.
func (e *Env) lookUp(id messages.ConversationID, items []*item, needs []rules.Needs) error {
	ctx, cancel := ioContext()
	defer cancel()
	q := persistence.Query{}
	for i, n := range needs {
		if n.ID != "" {
			q.IDs = append(q.IDs, persistence.AuthorID{Author: items[i].command.User, ClientID: n.ID})
		}
		if n.Target != 0 {
			q.Targets = append(q.Targets, n.Target)
		}
		q.Blocks = q.Blocks || n.Blocks
	}
	found, err := e.Store.Know(ctx, id, q)
	if err != nil {
		return err
	}
	for i, n := range needs {
		items[i].known, err = e.known(ctx, n, &found)
		if err != nil {
			return err
		}
	}
	return nil
}

// known takes one command's part of what was found.
func (e *Env) known(ctx context.Context, n rules.Needs, found *persistence.Answer) (rules.Known, error) {
	k := rules.Known{Blocked: n.Blocks && found.Blocked}
	if n.ID != "" {
		if d := found.IDs[0]; d.Seq != 0 {
			k.Duplicate = &rules.Duplicate{Seq: d.Seq, Hash: d.Hash, At: d.At}
		}
		found.IDs = found.IDs[1:]
	}
	if n.Target != 0 {
		if t := found.Targets[0]; t.Seq != 0 {
			target := rules.Target(t)
			k.Target = &target
		}
		found.Targets = found.Targets[1:]
	}
	if len(n.Users) == 0 {
		return k, nil
	}
	unknown, err := e.Store.Unknown(ctx, n.Users)
	k.Unknown = unknown
	return k, err
}

// view returns what a user may see of a conversation. Blocks.
func (e *Env) view(ctx context.Context, u messages.UserID, id messages.ConversationID) ([]persistence.Span, error) {
	intervals, err := e.Store.Membership(ctx, u, id)
	if err != nil {
		return nil, err
	}
	settings, err := e.Store.Settings(ctx, u, []messages.ConversationID{id})
	if err != nil {
		return nil, err
	}
	return persistence.View(intervals, settings[0].Cleared), nil
}

// pageBytes keeps a page well within one WebSocket message.
const pageBytes = messages.MaxServerMessage * 3 / 4

// page reads what a history command asks for, of what is visible and durable
// up to head. Blocks.
func (e *Env) page(ctx context.Context, u messages.UserID, id messages.ConversationID, h *messages.History, head messages.Seq) (*messages.Page, error) {
	spans, err := e.view(ctx, u, id)
	if err != nil {
		return nil, err
	}
	limit := rules.PageLimit(h.Limit, e.Limits)
	var p pager
	if h.After != 0 {
		p, err = e.forward(ctx, id, spans, messages.Seq(h.After), head, limit)
	} else {
		before := head + 1
		if h.Before != 0 {
			before = min(before, messages.Seq(h.Before))
		}
		p, err = e.backward(ctx, id, spans, before, limit)
	}
	if err != nil {
		return nil, err
	}
	return &messages.Page{Conversation: string(id), Entries: p.entries, More: p.more}, nil
}

// pager collects entries up to a number and a size.
type pager struct {
	entries []*messages.Entry
	bytes   int
	more    bool
}

// take adds an entry, or reports that the page is full.
func (p *pager) take(e *messages.Entry, limit int) bool {
	size := proto.Size(e)
	if len(p.entries) == limit || p.bytes > 0 && p.bytes+size > pageBytes {
		p.more = true
		return false
	}
	p.entries = append(p.entries, e)
	p.bytes += size
	return true
}

func (e *Env) forward(ctx context.Context, id messages.ConversationID, spans []persistence.Span, after, head messages.Seq, limit int) (p pager, err error) {
	for {
		span, ok := persistence.Next(spans, after)
		if !ok || span.First > head {
			return p, nil
		}
		last := head
		if span.Last != 0 {
			last = min(last, span.Last)
		}
		rows, err := e.entries(ctx, id, persistence.Range{After: span.First - 1, UpTo: last, Limit: limit + 1, Bytes: 2 * pageBytes})
		if err != nil {
			return p, err
		}
		for _, row := range rows {
			if !p.take(row, limit) {
				return p, nil
			}
		}
		if len(rows) == 0 {
			return p, nil
		}
		after = messages.Seq(rows[len(rows)-1].Seq)
	}
}

func (e *Env) backward(ctx context.Context, id messages.ConversationID, spans []persistence.Span, before messages.Seq, limit int) (p pager, err error) {
	for i := len(spans) - 1; i >= 0; i-- {
		span := spans[i]
		top := before
		if span.Last != 0 {
			top = min(top, span.Last+1)
		}
		for top > span.First && !p.more {
			rows, err := e.entries(ctx, id, persistence.Range{Before: top, Limit: limit + 1, Bytes: 2 * pageBytes})
			if err != nil {
				return p, err
			}
			top = p.takeBackward(rows, span.First, limit)
		}
		if p.more {
			break
		}
	}
	slices.Reverse(p.entries)
	return p, nil
}

// takeBackward adds rows from the newest to the oldest that is not before
// first, and returns the seq that was reached.
func (p *pager) takeBackward(rows []*messages.Entry, first messages.Seq, limit int) messages.Seq {
	for i := len(rows) - 1; i >= 0; i-- {
		if messages.Seq(rows[i].Seq) < first || !p.take(rows[i], limit) {
			return first
		}
	}
	if len(rows) == 0 {
		return first
	}
	return messages.Seq(rows[0].Seq)
}

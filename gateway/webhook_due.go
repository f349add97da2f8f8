package gateway

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// Kinds of entries as a webhook is told.
const (
	kindText  = "text"
	kindMedia = "media"
)

// hookEntry tells that an entry waits for a user. It has no field for content.
type hookEntry struct {
	User         messages.UserID         `json:"user"`
	Conversation messages.ConversationID `json:"conversation"`
	Seq          messages.Seq            `json:"seq"`
	From         messages.UserID         `json:"from"`
	Kind         string                  `json:"kind"`
	At           int64                   `json:"at"` // ms
}

// wakeful returns those of entries that wake people up: texts and media that
// are not retracted.
func wakeful(entries []*messages.Entry) []hookEntry {
	var out []hookEntry
	for _, e := range entries {
		kind := wakefulKind(e)
		if kind == "" || e.RetractedAt != 0 {
			continue
		}
		out = append(out, hookEntry{
			Conversation: messages.ConversationID(e.Conversation), Seq: messages.Seq(e.Seq),
			From: messages.UserID(e.From), Kind: kind, At: e.At,
		})
	}
	return out
}

func wakefulKind(e *messages.Entry) string {
	switch e.Kind.(type) {
	case *messages.Entry_Text:
		return kindText
	case *messages.Entry_Media:
		return kindMedia
	}
	return ""
}

// reader is a user that may have something to read.
type reader struct {
	user  messages.UserID
	spans []persistence.Span // what it may see
	had   messages.Seq       // what it has had already
}

func (r *reader) awaits(e hookEntry) bool {
	return e.From != r.user && e.Seq > r.had && persistence.Sees(r.spans, e.Seq)
}

// readers returns for whom w waits still. It reads what w is about where that
// is not known. Blocks.
func (h *Hook) readers(w *waking) ([]reader, error) {
	ctx, cancel := context.WithTimeout(h.ctx, messages.CommandTimeout)
	defer cancel()
	if w.entries == nil {
		if err := h.recall(ctx, w); err != nil {
			return nil, err
		}
	}
	users := slices.DeleteFunc(w.users, h.cfg.Connected)
	if len(w.entries) == 0 || len(users) == 0 {
		return nil, nil
	}
	gone, err := h.cfg.Store.Unknown(ctx, users)
	if err != nil {
		return nil, err
	}
	users = slices.DeleteFunc(users, func(u messages.UserID) bool { return slices.Contains(gone, u) })
	cursors, err := h.cfg.Store.MemberCursors(ctx, w.note.Conversation, users)
	if err != nil {
		return nil, err
	}
	return h.views(ctx, w.note.Conversation, cursors)
}

// views returns what the users of cursors may see of c, but for those that have
// muted it.
func (h *Hook) views(ctx context.Context, c messages.ConversationID, cursors []persistence.MemberCursor) ([]reader, error) {
	var out []reader
	for _, cursor := range cursors {
		settings, err := h.cfg.Store.Settings(ctx, cursor.User, []messages.ConversationID{c})
		if err != nil {
			return nil, err
		}
		if settings[0].Muted {
			continue
		}
		intervals, err := h.cfg.Store.Membership(ctx, cursor.User, c)
		if err != nil {
			return nil, err
		}
		out = append(out, reader{
			user: cursor.User, spans: persistence.View(intervals, settings[0].Cleared),
			had: max(cursor.Delivered, cursor.Read),
		})
	}
	return out, nil
}

// recall reads an append that is known by its note only, and whom it may wait
// for: the members of now, and those that the append itself has removed.
func (h *Hook) recall(ctx context.Context, w *waking) error {
	c, n := w.note.Conversation, w.note
	rows, err := h.cfg.Store.Read(ctx, c, persistence.Range{After: n.First - 1, UpTo: n.Last, Limit: int(n.Last-n.First) + 1})
	if err != nil {
		return err
	}
	entries := make([]*messages.Entry, len(rows))
	for i, row := range rows {
		entries[i] = &messages.Entry{}
		if err := proto.Unmarshal(row.Entry, entries[i]); err != nil {
			return fmt.Errorf("decode entry %d of %s: %w", row.Seq, c, err)
		}
		for _, u := range entries[i].GetEvent().GetUsers() {
			w.users = append(w.users, messages.UserID(u))
		}
	}
	w.entries = wakeful(entries)
	members, err := h.members(ctx, c)
	w.users = append(w.users, members...)
	slices.Sort(w.users)
	w.users = slices.Compact(w.users)
	return err
}

func (h *Hook) members(ctx context.Context, c messages.ConversationID) ([]messages.UserID, error) {
	if low, high, ok := c.Pair(); ok {
		return []messages.UserID{low, high}, nil
	}
	_, encoded, err := h.cfg.Store.Load(ctx, c)
	if err != nil {
		return nil, err
	}
	snapshot := &messages.Snapshot{}
	if err := proto.Unmarshal(encoded, snapshot); err != nil {
		return nil, fmt.Errorf("decode the snapshot of %s: %w", c, err)
	}
	users := make([]messages.UserID, len(snapshot.Members))
	for i, m := range snapshot.Members {
		users[i] = messages.UserID(m.User)
	}
	return users, nil
}

package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

const (
	renewWatch  = messages.WatchFor * 4 / 5
	renewTyping = messages.TypingFor * 2 / 3
)

// failureOf returns the error that an answer is.
func failureOf(f *messages.ServerFrame) *messages.Failure {
	if e := f.GetError(); e != nil {
		return messages.Later(e.Code, time.Duration(e.RetryAfterMs)*time.Millisecond, e.Message)
	}
	return messages.Fail(messages.CodeInternal, "the server answered something else; update this client")
}

// ask sends a command and waits for its answer, over as many connections as it
// takes. Every command that it is used for may be repeated.
func (c *Client) ask(ctx context.Context, f *messages.ClientFrame) (*messages.ServerFrame, error) {
	for {
		l, err := c.await(ctx)
		if err != nil {
			return nil, err
		}
		answer, err := askOnce(ctx, l, proto.CloneOf(f))
		if errors.Is(err, errLost) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if answer.GetError() != nil {
			return nil, failureOf(answer)
		}
		return answer, nil
	}
}

func askOnce(ctx context.Context, l *link, f *messages.ClientFrame) (*messages.ServerFrame, error) {
	answers := make(chan *messages.ServerFrame, 1)
	if err := l.ask(f, func(a *messages.ServerFrame) { answers <- a }); err != nil {
		return nil, err
	}
	select {
	case a := <-answers:
		if a == nil {
			return nil, errLost
		}
		return a, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the server's answer: %w", ctx.Err())
	}
}

// await returns the connection, once there is one.
func (c *Client) await(ctx context.Context) (*link, error) {
	for {
		c.mu.Lock()
		l, changed, stopped := c.link, c.changed, c.stopped
		c.mu.Unlock()
		if stopped != nil {
			return nil, stopped
		}
		if l != nil {
			return l, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for a connection: %w", ctx.Err())
		}
	}
}

// do is ask for a command that is answered with ok.
func (c *Client) do(ctx context.Context, f *messages.ClientFrame) error {
	_, err := c.ask(ctx, f)
	return err
}

// post sends a command without an answer, or drops it while offline.
func (c *Client) post(f *messages.ClientFrame) {
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	if l != nil {
		l.post(f)
	}
}

// HistoryQuery selects a page of history: the entries before Before or after
// After, both exclusive; neither: the newest. Limit 0 is the server's choice.
type HistoryQuery struct {
	Before, After messages.Seq
	Limit         uint32
}

// History returns one page, ascending.
func (c *Client) History(ctx context.Context, id messages.ConversationID, q HistoryQuery) (*messages.Page, error) {
	answer, err := c.ask(ctx, &messages.ClientFrame{Command: &messages.ClientFrame_History{History: &messages.History{
		Conversation: string(id), Before: uint64(q.Before), After: uint64(q.After), Limit: q.Limit,
	}}})
	return answer.GetPage(), err
}

// Conversations yields the user's conversations, the one with the newest entry
// first, asking for more as they are used up. It ends with the first error.
func (c *Client) Conversations(ctx context.Context) iter.Seq2[*messages.Conversation, error] {
	return func(yield func(*messages.Conversation, error) bool) {
		for cursor, more := "", true; more; {
			answer, err := c.ask(ctx, &messages.ClientFrame{Command: &messages.ClientFrame_Conversations{
				Conversations: &messages.Conversations{Cursor: cursor, Limit: messages.MaxPage},
			}})
			if err != nil {
				yield(nil, err)
				return
			}
			list := answer.GetConversationList()
			for _, conversation := range list.GetConversations() {
				if !yield(conversation, nil) {
					return
				}
			}
			cursor = list.GetCursor()
			more = cursor != ""
		}
	}
}

// CreateGroup makes a group that the caller owns. A missing client id is made
// up; with the same one a later call returns the same group.
func (c *Client) CreateGroup(ctx context.Context, g *messages.CreateGroup) (*messages.Group, error) {
	g = proto.CloneOf(g)
	if g.ClientId == "" {
		g.ClientId = NewID()
	}
	answer, err := c.ask(ctx, &messages.ClientFrame{Command: &messages.ClientFrame_CreateGroup{CreateGroup: g}})
	return answer.GetGroup(), err
}

// ChangeGroup changes members, roles or the name. A missing client id is made
// up.
func (c *Client) ChangeGroup(ctx context.Context, g *messages.ChangeGroup) (*messages.Group, error) {
	g = proto.CloneOf(g)
	if g.ClientId == "" {
		g.ClientId = NewID()
	}
	answer, err := c.ask(ctx, &messages.ClientFrame{Command: &messages.ClientFrame_ChangeGroup{ChangeGroup: g}})
	return answer.GetGroup(), err
}

// Group returns a group with its members.
func (c *Client) Group(ctx context.Context, id messages.ConversationID) (*messages.Group, error) {
	answer, err := c.ask(ctx, &messages.ClientFrame{Command: &messages.ClientFrame_Group{Group: &messages.GroupQuery{Conversation: string(id)}}})
	return answer.GetGroup(), err
}

// Receipts returns each member's status for one entry.
func (c *Client) Receipts(ctx context.Context, id messages.ConversationID, seq messages.Seq) (*messages.ReceiptList, error) {
	answer, err := c.ask(ctx, &messages.ClientFrame{Command: &messages.ClientFrame_Receipts{
		Receipts: &messages.Receipts{Conversation: string(id), Seq: uint64(seq)},
	}})
	return answer.GetReceiptList(), err
}

// Read says that the user has read everything up to seq. It returns once that
// is durable.
func (c *Client) Read(ctx context.Context, id messages.ConversationID, seq messages.Seq) error {
	return c.do(ctx, &messages.ClientFrame{Command: &messages.ClientFrame_Read{Read: &messages.Read{Conversation: string(id), Seq: uint64(seq)}}})
}

// Block refuses u's direct entries, and one's own to u, from now on.
func (c *Client) Block(ctx context.Context, u messages.UserID) error {
	return c.do(ctx, &messages.ClientFrame{Command: &messages.ClientFrame_Block{Block: &messages.Block{User: string(u)}}})
}

// Unblock takes a Block back.
func (c *Client) Unblock(ctx context.Context, u messages.UserID) error {
	return c.do(ctx, &messages.ClientFrame{Command: &messages.ClientFrame_Unblock{Unblock: &messages.Unblock{User: string(u)}}})
}

// Profiles returns the profiles of users.
func (c *Client) Profiles(ctx context.Context, users ...messages.UserID) ([]*messages.ProfileInfo, error) {
	answer, err := c.ask(ctx, &messages.ClientFrame{Command: &messages.ClientFrame_Profile{Profile: &messages.Profile{Users: texts(users)}}})
	return answer.GetProfileList().GetProfiles(), err
}

// SetProfile sets one's own display name and avatar.
func (c *Client) SetProfile(ctx context.Context, name, avatar string) error {
	return c.do(ctx, &messages.ClientFrame{Command: &messages.ClientFrame_Profile{
		Profile: &messages.Profile{Set: &messages.ProfileSet{Name: name, Avatar: avatar}},
	}})
}

// Mute sets, for oneself, that a conversation makes no noise.
func (c *Client) Mute(ctx context.Context, id messages.ConversationID, on bool) error {
	return c.do(ctx, &messages.ClientFrame{Command: &messages.ClientFrame_Mute{Mute: &messages.Mute{Conversation: string(id), Value: on}}})
}

// Archive sets, for oneself, that a conversation is put away.
func (c *Client) Archive(ctx context.Context, id messages.ConversationID, on bool) error {
	return c.do(ctx, &messages.ClientFrame{Command: &messages.ClientFrame_Archive{Archive: &messages.Archive{Conversation: string(id), Value: on}}})
}

// Pin sets, for oneself, that a conversation is kept on top.
func (c *Client) Pin(ctx context.Context, id messages.ConversationID, on bool) error {
	return c.do(ctx, &messages.ClientFrame{Command: &messages.ClientFrame_Pin{Pin: &messages.Pin{Conversation: string(id), Value: on}}})
}

// Clear hides, for oneself, everything that a conversation holds now.
func (c *Client) Clear(ctx context.Context, id messages.ConversationID) error {
	return c.do(ctx, &messages.ClientFrame{Command: &messages.ClientFrame_Clear{Clear: &messages.Clear{Conversation: string(id)}}})
}

// Ping returns how long the server took to answer.
func (c *Client) Ping(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	err := c.do(ctx, &messages.ClientFrame{Command: &messages.ClientFrame_Ping{Ping: &messages.Ping{}}})
	return time.Since(began), err
}

// Watch asks for the presence of users, in place of those before; none stops.
// It is renewed for as long as the Client runs.
func (c *Client) Watch(ctx context.Context, users ...messages.UserID) error {
	watched := texts(users)
	c.mu.Lock()
	before := c.watched
	c.watched = watched
	c.mu.Unlock()
	err := c.do(ctx, watchFrame(watched))
	if _, refused := errors.AsType[*messages.Failure](err); refused {
		c.mu.Lock()
		defer c.mu.Unlock()
		if slices.Equal(c.watched, watched) {
			c.watched = before
		}
	}
	return err
}

func watchFrame(users []string) *messages.ClientFrame {
	return &messages.ClientFrame{Command: &messages.ClientFrame_Watch{Watch: &messages.Watch{Users: users}}}
}

// renewWatch repeats the watch before the server forgets it.
func (c *Client) renewWatch(ctx context.Context) {
	tick := time.NewTicker(renewWatch)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		c.mu.Lock()
		watched := c.watched
		c.mu.Unlock()
		if len(watched) > 0 {
			c.post(watchFrame(watched))
		}
	}
}

// Typing tells the others that the user types, or has stopped. It may be
// called for every key: what says nothing new is not sent, nor anything while
// offline.
func (c *Client) Typing(id messages.ConversationID, active bool) {
	if c.newsOfTyping(string(id), active, time.Now()) {
		c.post(&messages.ClientFrame{Command: &messages.ClientFrame_Typing{
			Typing: &messages.Typing{Conversation: string(id), Active: active},
		}})
	}
}

func (c *Client) newsOfTyping(id string, active bool, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	told, typing := c.typing[id]
	if !active {
		delete(c.typing, id)
		return typing && now.Sub(told) < messages.TypingFor
	}
	if typing && now.Sub(told) < renewTyping {
		return false
	}
	c.typing[id] = now
	return true
}

func texts[T ~string](ids []T) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = string(id)
	}
	return out
}

//go:build linux

package nemesis

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/gorilla/websocket"

	"github.com/troupe-chat/troupe/internal/history"
	"github.com/troupe-chat/troupe/messages"
)

// settleWithin is how long the last entries may take to every device, with no
// further traffic: promise 2 says 10 s, and the machine may be busy.
const settleWithin = 20 * time.Second

// Verdict is what a run showed.
type Verdict struct {
	Violations []history.Violation // of the promises, as the devices saw them
	Faults     []error             // further things that no server may do
}

// Lost returns how many acknowledged entries are missing somewhere.
func (v Verdict) Lost() (n int) {
	for _, x := range v.Violations {
		if x.Fault == history.Lost {
			n++
		}
	}
	return n
}

// Err returns the first faults and violations, or nil where there are none.
func (v Verdict) Err() error {
	errs := slices.Clone(v.Faults)
	for _, x := range v.Violations {
		errs = append(errs, errors.New(x.String()))
	}
	if len(errs) > 10 {
		errs = append(errs[:10], fmt.Errorf("and %d more", len(errs)-10))
	}
	return errors.Join(errs...)
}

// Judge reads the logs, waits until every device has what they hold for it,
// and checks what all of them saw. Call it after Quiet, with all devices
// connected.
func (c *Crowd) Judge(ctx context.Context) (Verdict, error) {
	logs := make(map[messages.ConversationID][]history.Entry)
	for id := range c.written() {
		log, err := c.readLog(ctx, id)
		if err != nil {
			return Verdict{}, err
		}
		logs[id] = log
		c.history.Log(id, log)
	}
	settled, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	// What is still missing then, the check finds.
	_ = c.Await(settled, "the last entries", func() bool { return c.complete(logs) })
	c.lockDevices()
	defer c.unlockDevices()
	c.mu.Lock()
	defer c.mu.Unlock()
	return Verdict{c.history.Check(history.Options{Max: 1000}), append(c.lostChanges(logs), c.faults...)}, nil
}

// written returns the conversations that were written to.
func (c *Crowd) written() map[messages.ConversationID]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.talks)
}

// lockDevices keeps the tapes still.
func (c *Crowd) lockDevices() {
	for _, d := range c.devices {
		d.mu.Lock()
	}
}

func (c *Crowd) unlockDevices() {
	for _, d := range c.devices {
		d.mu.Unlock()
	}
}

// complete reports whether every device has all that is due to it.
func (c *Crowd) complete(logs map[messages.ConversationID][]history.Entry) bool {
	for id, log := range logs {
		for _, d := range c.devices {
			if !d.has(id, lastFor(d.User, id, log)) {
				return false
			}
		}
	}
	return true
}

// lastFor returns the last entry of a log that is due to u; 0: none is.
func lastFor(u messages.UserID, id messages.ConversationID, log []history.Entry) (last messages.Seq) {
	if id.Kind() == messages.KindDirect {
		if _, ok := id.Peer(u); !ok {
			return 0
		}
		return messages.Seq(len(log))
	}
	member := false
	for _, e := range log {
		before := member
		if e.Event != nil && (slices.Contains(e.Event.Users, string(u)) || e.Event.By == string(u)) {
			member = joins(e.Event, u, member)
		}
		if member || before {
			last = e.Seq
		}
	}
	return last
}

// joins reports whether u, named in an event, is a member after it.
func joins(e *messages.Event, u messages.UserID, member bool) bool {
	named := slices.Contains(e.Users, string(u))
	switch e.Kind {
	case "created":
		return true
	case "added":
		return member || named
	case "removed", "left":
		return member && !named
	}
	return member
}

// lostChanges finds changes of groups that were answered and are not in the
// log exactly once. Called with mu held.
func (c *Crowd) lostChanges(logs map[messages.ConversationID][]history.Entry) (faults []error) {
	for change := range c.changes {
		n := 0
		for _, e := range logs[change.group] {
			if e.Author == change.by && e.ClientID == change.id {
				n++
			}
		}
		if n != 1 {
			faults = append(faults, fmt.Errorf("change %s of %s by %s was answered and is in the log %d times",
				change.id, change.group, change.by, n))
		}
	}
	return faults
}

// ---------------------------------------------------------------- reading the logs

// readLog reads a whole conversation as one who may see all of it.
func (c *Crowd) readLog(ctx context.Context, id messages.ConversationID) ([]history.Entry, error) {
	reader, ok := c.groups[id]
	if !ok {
		reader, _, _ = id.Pair()
	}
	a, err := c.auditor(ctx, reader)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", id, err)
	}
	defer a.ws.Close()
	defer context.AfterFunc(ctx, func() { a.ws.Close() })()
	log, err := a.log(id)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", id, err)
	}
	return log, nil
}

// auditor is a connection for commands only.
type auditor struct {
	ws *websocket.Conn
	re uint32
}

func (c *Crowd) auditor(ctx context.Context, user messages.UserID) (*auditor, error) {
	token, err := c.Tokens(ctx, string(user))
	if err != nil {
		return nil, err
	}
	ws, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	a := &auditor{ws: ws}
	if _, err := a.ask(hello(token, "auditor", "head", nil)); err != nil {
		ws.Close()
		return nil, err
	}
	return a, nil
}

// ask sends a command and waits for its answer.
func (a *auditor) ask(f *messages.ClientFrame) (*messages.ServerFrame, error) {
	a.re++
	f.Id = a.re
	if err := write(a.ws, f); err != nil {
		return nil, err
	}
	for {
		frames, err := read(a.ws)
		if err != nil {
			return nil, err
		}
		for _, answer := range frames {
			if answer.Re == a.re {
				return answer, nil
			}
		}
	}
}

// log reads backwards, page by page. A conversation that does not exist is
// empty.
func (a *auditor) log(id messages.ConversationID) ([]history.Entry, error) {
	var log []history.Entry
	for before := uint64(0); ; {
		answer, err := a.ask(&messages.ClientFrame{Command: &messages.ClientFrame_History{History: &messages.History{
			Conversation: string(id), Before: before, Limit: messages.MaxPage,
		}}})
		if err != nil {
			return nil, err
		}
		page := answer.GetPage()
		if code := answer.GetError().GetCode(); page == nil && code != messages.CodeNotFound {
			return nil, fmt.Errorf("history was refused: %s", answer.GetError())
		}
		for _, e := range slices.Backward(page.GetEntries()) {
			log = append(log, EntryOf(e))
			before = e.Seq
		}
		if !page.GetMore() {
			slices.Reverse(log)
			return log, nil
		}
	}
}

package rules

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/troupe-chat/troupe/messages"
)

// world is one conversation with everything around it that an actor and a
// store would keep. It looks up exactly what Needs asks for.
type world struct {
	state     *State
	limits    *messages.Limits
	now       int64
	log       []*messages.Entry
	effects   []Effects // of each entry of the log
	ids       map[string]Duplicate
	intervals map[messages.UserID][]Interval
	unknown   map[messages.UserID]bool
	uploads   map[string]bool
	blocked   bool
	receipts  Receipts
	reads     map[messages.UserID]messages.Seq // of authors, moved by ReadAfterSend and reads
	over      int64                            // RetryAfter of the next command
}

func newWorld(id messages.ConversationID) *world {
	return &world{
		state:     New(id),
		limits:    messages.DefaultLimits(),
		now:       time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli(),
		ids:       map[string]Duplicate{},
		intervals: map[messages.UserID][]Interval{},
		unknown:   map[messages.UserID]bool{},
		uploads:   map[string]bool{},
		reads:     map[messages.UserID]messages.Seq{},
	}
}

// do takes a command all the way.
func (w *world) do(u messages.UserID, frame *messages.ClientFrame) (Decision, *messages.Failure) {
	c := Command{User: u, Frame: frame, RetryAfter: w.over}
	w.over = 0
	d, f := w.state.Decide(c, w.know(u, w.state.Needs(c)), w.limits, w.now)
	if f != nil {
		return d, f
	}
	for _, e := range d.Entries {
		w.append(e, d.Hash)
	}
	return d, nil
}

func (w *world) know(u messages.UserID, n Needs) Known {
	k := Known{Blocked: n.Blocks && w.blocked, Target: w.target(n.Target)}
	if d, ok := w.ids[string(u)+" "+string(n.ID)]; ok {
		k.Duplicate = &d
	}
	for _, u := range n.Users {
		if w.unknown[u] {
			k.Unknown = append(k.Unknown, u)
		}
	}
	if w.uploads[n.Media] {
		k.Media = &messages.Media{Media: n.Media, Name: n.Media + ".png", Size: 7}
	}
	return k
}

func (w *world) target(seq messages.Seq) *Target {
	if seq == 0 || int(seq) > len(w.log) {
		return nil
	}
	e := w.log[seq-1]
	t := &Target{Seq: seq, Author: messages.UserID(e.From), At: e.At, Countable: countable(e)}
	for _, fx := range w.effects {
		t.Retracted = t.Retracted || fx.Overlay != nil && fx.Overlay.Target == seq && fx.Overlay.Retract
	}
	return t
}

func (w *world) append(e *messages.Entry, hash uint64) {
	fx := w.state.Apply(e)
	w.log = append(w.log, e)
	w.effects = append(w.effects, fx)
	author, seq := messages.UserID(e.From), messages.Seq(e.Seq)
	if e.ClientId != "" {
		w.ids[e.From+" "+e.ClientId] = Duplicate{Seq: seq, Hash: hash, At: e.At}
	}
	for _, i := range fx.Memberships {
		w.keep(i)
	}
	w.receipts.Wrote(seq, author)
	if read, moved := ReadAfterSend(w.reads[author], fx.OthersBefore, seq); moved {
		w.reads[author] = read
	}
}

// keep writes an interval as a store does: one row for each Joined.
func (w *world) keep(i Interval) {
	rows := w.intervals[i.User]
	at := slices.IndexFunc(rows, func(r Interval) bool { return r.Joined == i.Joined })
	if at >= 0 {
		rows[at] = i
		return
	}
	w.intervals[i.User] = append(rows, i)
	w.reads[i.User] = Member{From: i.From}.StartsRead(w.reads[i.User])
}

// restart ends the state and restores it from what a store would have.
func (w *world) restart() error {
	var snapshot *messages.Snapshot
	if s := w.state.Snapshot(); s != nil && w.state.Exists() {
		b, err := proto.Marshal(s)
		if err != nil {
			return err
		}
		snapshot = &messages.Snapshot{}
		if err := proto.Unmarshal(b, snapshot); err != nil {
			return err
		}
	}
	s, err := Restore(w.state.id, w.state.Head(), snapshot)
	if err == nil {
		w.state = s
	}
	return err
}

// countables counts the texts and media of (after, upTo] by an author that ok
// accepts: the slow and certain way.
func (w *world) countables(after, upTo messages.Seq, ok func(from string) bool) uint64 {
	n := uint64(0)
	for _, e := range w.log {
		if seq := messages.Seq(e.Seq); seq > after && seq <= upTo && countable(e) && ok(e.From) {
			n++
		}
	}
	return n
}

func anyone(string) bool { return true }

// due tells whether u was due to get the entry seq when it was written.
func (w *world) due(u messages.UserID, seq messages.Seq) bool {
	return slices.ContainsFunc(w.intervals[u], func(i Interval) bool {
		return i.Joined <= seq && (i.Ended == 0 || seq <= i.Ended)
	})
}

// The frames of the commands.

func textFrame(clientID, body string) *messages.ClientFrame {
	return sendFrame(&messages.Send{ClientId: clientID, Content: &messages.Send_Text{Text: &messages.Text{Body: body}}})
}

func mediaFrame(clientID, media, caption string) *messages.ClientFrame {
	return sendFrame(&messages.Send{ClientId: clientID, Content: &messages.Send_Media{Media: &messages.Media{
		Media: media, Caption: caption, Size: 1 << 40,
	}}})
}

func editFrame(clientID string, seq uint64, body string) *messages.ClientFrame {
	return sendFrame(&messages.Send{ClientId: clientID, Content: &messages.Send_Edit{Edit: &messages.Edit{Seq: seq, Body: body}}})
}

func retractFrame(clientID string, seq uint64) *messages.ClientFrame {
	return sendFrame(&messages.Send{ClientId: clientID, Content: &messages.Send_Retract{Retract: &messages.Retract{Seq: seq}}})
}

func reactFrame(clientID string, seq uint64, emoji string) *messages.ClientFrame {
	return sendFrame(&messages.Send{ClientId: clientID, Content: &messages.Send_Reaction{Reaction: &messages.Reaction{Seq: seq, Emoji: emoji}}})
}

func sendFrame(send *messages.Send) *messages.ClientFrame {
	return &messages.ClientFrame{Command: &messages.ClientFrame_Send{Send: send}}
}

func createFrame(create *messages.CreateGroup) *messages.ClientFrame {
	return &messages.ClientFrame{Command: &messages.ClientFrame_CreateGroup{CreateGroup: create}}
}

func changeFrame(change *messages.ChangeGroup) *messages.ClientFrame {
	return &messages.ClientFrame{Command: &messages.ClientFrame_ChangeGroup{ChangeGroup: change}}
}

// otherFrame returns a command that appends nothing, about seq where it has
// one.
func otherFrame(name string, seq uint64) *messages.ClientFrame {
	f := &messages.ClientFrame{}
	switch name {
	case "group":
		f.Command = &messages.ClientFrame_Group{Group: &messages.GroupQuery{}}
	case "history":
		f.Command = &messages.ClientFrame_History{History: &messages.History{Before: seq}}
	case "receipts":
		f.Command = &messages.ClientFrame_Receipts{Receipts: &messages.Receipts{Seq: seq}}
	case "read":
		f.Command = &messages.ClientFrame_Read{Read: &messages.Read{Seq: seq}}
	case "typing":
		f.Command = &messages.ClientFrame_Typing{Typing: &messages.Typing{Active: true}}
	case "clear":
		f.Command = &messages.ClientFrame_Clear{Clear: &messages.Clear{}}
	case "mute":
		f.Command = &messages.ClientFrame_Mute{Mute: &messages.Mute{Value: true}}
	case "archive":
		f.Command = &messages.ClientFrame_Archive{Archive: &messages.Archive{Value: true}}
	case "pin":
		f.Command = &messages.ClientFrame_Pin{Pin: &messages.Pin{Value: true}}
	case "ping":
		f.Command = &messages.ClientFrame_Ping{Ping: &messages.Ping{}}
	}
	return f
}

var otherCommands = []string{"group", "history", "receipts", "read", "typing", "clear", "mute", "archive", "pin"}

// about writes the conversation into a command that has none.
func about(frame *messages.ClientFrame, id messages.ConversationID) *messages.ClientFrame {
	m := frame.ProtoReflect()
	command := m.WhichOneof(m.Descriptor().Oneofs().ByName("command"))
	if command == nil {
		return frame
	}
	inner := m.Get(command).Message()
	if field := inner.Descriptor().Fields().ByName("conversation"); field != nil && !inner.Has(field) {
		inner.Set(field, protoreflect.ValueOfString(string(id)))
	}
	return frame
}

// show renders an entry for scripts.
func show(e *messages.Entry) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %s", e.Seq, e.From)
	if e.ClientId != "" {
		fmt.Fprintf(&b, "/%s", e.ClientId)
	}
	if e.ReplyTo != 0 {
		fmt.Fprintf(&b, " re %d", e.ReplyTo)
	}
	switch kind := e.Kind.(type) {
	case *messages.Entry_Text:
		fmt.Fprintf(&b, " text %q", kind.Text.Body)
	case *messages.Entry_Media:
		m := kind.Media
		fmt.Fprintf(&b, " media %s %q %s %d", m.Media, m.Caption, m.Name, m.Size)
	case *messages.Entry_Edit:
		fmt.Fprintf(&b, " edit %d %q", kind.Edit.Seq, kind.Edit.Body)
	case *messages.Entry_Retract:
		fmt.Fprintf(&b, " retract %d", kind.Retract.Seq)
	case *messages.Entry_Reaction:
		fmt.Fprintf(&b, " reaction %d %q", kind.Reaction.Seq, kind.Reaction.Emoji)
	case *messages.Entry_Event:
		fmt.Fprintf(&b, " %s", showEvent(kind.Event))
	}
	return b.String()
}

func showEvent(e *messages.Event) string {
	parts := []string{e.Kind}
	if len(e.Users) > 0 {
		parts = append(parts, strings.Join(e.Users, ","))
	}
	if e.By != "" {
		parts = append(parts, "by "+e.By)
	}
	if e.Name != "" {
		parts = append(parts, fmt.Sprintf("%q", e.Name))
	}
	if e.History != "" {
		parts = append(parts, "history "+e.History)
	}
	return strings.Join(parts, " ")
}

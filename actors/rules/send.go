package rules

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

// target returns the entry that a send is about, or 0.
func target(send *messages.Send) messages.Seq {
	switch content := send.GetContent().(type) {
	case *messages.Send_Edit:
		return messages.Seq(content.Edit.GetSeq())
	case *messages.Send_Retract:
		return messages.Seq(content.Retract.GetSeq())
	case *messages.Send_Reaction:
		return messages.Seq(content.Reaction.GetSeq())
	}
	return 0
}

func (s *State) decideSend(c Command, send *messages.Send, k Known, limits *messages.Limits, at int64) (Decision, *messages.Failure) {
	if f := s.checkSend(c.User, send, limits); f != nil {
		return Decision{}, f
	}
	hash := hashSend(send)
	if duplicate, f := k.repeated(hash); duplicate != nil || f != nil {
		return Decision{Duplicate: duplicate, Hash: hash}, f
	}
	if k.Blocked {
		return Decision{}, errBlocked()
	}
	if f := s.checkTarget(c.User, send, k, at); f != nil {
		return Decision{}, f
	}
	return Decision{Entries: s.entry(c.User, send, k, at), Hash: hash}, nil
}

// checkSend judges the fields of a send by themselves and by the state.
func (s *State) checkSend(u messages.UserID, send *messages.Send, limits *messages.Limits) *messages.Failure {
	if send.User != "" && (!s.direct || s.peer(u) != messages.UserID(send.User)) {
		return messages.Fail(messages.CodeInvalid, "conversation and user disagree; give one of them")
	}
	if !messages.ClientID(send.ClientId).Valid() {
		return errClientID()
	}
	if send.ReplyTo != 0 && !s.Sees(u, messages.Seq(send.ReplyTo)) {
		return messages.Fail(messages.CodeInvalid, "reply_to names no entry of this conversation")
	}
	return checkContent(send, limits)
}

func checkContent(send *messages.Send, limits *messages.Limits) *messages.Failure {
	switch content := send.Content.(type) {
	case *messages.Send_Text:
		return checkBody(content.Text.GetBody(), limits)
	case *messages.Send_Media:
		if content.Media.GetMedia() == "" {
			return messages.Fail(messages.CodeInvalid, "media must name an upload")
		}
		return checkSize(content.Media.GetCaption(), limits)
	case *messages.Send_Edit:
		return checkBody(content.Edit.GetBody(), limits)
	case *messages.Send_Retract:
		return nil
	case *messages.Send_Reaction:
		if len(content.Reaction.GetEmoji()) > messages.MaxEmoji {
			return messages.Fail(messages.CodeInvalid, "an emoji is at most %d bytes", messages.MaxEmoji)
		}
		return nil
	}
	return messages.Fail(messages.CodeInvalid, "send needs text, media, edit, retract or reaction")
}

func checkBody(body string, limits *messages.Limits) *messages.Failure {
	if body == "" {
		return messages.Fail(messages.CodeInvalid, "the body is empty")
	}
	return checkSize(body, limits)
}

func checkSize(text string, limits *messages.Limits) *messages.Failure {
	if len(text) > int(limits.GetTextBytes()) {
		return messages.Fail(messages.CodeTooLarge, "the text is longer than %d bytes; shorten it", limits.GetTextBytes())
	}
	return nil
}

// checkTarget judges what a send names: the entry that it edits, retracts or
// reacts to, or the upload.
func (s *State) checkTarget(u messages.UserID, send *messages.Send, k Known, at int64) *messages.Failure {
	switch send.Content.(type) {
	case *messages.Send_Text:
		return nil
	case *messages.Send_Media:
		if k.Media == nil {
			return messages.Fail(messages.CodeNotFound, "there is no such upload of yours; complete it first")
		}
		return nil
	}
	if f := s.checkVisible(u, target(send), k.Target); f != nil {
		return f
	}
	if f := s.checkAuthor(u, send, k.Target, at); f != nil {
		return f
	}
	if k.Target.Retracted || slices.Contains(s.withdrawn, k.Target.Seq) {
		return errRetracted()
	}
	return nil
}

// checkVisible judges whether u sees a text or media at seq. What one wrote
// oneself stays one's own, even where it lies in an earlier membership.
func (s *State) checkVisible(u messages.UserID, seq messages.Seq, t *Target) *messages.Failure {
	if t == nil || seq == 0 || t.Seq != seq || t.Author != u && !s.Sees(u, seq) {
		return errNoEntry()
	}
	if !t.Countable {
		return messages.Fail(messages.CodeInvalid, "that entry is neither text nor media")
	}
	return nil
}

// checkAuthor judges whether u may do that to the entry: edit one's own within
// a day, retract one's own or, as an owner or admin, anyone's; react to any.
func (s *State) checkAuthor(u messages.UserID, send *messages.Send, t *Target, at int64) *messages.Failure {
	switch send.Content.(type) {
	case *messages.Send_Edit:
		if t.Author != u {
			return messages.Fail(messages.CodeForbidden, "only its author edits an entry")
		}
		if at-t.At > messages.EditFor.Milliseconds() {
			return messages.Fail(messages.CodeForbidden, "an entry is edited within 24 hours; it is older")
		}
	case *messages.Send_Retract:
		if m, _ := s.Member(u); t.Author != u && m.Role == RoleMember {
			return messages.Fail(messages.CodeForbidden, "only its author or an admin retracts an entry")
		}
	}
	return nil
}

// textEntry is everything that an entry with a text is made of, in one piece:
// most entries are that.
type textEntry struct {
	list  [1]*messages.Entry
	entry messages.Entry
	kind  messages.Entry_Text
	text  messages.Text
}

// entry returns the entry of a send. It holds copies of the fields that are
// known, so that nothing else of a client's frame gets into the log.
func (s *State) entry(u messages.UserID, send *messages.Send, k Known, at int64) []*messages.Entry {
	made := &textEntry{}
	e := &made.entry
	made.list[0] = e
	e.Conversation, e.Seq, e.At = string(s.id), uint64(s.head.Seq)+1, at
	e.From, e.ClientId, e.ReplyTo = string(u), send.ClientId, send.ReplyTo
	switch content := send.Content.(type) {
	case *messages.Send_Text:
		made.text.Body = content.Text.GetBody()
		made.kind.Text = &made.text
		e.Kind = &made.kind
	case *messages.Send_Media:
		media := proto.CloneOf(k.Media)
		media.Media, media.Caption = content.Media.GetMedia(), content.Media.GetCaption()
		e.Kind = &messages.Entry_Media{Media: media}
	case *messages.Send_Edit:
		e.Kind = &messages.Entry_Edit{Edit: &messages.Edit{Seq: content.Edit.GetSeq(), Body: content.Edit.GetBody()}}
	case *messages.Send_Retract:
		e.Kind = &messages.Entry_Retract{Retract: &messages.Retract{Seq: content.Retract.GetSeq()}}
	case *messages.Send_Reaction:
		e.Kind = &messages.Entry_Reaction{Reaction: &messages.Reaction{Seq: content.Reaction.GetSeq(), Emoji: content.Reaction.GetEmoji()}}
	}
	return made.list[:]
}

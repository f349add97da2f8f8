package rules

import (
	"slices"

	"github.com/troupe-chat/troupe/messages"
)

// Command is what a user asks of a conversation: a frame with send,
// create_group, change_group, group, history, receipts, read, typing, clear,
// mute, archive or pin.
type Command struct {
	User       messages.UserID
	Frame      *messages.ClientFrame
	RetryAfter int64 // ms; not 0: the user is over its rate for that long
	Erase      bool  // given by the server for a deleted user: see decideErase
}

// Needs is what must be looked up before a command is decided. The zero Needs
// is nothing.
type Needs struct {
	ID     messages.ClientID // whether the user has used this id
	Target messages.Seq      // the entry that is edited, retracted or reacted to
	Users  []messages.UserID // which of these have no account
	Blocks bool              // whether one of the pair blocks the other
	Media  string            // the upload that is sent
}

// Known is what was looked up for one command before it is decided. Client ids
// that commands decided since then have used up count too.
type Known struct {
	Duplicate *Duplicate        // the user's client id is used up
	Target    *Target           // nil: no such entry
	Blocked   bool              // one of the pair blocks the other
	Unknown   []messages.UserID // those of Needs.Users that have no account
	Media     *messages.Media   // the completed upload, if the user may send it
}

// Duplicate is the entry that used a client id up.
type Duplicate struct {
	Seq  messages.Seq
	Hash uint64 // of the content
	At   int64  // ms
}

// Target is an older entry that a command names.
type Target struct {
	Seq       messages.Seq
	Author    messages.UserID
	At        int64 // ms
	Countable bool  // a text or media
	Retracted bool
}

// Decision is what a command that is not refused leads to. With neither
// Entries nor Duplicate it changes nothing, and is answered from the state.
type Decision struct {
	// Entries are to be appended together, the first at Head+1. Of a group's
	// events only the last carries the command's client id, which it uses up.
	Entries []*messages.Entry
	// Duplicate is set where the command was done before.
	Duplicate *Duplicate
	// Hash is that of the command's content, to be stored with its client id.
	Hash uint64
}

// ConversationOf returns the conversation that a command of u names, well
// formed or not, and so whose State decides it. A group's id is made from its
// creator and the client id.
func ConversationOf(u messages.UserID, frame *messages.ClientFrame) (messages.ConversationID, *messages.Failure) {
	if create := frame.GetCreateGroup(); create != nil {
		return messages.NewGroup(u, messages.ClientID(create.ClientId)), nil
	}
	conversation, ok := named(frame)
	if !ok {
		return "", errNoCommand()
	}
	send := frame.GetSend()
	switch {
	case conversation != "" || send.GetUser() == "":
		return messages.ConversationID(conversation), nil
	case send.User == string(u):
		return "", errOneself()
	}
	return messages.Direct(u, messages.UserID(send.User)), nil
}

// named returns the conversation field of a command; false for one that is not
// about a conversation.
func named(frame *messages.ClientFrame) (string, bool) {
	switch command := frame.GetCommand().(type) {
	case *messages.ClientFrame_Send:
		return command.Send.GetConversation(), true
	case *messages.ClientFrame_Read:
		return command.Read.GetConversation(), true
	case *messages.ClientFrame_Typing:
		return command.Typing.GetConversation(), true
	case *messages.ClientFrame_History:
		return command.History.GetConversation(), true
	case *messages.ClientFrame_Receipts:
		return command.Receipts.GetConversation(), true
	case *messages.ClientFrame_ChangeGroup:
		return command.ChangeGroup.GetConversation(), true
	case *messages.ClientFrame_Group:
		return command.Group.GetConversation(), true
	case *messages.ClientFrame_Mute:
		return command.Mute.GetConversation(), true
	case *messages.ClientFrame_Archive:
		return command.Archive.GetConversation(), true
	case *messages.ClientFrame_Pin:
		return command.Pin.GetConversation(), true
	case *messages.ClientFrame_Clear:
		return command.Clear.GetConversation(), true
	}
	return "", false
}

// Needs tells which look-ups c needs. It asks for what c needs in any state
// that the conversation may have moved to when c is decided.
func (s *State) Needs(c Command) Needs {
	if c.Erase {
		return Needs{Target: target(c.Frame.GetSend())}
	}
	if _, ok := s.Member(c.User); c.RetryAfter != 0 || s.direct && !ok {
		return Needs{}
	}
	switch command := c.Frame.GetCommand().(type) {
	case *messages.ClientFrame_Send:
		return s.needsOfSend(c.User, command.Send)
	case *messages.ClientFrame_Typing:
		return Needs{Blocks: s.direct}
	case *messages.ClientFrame_CreateGroup:
		return Needs{Users: lookUp(command.CreateGroup.GetMembers())}
	case *messages.ClientFrame_ChangeGroup:
		change := command.ChangeGroup
		return Needs{ID: clientID(change.GetClientId()), Users: lookUp(change.GetAdd())}
	}
	return Needs{}
}

func (s *State) needsOfSend(u messages.UserID, send *messages.Send) Needs {
	n := Needs{ID: clientID(send.GetClientId()), Blocks: s.direct, Target: target(send)}
	n.Media = send.GetMedia().GetMedia()
	if s.direct && !s.Exists() {
		n.Users = []messages.UserID{s.peer(u)}
	}
	return n
}

// clientID returns id if it is worth a look-up.
func clientID(id string) messages.ClientID {
	if c := messages.ClientID(id); c.Valid() {
		return c
	}
	return ""
}

// lookUp returns the users that are worth a look-up, each once: not those that
// can have no account, and none where they are too many for any group.
func lookUp(names []string) []messages.UserID {
	users := slices.DeleteFunc(fold(names), func(u messages.UserID) bool { return !u.Valid() })
	if len(users) > messages.MaxMembers {
		return nil
	}
	return users
}

// fold returns the named users sorted, each once.
func fold(names []string) []messages.UserID {
	users := userIDs(names)
	slices.Sort(users)
	return slices.Compact(users)
}

// Decide judges one command at the time at (ms), given what its Needs brought.
// It changes nothing. The first of these that applies is the answer: the
// caller has no such conversation; it is over its rate; a field is not valid;
// the client id was used; the caller may not; what it names is not there; it
// is too much.
func (s *State) Decide(c Command, k Known, limits *messages.Limits, at int64) (Decision, *messages.Failure) {
	if c.Erase {
		return s.decideErase(c, k, max(at, s.head.At))
	}
	if f := s.admit(c, k); f != nil {
		return Decision{}, f
	}
	if c.RetryAfter != 0 {
		return Decision{}, messages.RateLimited(c.RetryAfter)
	}
	at = max(at, s.head.At)
	switch command := c.Frame.GetCommand().(type) {
	case *messages.ClientFrame_Send:
		return s.decideSend(c, command.Send, k, limits, at)
	case *messages.ClientFrame_CreateGroup:
		return s.decideCreate(c, command.CreateGroup, k, limits, at)
	case *messages.ClientFrame_ChangeGroup:
		return s.decideChange(c, command.ChangeGroup, k, limits, at)
	}
	return Decision{}, s.check(c, k)
}

// check judges the commands that append nothing.
func (s *State) check(c Command, k Known) *messages.Failure {
	switch command := c.Frame.GetCommand().(type) {
	case *messages.ClientFrame_Group:
		if s.direct {
			return errDirect()
		}
	case *messages.ClientFrame_History:
		if command.History.GetBefore() != 0 && command.History.GetAfter() != 0 {
			return messages.Fail(messages.CodeInvalid, "give before or after, not both")
		}
	case *messages.ClientFrame_Receipts:
		if !s.Sees(c.User, messages.Seq(command.Receipts.GetSeq())) {
			return errNoEntry()
		}
	case *messages.ClientFrame_Typing:
		if k.Blocked {
			return errBlocked()
		}
	}
	return nil
}

// admit judges whether the command is about this conversation and the caller
// has it. Nothing else about the command is looked at before.
func (s *State) admit(c Command, k Known) *messages.Failure {
	if create := c.Frame.GetCreateGroup(); create != nil {
		return s.admitCreator(c.User, create)
	}
	conversation, ok := named(c.Frame)
	if !ok {
		return errNoCommand()
	}
	send := c.Frame.GetSend()
	if conversation == "" && send.GetUser() == string(c.User) {
		return errOneself()
	}
	_, member := s.Member(c.User)
	opens := s.direct && send != nil && len(k.Unknown) == 0
	if !member || !s.addressed(c.User, conversation, send) || !s.Exists() && !opens {
		return errNoConversation()
	}
	return nil
}

// admitCreator lets the creator of this group make it, and then repeat that as
// long as it is a member.
func (s *State) admitCreator(u messages.UserID, create *messages.CreateGroup) *messages.Failure {
	_, member := s.Member(u)
	if s.id != messages.NewGroup(u, messages.ClientID(create.ClientId)) || s.Exists() && !member {
		return errNoConversation()
	}
	return nil
}

// addressed reports whether a command of the member u with that conversation
// field is about this conversation. A send may name the peer instead.
func (s *State) addressed(u messages.UserID, conversation string, send *messages.Send) bool {
	if conversation != "" {
		return conversation == string(s.id)
	}
	return s.direct && s.peer(u) == messages.UserID(send.GetUser())
}

// peer returns the other user of a direct conversation of u.
func (s *State) peer(u messages.UserID) messages.UserID {
	if u == s.members[0] {
		return s.members[1]
	}
	return s.members[0]
}

// repeated tells whether the command with that content was done before. The
// same client id with other content is a conflict.
func (k Known) repeated(hash uint64) (*Duplicate, *messages.Failure) {
	if k.Duplicate != nil && k.Duplicate.Hash != hash {
		return nil, errUsed()
	}
	return k.Duplicate, nil
}

// PageLimit returns how many rows to answer a command that asks for so many;
// 0 asks for as many as there may be.
func PageLimit(asked uint32, limits *messages.Limits) int {
	most := min(limits.GetPage(), messages.MaxPage)
	if asked == 0 || asked > most {
		asked = most
	}
	return int(asked)
}

func errNoCommand() *messages.Failure {
	return messages.Fail(messages.CodeInvalid, "the frame has no command for a conversation")
}

func errNoConversation() *messages.Failure {
	return messages.Fail(messages.CodeNotFound, "there is no such conversation")
}

func errNoEntry() *messages.Failure {
	return messages.Fail(messages.CodeNotFound, "there is no such entry in this conversation")
}

func errRetracted() *messages.Failure {
	return messages.Fail(messages.CodeConflict, "that entry was retracted")
}

func errNoUser() *messages.Failure {
	return messages.Fail(messages.CodeNotFound, "a user that is named does not exist")
}

func errOneself() *messages.Failure {
	return messages.Fail(messages.CodeInvalid, "one cannot write to oneself; name another user")
}

func errDirect() *messages.Failure {
	return messages.Fail(messages.CodeInvalid, "this is a direct conversation, not a group")
}

func errBlocked() *messages.Failure {
	return messages.Fail(messages.CodeForbidden, "one of you has blocked the other")
}

func errUsed() *messages.Failure {
	return messages.Fail(messages.CodeConflict, "this client_id was used with other content; take a new one")
}

func errClientID() *messages.Failure {
	return messages.Fail(messages.CodeInvalid, "client_id must be 1 to 64 printable ASCII characters without spaces")
}

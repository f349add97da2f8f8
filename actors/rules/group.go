package rules

import (
	"slices"

	"github.com/troupe-chat/troupe/messages"
)

func (s *State) decideCreate(c Command, create *messages.CreateGroup, k Known, limits *messages.Limits, at int64) (Decision, *messages.Failure) {
	if f := checkCreate(create); f != nil {
		return Decision{}, f
	}
	event := creation(c.User, create)
	hash := creationHash(event)
	if s.Exists() {
		return s.recreated(hash)
	}
	if len(event.Users) > groupLimit(limits) {
		return Decision{}, errGroupSize(limits)
	}
	if !allValid(event.Users) || len(k.Unknown) > 0 {
		return Decision{}, errNoUser()
	}
	return Decision{Entries: []*messages.Entry{s.event(c.User, create.ClientId, event, at)}, Hash: hash}, nil
}

// recreated answers a creation that was done before: entry 1 itself tells,
// however long ago it was.
func (s *State) recreated(hash uint64) (Decision, *messages.Failure) {
	if s.created != hash {
		return Decision{}, errUsed()
	}
	return Decision{Duplicate: &Duplicate{Seq: 1, Hash: hash}, Hash: hash}, nil
}

func checkCreate(create *messages.CreateGroup) *messages.Failure {
	if !messages.ClientID(create.ClientId).Valid() {
		return errClientID()
	}
	if len(create.Name) < 1 || len(create.Name) > messages.MaxName {
		return errName()
	}
	switch create.History {
	case "", HistoryJoined, HistoryAll:
		return nil
	}
	return messages.Fail(messages.CodeInvalid, "history is %q or %q", HistoryJoined, HistoryAll)
}

// creation returns the event that creates a group. Its users are all members.
func creation(creator messages.UserID, create *messages.CreateGroup) *messages.Event {
	history := create.History
	if history == "" {
		history = HistoryJoined
	}
	return &messages.Event{
		Kind:    EventCreated,
		By:      string(creator),
		Users:   names(fold(append(slices.Clip(create.Members), string(creator)))),
		Name:    create.Name,
		History: history,
	}
}

func (s *State) decideChange(c Command, change *messages.ChangeGroup, k Known, limits *messages.Limits, at int64) (Decision, *messages.Failure) {
	if f := s.checkChange(change); f != nil {
		return Decision{}, f
	}
	hash := hashChange(change)
	if duplicate, f := k.repeated(hash); duplicate != nil || f != nil {
		return Decision{Duplicate: duplicate, Hash: hash}, f
	}
	if f := s.permit(c.User, change); f != nil {
		return Decision{}, f
	}
	d := &draft{state: s.clone(), by: c.User, at: at}
	if f := d.change(change, k, limits); f != nil {
		return Decision{}, f
	}
	if n := len(d.entries); n > 0 {
		d.entries[n-1].ClientId = change.ClientId
	}
	return Decision{Entries: d.entries, Hash: hash}, nil
}

// checkChange judges the fields of a change by themselves.
func (s *State) checkChange(change *messages.ChangeGroup) *messages.Failure {
	switch {
	case s.direct:
		return errDirect()
	case !messages.ClientID(change.ClientId).Valid():
		return errClientID()
	case len(change.Name) > messages.MaxName:
		return errName()
	case overlap(change.Add, change.Remove):
		return messages.Fail(messages.CodeInvalid, "a user is to be added and removed; choose one")
	case overlap(change.Promote, change.Demote):
		return messages.Fail(messages.CodeInvalid, "a user is to be promoted and demoted; choose one")
	case len(change.Add)+len(change.Remove)+len(change.Promote)+len(change.Demote) == 0 && change.Name == "" && !change.Leave:
		return messages.Fail(messages.CodeInvalid, "change_group names no change")
	}
	return nil
}

// overlap reports whether a and b have a name in common.
func overlap(a, b []string) bool {
	if len(a) == 0 || len(b) == 0 {
		return false
	}
	sorted := fold(b)
	return slices.ContainsFunc(a, func(name string) bool {
		_, found := slices.BinarySearch(sorted, messages.UserID(name))
		return found
	})
}

// permit judges by u's role alone: admins add, remove and rename, the owner
// promotes and demotes, everyone leaves.
func (s *State) permit(u messages.UserID, change *messages.ChangeGroup) *messages.Failure {
	m, _ := s.Member(u)
	if m.Role != RoleOwner && len(change.Promote)+len(change.Demote) > 0 {
		return messages.Fail(messages.CodeForbidden, "only the owner promotes and demotes")
	}
	if m.Role == RoleMember && (len(change.Add)+len(change.Remove) > 0 || change.Name != "") {
		return messages.Fail(messages.CodeForbidden, "only the owner and admins add, remove and rename")
	}
	return nil
}

// draft is a change in the making: each part is judged by the state as the
// parts before it leave it.
type draft struct {
	state   *State // a clone
	by      messages.UserID
	at      int64 // ms
	entries []*messages.Entry
}

func (d *draft) change(change *messages.ChangeGroup, k Known, limits *messages.Limits) *messages.Failure {
	if f := d.add(change.Add, k, limits); f != nil {
		return f
	}
	if f := d.remove(change.Remove); f != nil {
		return f
	}
	if f := d.promote(change.Promote); f != nil {
		return f
	}
	if f := d.demote(change.Demote); f != nil {
		return f
	}
	if change.Name != "" && change.Name != d.state.name {
		d.append(&messages.Event{Kind: EventRenamed, Name: change.Name})
	}
	if change.Leave {
		d.leave()
	}
	return nil
}

func (d *draft) add(list []string, k Known, limits *messages.Limits) *messages.Failure {
	users := slices.DeleteFunc(fold(list), d.isMember)
	added := names(users)
	isUnknown := func(u messages.UserID) bool { return !d.isMember(u) }
	if !allValid(added) || slices.ContainsFunc(k.Unknown, isUnknown) {
		return errNoUser()
	}
	if len(users) > 0 && len(d.state.members)+len(users) > groupLimit(limits) {
		return errGroupSize(limits)
	}
	d.appendUsers(EventAdded, added)
	return nil
}

func (d *draft) remove(list []string) *messages.Failure {
	users := fold(list)
	for _, u := range users {
		if f := d.checkRemove(u); f != nil {
			return f
		}
	}
	d.appendUsers(EventRemoved, names(users))
	return nil
}

// checkRemove keeps admins from removing each other and the owner.
func (d *draft) checkRemove(u messages.UserID) *messages.Failure {
	m, ok := d.state.Member(u)
	by, _ := d.state.Member(d.by)
	switch {
	case !ok:
		return errNoMember()
	case u == d.by:
		return messages.Fail(messages.CodeInvalid, "to go oneself, leave")
	case by.Role == RoleAdmin && m.Role != RoleMember:
		return messages.Fail(messages.CodeForbidden, "an admin removes members only")
	}
	return nil
}

func (d *draft) promote(list []string) *messages.Failure {
	users, f := d.withRole(fold(list), RoleMember)
	if f != nil {
		return f
	}
	d.appendUsers(EventPromoted, users)
	return nil
}

func (d *draft) demote(list []string) *messages.Failure {
	users := fold(list)
	if slices.Contains(users, d.by) {
		return messages.Fail(messages.CodeInvalid, "the owner stays the owner until it leaves")
	}
	admins, f := d.withRole(users, RoleAdmin)
	if f != nil {
		return f
	}
	d.appendUsers(EventDemoted, admins)
	return nil
}

// withRole returns those of users whose role that is: for the others there is
// nothing to do. All must be members.
func (d *draft) withRole(users []messages.UserID, role string) ([]string, *messages.Failure) {
	var out []string
	for _, u := range users {
		m, ok := d.state.Member(u)
		if !ok {
			return nil, errNoMember()
		}
		if m.Role == role {
			out = append(out, string(u))
		}
	}
	return out, nil
}

// leave ends the caller's membership. Where it was the owner, the server names
// the longest-serving admin, else member, the next one.
func (d *draft) leave() {
	m, _ := d.state.Member(d.by)
	d.appendUsers(EventLeft, []string{string(d.by)})
	if m.Role != RoleOwner || len(d.state.members) == 0 {
		return
	}
	d.entries = append(d.entries, d.applied(&messages.Event{
		Kind: EventPromoted, Users: []string{string(d.state.heir())}, Name: RoleOwner,
	}))
}

// heir returns who becomes the owner of a group that has members and no owner.
func (s *State) heir() messages.UserID {
	members := s.bySeniority()
	for _, u := range members {
		if s.roll[u].Role == RoleAdmin {
			return u
		}
	}
	return members[0]
}

// appendUsers appends an event about users, if there are any.
func (d *draft) appendUsers(kind string, users []string) {
	if len(users) > 0 {
		d.append(&messages.Event{Kind: kind, Users: users})
	}
}

// append adds an event by the caller and moves the draft's state over it.
func (d *draft) append(event *messages.Event) {
	event.By = string(d.by)
	d.entries = append(d.entries, d.applied(event))
}

func (d *draft) applied(event *messages.Event) *messages.Entry {
	e := d.state.event(d.by, "", event, d.at)
	d.state.Apply(e)
	return e
}

func (d *draft) isMember(u messages.UserID) bool {
	_, ok := d.state.Member(u)
	return ok
}

// event returns the next entry of the log with an event.
func (s *State) event(from messages.UserID, clientID string, event *messages.Event, at int64) *messages.Entry {
	return &messages.Entry{
		Conversation: string(s.id),
		Seq:          uint64(s.head.Seq) + 1,
		From:         string(from),
		ClientId:     clientID,
		At:           at,
		Kind:         &messages.Entry_Event{Event: event},
	}
}

// groupLimit returns how many members a group may have.
func groupLimit(limits *messages.Limits) int {
	return int(min(limits.GetGroupMembers(), messages.MaxMembers))
}

func allValid(users []string) bool {
	return !slices.ContainsFunc(users, func(u string) bool { return !messages.UserID(u).Valid() })
}

func names(users []messages.UserID) []string {
	out := make([]string, 0, len(users))
	for _, u := range users {
		out = append(out, string(u))
	}
	return out
}

func errName() *messages.Failure {
	return messages.Fail(messages.CodeInvalid, "a group's name is 1 to %d bytes", messages.MaxName)
}

func errGroupSize(limits *messages.Limits) *messages.Failure {
	return messages.Fail(messages.CodeTooLarge, "a group has at most %d members", groupLimit(limits))
}

func errNoMember() *messages.Failure {
	return messages.Fail(messages.CodeNotFound, "a user that is named is no member of this group")
}

package rules

import (
	"fmt"
	"slices"

	"github.com/troupe-chat/troupe/messages"
)

// Event kinds. An event of kind promoted makes admins, or, where its name is
// RoleOwner, its one user the owner: the server writes that when an owner left.
const (
	EventCreated  = "created"
	EventAdded    = "added"
	EventRemoved  = "removed"
	EventLeft     = "left"
	EventRenamed  = "renamed"
	EventPromoted = "promoted"
	EventDemoted  = "demoted"
)

// Effects is what an entry changes outside the log.
type Effects struct {
	// Recipients is whom the entry is due to: the members after it, and those
	// whose membership it ends. Shared; not to be changed.
	Recipients []messages.UserID
	// Memberships is the intervals that it begins, ends or changes.
	Memberships []Interval
	// Overlay is set where it edits or retracts an older entry.
	Overlay *Overlay
	// OthersBefore is the last countable entry before this one that is not by
	// its author, for ReadAfterSend.
	OthersBefore messages.Seq
	// Countable is set on texts and media.
	Countable bool
	// Membership is set on events: a snapshot is due with it.
	Membership bool
}

// Interval is one membership of a user, from the first entry it sees to the
// event that ended it. Joined tells the intervals of one user apart.
type Interval struct {
	User     messages.UserID
	Joined   messages.Seq
	From     messages.Seq
	Ended    messages.Seq // 0: open
	Unmarked bool         // the conversation leaves no marks
}

// Overlay is an edit or a retraction (at Seq) of the entry Target.
type Overlay struct {
	Target  messages.Seq
	Seq     messages.Seq
	At      int64 // ms
	Retract bool
	Body    string // of an edit
}

// Apply moves the state over the next entry of its log and returns what the
// entry changes elsewhere. The entry was decided, here or before, and is not
// judged again. It panics where the entry is not the next one: the state would
// stand for no log any more.
func (s *State) Apply(e *messages.Entry) Effects {
	if messages.Seq(e.Seq) != s.head.Seq+1 {
		panic(fmt.Sprintf("rules: entry %d applied after %d", e.Seq, s.head.Seq))
	}
	s.head.Seq++
	s.head.At = e.At
	author := messages.UserID(e.From)
	fx := Effects{OthersBefore: s.authors.besides(author)}
	switch kind := e.Kind.(type) {
	case *messages.Entry_Text, *messages.Entry_Media:
		fx.Countable = true
		s.head.Countable++
		s.authors.wrote(author, s.head.Seq)
	case *messages.Entry_Edit:
		fx.Overlay = &Overlay{Target: messages.Seq(kind.Edit.GetSeq()), Seq: s.head.Seq, At: e.At, Body: kind.Edit.GetBody()}
	case *messages.Entry_Retract:
		fx.Overlay = &Overlay{Target: messages.Seq(kind.Retract.GetSeq()), Seq: s.head.Seq, At: e.At, Retract: true}
		s.withdraw(fx.Overlay.Target)
	case *messages.Entry_Event:
		s.head.StateSeq = s.head.Seq
		fx.Membership = true
		s.applyEvent(kind.Event, &fx)
		return fx
	}
	fx.Recipients = s.members
	if s.direct && s.head.Seq == 1 {
		fx.Memberships = s.intervals(s.members)
	}
	return fx
}

func countable(e *messages.Entry) bool {
	switch e.Kind.(type) {
	case *messages.Entry_Text, *messages.Entry_Media:
		return true
	}
	return false
}

func (s *State) applyEvent(ev *messages.Event, fx *Effects) {
	switch ev.Kind {
	case EventCreated:
		s.name, s.history, s.created = ev.Name, ev.History, creationHash(ev)
		s.enter(ev, fx)
	case EventAdded:
		s.enter(ev, fx)
	case EventRemoved, EventLeft:
		s.leave(ev, fx)
	case EventRenamed:
		s.name = ev.Name
	case EventPromoted:
		role := RoleAdmin
		if ev.Name == RoleOwner {
			role = RoleOwner
		}
		s.setRole(ev, role)
	case EventDemoted:
		s.setRole(ev, RoleMember)
	}
	fx.Recipients = slices.Concat(s.members, fx.Recipients)
}

// enter begins the memberships of ev's users. The event that makes a group too
// large for marks changes those of all its members.
func (s *State) enter(ev *messages.Event, fx *Effects) {
	if s.roll == nil {
		s.roll = make(map[messages.UserID]Member, len(ev.Users))
	}
	for _, name := range ev.Users {
		s.roll[messages.UserID(name)] = s.member(RoleMember, s.head.Seq)
	}
	if ev.Kind == EventCreated {
		s.roll[messages.UserID(ev.By)] = s.member(RoleOwner, s.head.Seq)
	}
	wasLarge := s.large
	s.listMembers()
	begun := userIDs(ev.Users)
	if s.large && !wasLarge {
		begun = s.members
	}
	fx.Memberships = s.intervals(begun)
}

// leave ends the memberships of ev's users, who still get ev.
func (s *State) leave(ev *messages.Event, fx *Effects) {
	gone := userIDs(ev.Users)
	fx.Memberships = s.intervals(gone)
	for i, u := range gone {
		fx.Memberships[i].Ended = s.head.Seq
		delete(s.roll, u)
	}
	s.listMembers()
	fx.Recipients = gone
}

func (s *State) setRole(ev *messages.Event, role string) {
	for _, name := range ev.Users {
		u := messages.UserID(name)
		m := s.roll[u]
		m.Role = role
		s.roll[u] = m
	}
}

// intervals returns the open intervals of members.
func (s *State) intervals(users []messages.UserID) []Interval {
	out := make([]Interval, 0, len(users))
	for _, u := range users {
		m, _ := s.Member(u)
		out = append(out, Interval{User: u, Joined: m.Joined, From: m.From, Unmarked: s.large})
	}
	return out
}

// withdraw remembers that target was retracted.
func (s *State) withdraw(target messages.Seq) {
	if len(s.withdrawn) >= rememberedRetractions {
		s.withdrawn = slices.Delete(s.withdrawn, 0, rememberedRetractions/2)
	}
	s.withdrawn = append(s.withdrawn, target)
}

func userIDs(names []string) []messages.UserID {
	out := make([]messages.UserID, 0, len(names))
	for _, name := range names {
		out = append(out, messages.UserID(name))
	}
	return out
}

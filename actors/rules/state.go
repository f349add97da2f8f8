package rules

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/troupe-chat/troupe/messages"
)

// Roles of members, as clients see them. Those of a direct conversation are
// both members.
const (
	RoleOwner  = "owner"
	RoleAdmin  = "admin"
	RoleMember = "member"
)

// What a group shows to those who are added later.
const (
	HistoryJoined = "joined" // what follows their joining
	HistoryAll    = "all"    // everything from seq 1
)

// Head is the end of a log.
type Head struct {
	Seq       messages.Seq // 0: empty
	At        int64        // ms, of the last entry
	Countable uint64       // texts and media up to Seq
	StateSeq  messages.Seq // the last event up to Seq
}

// Member is one user's open membership.
type Member struct {
	Role   string
	Joined messages.Seq // the event that added it; 1 in a direct conversation
	From   messages.Seq // the first entry it may see
}

// State is a conversation for exactly the prefix 1..Head of its log. Not for
// concurrent use.
type State struct {
	id     messages.ConversationID
	direct bool
	head   Head

	members []messages.UserID          // sorted. Immutable: replaced on change
	roll    map[messages.UserID]Member // of a group, the same users as members
	name    string
	history string
	created uint64 // hash of what the group was created with
	large   bool   // has once had more members than leave marks

	authors   authors
	withdrawn []messages.Seq // recent targets of retractions, at most rememberedRetractions
}

// rememberedRetractions bounds how many retractions a state remembers: those
// that can have come after a look-up of their target was made. A queue holds
// fewer commands than this.
const rememberedRetractions = 2048

// New returns the state of an empty log. An id that can name no conversation
// makes a state that has no member ever.
func New(id messages.ConversationID) *State {
	s := &State{id: id}
	if low, high, ok := id.Pair(); ok {
		s.direct = true
		s.members = []messages.UserID{low, high}
	}
	return s
}

// Restore returns the state at head. snapshot is the newest one of a group:
// its StateSeq is the head's. A direct conversation has none.
func Restore(id messages.ConversationID, head Head, snapshot *messages.Snapshot) (*State, error) {
	s := New(id)
	s.head = head
	s.authors.forget(head)
	if s.direct || head.Seq == 0 {
		return s, nil
	}
	if messages.Seq(snapshot.GetStateSeq()) != head.StateSeq {
		return nil, fmt.Errorf("restore %s: the snapshot is of entry %d, the last event is %d",
			id, snapshot.GetStateSeq(), head.StateSeq)
	}
	s.name, s.history = snapshot.Name, snapshot.History
	s.created, s.large = snapshot.CreatedHash, snapshot.Unmarked
	s.roll = make(map[messages.UserID]Member, len(snapshot.Members))
	for _, m := range snapshot.Members {
		s.roll[messages.UserID(m.User)] = s.member(m.Role, messages.Seq(m.Joined))
	}
	s.listMembers()
	return s, nil
}

// Recall tells a restored state of the last entries of its log, ascending and
// ending at the head, so that it knows whose they are. Without it, a state
// takes everything before its restoration for written by others.
func (s *State) Recall(tail []*messages.Entry) {
	if len(tail) == 0 {
		return
	}
	s.authors = authors{last: messages.Seq(tail[0].Seq) - 1, others: messages.Seq(tail[0].Seq) - 1}
	for _, e := range tail {
		if countable(e) {
			s.authors.wrote(messages.UserID(e.From), messages.Seq(e.Seq))
		}
	}
}

// Head returns the end of the log that the state stands for.
func (s *State) Head() Head { return s.head }

// Snapshot returns what Restore needs of a group beyond the head, as of the
// last event; nil for a direct conversation.
func (s *State) Snapshot() *messages.Snapshot {
	if s.direct {
		return nil
	}
	snapshot := &messages.Snapshot{
		StateSeq:    uint64(s.head.StateSeq),
		Name:        s.name,
		History:     s.history,
		CreatedHash: s.created,
		Unmarked:    s.large,
	}
	for _, u := range s.bySeniority() {
		m := s.roll[u]
		snapshot.Members = append(snapshot.Members, &messages.SnapshotMember{
			User: string(u), Role: m.Role, Joined: uint64(m.Joined),
		})
	}
	return snapshot
}

// Group returns the answer to a group command, its members sorted by id.
func (s *State) Group() *messages.Group {
	g := &messages.Group{
		Conversation: string(s.id),
		Name:         s.name,
		Head:         uint64(s.head.Seq),
		History:      s.history,
		Members:      make([]*messages.Member, 0, len(s.members)),
	}
	for _, u := range s.members {
		g.Members = append(g.Members, &messages.Member{User: string(u), Role: s.roll[u].Role})
	}
	return g
}

// Members returns the members, sorted. The slice is never changed; a change of
// the members makes another.
func (s *State) Members() []messages.UserID { return s.members }

// Member returns u's membership. Both users of a direct conversation are
// members of it before it has an entry.
func (s *State) Member(u messages.UserID) (Member, bool) {
	if !s.direct {
		m, ok := s.roll[u]
		return m, ok
	}
	if u != s.members[0] && u != s.members[1] {
		return Member{}, false
	}
	return Member{Role: RoleMember, Joined: 1, From: 1}, true
}

// Sees reports whether u is a member and may see the entry seq.
func (s *State) Sees(u messages.UserID, seq messages.Seq) bool {
	m, ok := s.Member(u)
	return ok && seq >= m.From && seq <= s.head.Seq
}

// Audience returns the members that may see the entry seq, sorted.
func (s *State) Audience(seq messages.Seq) []messages.UserID {
	var out []messages.UserID
	for _, u := range s.members {
		if s.Sees(u, seq) {
			out = append(out, u)
		}
	}
	return out
}

// Exists reports whether the conversation has an entry.
func (s *State) Exists() bool { return s.head.Seq > 0 }

// Ended reports whether a group's last member has left.
func (s *State) Ended() bool { return s.Exists() && len(s.members) == 0 }

// Marked reports whether entries leave inbox marks: the conversation has never
// had more than messages.MarkedMembers members.
func (s *State) Marked() bool { return !s.large }

// member returns a membership that begins at joined.
func (s *State) member(role string, joined messages.Seq) Member {
	m := Member{Role: role, Joined: joined, From: joined}
	if s.history == HistoryAll {
		m.From = 1
	}
	return m
}

// listMembers makes members anew from the roll.
func (s *State) listMembers() {
	s.members = slices.Sorted(maps.Keys(s.roll))
	s.large = s.large || len(s.members) > messages.MarkedMembers
}

// bySeniority returns a group's members, the longest-serving first, those of
// one event by id.
func (s *State) bySeniority() []messages.UserID {
	users := slices.Clone(s.members)
	slices.SortStableFunc(users, func(a, b messages.UserID) int {
		return cmp.Compare(s.roll[a].Joined, s.roll[b].Joined)
	})
	return users
}

// clone returns a state that can be moved on without moving s.
func (s *State) clone() *State {
	c := *s
	c.roll = maps.Clone(s.roll)
	c.withdrawn = slices.Clone(s.withdrawn)
	return &c
}

// authors remembers whose the last countable entries are: as much as it takes
// to tell, for any user, the last one of others.
type authors struct {
	user   messages.UserID // author of last
	last   messages.Seq    // the last countable entry
	others messages.Seq    // the last countable entry not by user
}

// forget takes everything up to head for written by others.
func (a *authors) forget(head Head) {
	*a = authors{}
	if head.Countable > 0 {
		*a = authors{last: head.Seq, others: head.Seq}
	}
}

// wrote notes that u wrote the countable entry seq.
func (a *authors) wrote(u messages.UserID, seq messages.Seq) {
	if u != a.user {
		a.others, a.user = a.last, u
	}
	a.last = seq
}

// besides returns the last countable entry that is not u's.
func (a *authors) besides(u messages.UserID) messages.Seq {
	if u == a.user {
		return a.others
	}
	return a.last
}

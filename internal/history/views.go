package history

import (
	"math"
	"slices"

	"github.com/troupe-chat/troupe/messages"
)

// span is one membership: the entries first … last are its user's.
type span struct{ first, last messages.Seq }

const open = messages.Seq(math.MaxUint64)

// view is what one user may see of a conversation: ascending spans that do not
// touch.
type view []span

func (v view) has(seq messages.Seq) bool {
	return slices.ContainsFunc(v, func(s span) bool { return s.first <= seq && seq <= s.last })
}

func (v view) startsAt(seq messages.Seq) bool {
	return slices.ContainsFunc(v, func(s span) bool { return s.first == seq })
}

// next returns the first seq beyond after that is in the view, or open.
func (v view) next(after messages.Seq) messages.Seq {
	for _, s := range v {
		if s.last > after {
			return max(s.first, after+1)
		}
	}
	return open
}

// views is who may see what of one conversation.
type views map[messages.UserID]view

// viewsOf reads them off a log: of a direct conversation the pair sees all, of
// a group its membership events tell.
func viewsOf(c messages.ConversationID, log []Entry) views {
	vs := make(views)
	if low, high, ok := c.Pair(); ok {
		vs[low], vs[high] = view{{1, open}}, view{{1, open}}
		return vs
	}
	all := false
	for _, e := range log {
		if e.Event == nil {
			continue
		}
		switch e.Event.Kind {
		case "created":
			all = e.Event.History == "all"
			vs.enter(append(e.Event.Users, e.Event.By), e.Seq)
		case "added":
			from := e.Seq
			if all {
				from = 1
			}
			vs.enter(e.Event.Users, from)
		case "removed", "left":
			vs.leave(leavers(e.Event), e.Seq)
		}
	}
	return vs
}

func leavers(e *messages.Event) []string {
	if len(e.Users) == 0 {
		return []string{e.By}
	}
	return e.Users
}

// enter begins a span of users who are not members. What a group that shows
// all lets a returning member see again joins the earlier span.
func (vs views) enter(users []string, from messages.Seq) {
	for _, name := range users {
		u := messages.UserID(name)
		v := vs[u]
		switch n := len(v); {
		case n > 0 && v[n-1].last == open:
		case n > 0 && from <= v[n-1].last+1:
			v[n-1].last = open
		default:
			vs[u] = append(v, span{from, open})
		}
	}
}

func (vs views) leave(users []string, at messages.Seq) {
	for _, name := range users {
		if v := vs[messages.UserID(name)]; len(v) > 0 {
			v[len(v)-1].last = min(v[len(v)-1].last, at)
		}
	}
}

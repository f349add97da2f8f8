package persistence

import (
	"slices"

	"github.com/troupe-chat/troupe/messages"
)

// Span is a run of seqs that a user may see, both ends included. Last 0 is
// open; Begins says that a membership begins at First, so that a jump to it is
// right.
type Span struct {
	First, Last messages.Seq
	Begins      bool
}

// View returns what a member may see of one conversation: the union of its
// intervals beyond what it has cleared, ascending, no two touching.
func View(intervals []Membership, cleared messages.Seq) []Span {
	spans := make([]Span, 0, len(intervals))
	for _, m := range intervals {
		s := Span{First: max(m.From, cleared+1), Last: m.Ended, Begins: true}
		if s.Last == 0 || s.First <= s.Last {
			spans = append(spans, s)
		}
	}
	slices.SortFunc(spans, func(a, b Span) int { return int(a.First) - int(b.First) })
	return merge(spans)
}

func merge(spans []Span) []Span {
	out := spans[:0]
	for _, s := range spans {
		last := len(out) - 1
		if last < 0 || out[last].Last != 0 && s.First > out[last].Last+1 {
			out = append(out, s)
			continue
		}
		if out[last].Last != 0 && (s.Last == 0 || s.Last > out[last].Last) {
			out[last].Last = s.Last
		}
	}
	return out
}

// Next returns the span that holds the first visible seq beyond after, its
// First moved up to that seq (Begins only where it is the span's own), or
// false where nothing beyond after will ever be visible in these spans.
func Next(spans []Span, after messages.Seq) (Span, bool) {
	for _, s := range spans {
		if s.Last != 0 && s.Last <= after {
			continue
		}
		if s.First <= after {
			s.First, s.Begins = after+1, false
		}
		return s, true
	}
	return Span{}, false
}

// Sees reports whether seq lies in one of the spans.
func Sees(spans []Span, seq messages.Seq) bool {
	s, ok := Next(spans, seq-1)
	return ok && s.First == seq
}

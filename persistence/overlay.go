package persistence

import "github.com/troupe-chat/troupe/messages"

// Served applies overlays to an entry in place: what every reader of a log
// sees. of(seq) returns the overlays of an entry that count, ascending by Seq.
// A retracted body is gone, from the entry and from the edits of it; an edited
// one is served with its last body.
func Served(e *messages.Entry, of func(messages.Seq) []Overlay) {
	if edit := e.GetEdit(); edit != nil {
		if r, ok := retraction(of(messages.Seq(edit.Seq))); ok {
			edit.Body = ""
			e.RetractedAt = r.At
		}
		return
	}
	overlays := of(messages.Seq(e.Seq))
	if len(overlays) == 0 {
		return
	}
	if r, ok := retraction(overlays); ok {
		withdraw(e)
		e.RetractedAt = r.At
		return
	}
	last := overlays[len(overlays)-1]
	e.EditedAt = last.At
	switch kind := e.Kind.(type) {
	case *messages.Entry_Text:
		kind.Text.Body = last.Body
	case *messages.Entry_Media:
		kind.Media.Caption = last.Body
	}
}

func retraction(overlays []Overlay) (Overlay, bool) {
	for _, o := range overlays {
		if o.Retract {
			return o, true
		}
	}
	return Overlay{}, false
}

// withdraw empties the body of an entry and keeps its kind.
func withdraw(e *messages.Entry) {
	switch e.Kind.(type) {
	case *messages.Entry_Text:
		e.Kind = &messages.Entry_Text{Text: &messages.Text{}}
	case *messages.Entry_Media:
		e.Kind = &messages.Entry_Media{Media: &messages.Media{}}
	case *messages.Entry_Sealed:
		e.Kind = &messages.Entry_Sealed{Sealed: &messages.Sealed{}}
	}
}

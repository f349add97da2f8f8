package chat

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/troupe-chat/troupe/messages"
)

// clean makes text from others safe to draw: no control character reaches the
// terminal, and nothing reorders what is around the text. Line ends stay.
func clean(s string) string {
	return strings.Map(drawable, strings.ToValidUTF8(s, "\uFFFD"))
}

// cleanLine is clean for what has to stay on one line.
func cleanLine(s string) string {
	return strings.Join(strings.Fields(clean(s)), " ")
}

func drawable(r rune) rune {
	switch {
	case r == '\n':
		return r
	case r == '\t':
		return ' '
	case r == '\u2028' || r == '\u2029':
		return '\n'
	case unicode.IsControl(r), isReordering(r), r == '\uFEFF':
		return -1
	}
	return r
}

// isReordering reports whether r overrides, embeds or isolates a direction of
// writing.
func isReordering(r rune) bool {
	return r >= '\u202A' && r <= '\u202E' || r >= '\u2066' && r <= '\u2069'
}

// describe puts an event of a group into words.
func describe(e *messages.Event) string {
	by, users := cleanLine(e.By), cleanLine(strings.Join(e.Users, ", "))
	switch e.Kind {
	case "created":
		return fmt.Sprintf("%s created %s with %s", by, cleanLine(e.Name), users)
	case "added":
		return fmt.Sprintf("%s added %s", by, users)
	case "removed":
		return fmt.Sprintf("%s removed %s", by, users)
	case "left":
		return users + " left"
	case "renamed":
		return fmt.Sprintf("%s renamed the group to %s", by, cleanLine(e.Name))
	case "promoted":
		return users + " was promoted"
	case "demoted":
		return users + " was demoted"
	}
	return cleanLine(e.Kind)
}

// bodyOf returns what an entry says, and whether it is one that is shown by
// itself.
func bodyOf(e *messages.Entry) (string, bool) {
	switch k := e.Kind.(type) {
	case *messages.Entry_Text:
		return clean(k.Text.GetBody()), true
	case *messages.Entry_Media:
		name := cleanLine(k.Media.GetName())
		if name == "" {
			name = cleanLine(k.Media.GetMedia())
		}
		return strings.TrimSpace("[" + name + "] " + clean(k.Media.GetCaption())), true
	case *messages.Entry_Event:
		return describe(k.Event), true
	case *messages.Entry_Sealed:
		return "[an encrypted entry]", true
	case nil:
		return "", e.RetractedAt != 0
	}
	return "", false
}

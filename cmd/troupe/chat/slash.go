package chat

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/troupe-chat/troupe/gateway/client"
	"github.com/troupe-chat/troupe/messages"
)

// help is shown by /help; every command is here and in commands.
const help = `/to NAME               open a user's or a group's conversation
/group NAME USER…      make a group
/add USER…  /remove USER…  /leave  /rename NAME
/reply [#N] TEXT       answer the last entry of another, or entry N
/edit [#N] TEXT        change your last entry, or entry N
/retract [#N]          take it back
/react [#N] [EMOJI]    react to the last entry of another; no emoji removes
/block [USER]  /unblock [USER]
/who                   who is here, and how far they have read
/help  /quit
Tab, Shift+Tab, Alt+Up, Alt+Down: another conversation. PageUp: earlier entries.
Up: edit your last entry. Ctrl+N: entry numbers. Alt+Enter: a new line.`

// line is what a person typed: a command with its argument, or, with no name,
// a text.
type line struct {
	name, rest string
}

// parse reads a line. A text that begins with a slash is written with two.
func parse(s string) line {
	if text, ok := strings.CutPrefix(s, "//"); ok {
		return line{rest: "/" + text}
	}
	rest, ok := strings.CutPrefix(s, "/")
	if !ok {
		return line{rest: s}
	}
	name, rest, _ := strings.Cut(rest, " ")
	return line{name: name, rest: strings.TrimSpace(rest)}
}

// place is where a command is given: a conversation, and the entries that it
// means when it names none.
type place struct {
	conversation messages.ConversationID // "" where none is open
	peer         messages.UserID
	own, other   uint64 // the last entry of oneself and of others
}

// placeOf returns the place for a room, which may be nil.
func (b *book) placeOf(r *room) place {
	if r == nil {
		return place{}
	}
	at := place{
		conversation: messages.ConversationID(r.id),
		peer:         messages.UserID(r.peer),
		other:        r.last(func(e *messages.Entry) bool { return e.From != b.me }),
	}
	if r.unsent() == 0 { // else the last has no number yet
		at.own = r.last(func(e *messages.Entry) bool { return e.From == b.me })
	}
	return at
}

// outcome is what came of a line.
type outcome struct {
	notice string
	sent   *client.Outgoing // an entry on its way
	group  *messages.Group  // a group to open, or as it is now
	to     string           // a name to open
	quit   bool
}

type command func(context.Context, *client.Client, place, string) (outcome, error)

// commands is every command that may be typed.
var commands = map[string]command{
	"":        sendText,
	"to":      openRoom,
	"group":   makeGroup,
	"add":     changeMembers(func(g *messages.ChangeGroup, users []string) { g.Add = users }),
	"remove":  changeMembers(func(g *messages.ChangeGroup, users []string) { g.Remove = users }),
	"leave":   leave,
	"rename":  rename,
	"reply":   reply,
	"edit":    edit,
	"retract": retract,
	"react":   react,
	"block":   blocking((*client.Client).Block, "blocked"),
	"unblock": blocking((*client.Client).Unblock, "unblocked"),
	"who":     who,
	"help": func(context.Context, *client.Client, place, string) (outcome, error) {
		return outcome{notice: help}, nil
	},
	"quit": func(context.Context, *client.Client, place, string) (outcome, error) { return outcome{quit: true}, nil },
}

var (
	errNowhere = errors.New("no conversation is open: /to NAME")
	errNoEntry = errors.New("there is no such entry: name one by its number, like #12")
)

// execute does what a line says. It may wait for the server.
func execute(ctx context.Context, c *client.Client, at place, l line) (outcome, error) {
	do, ok := commands[l.name]
	if !ok {
		return outcome{}, fmt.Errorf("there is no /%s: try /help", cleanLine(l.name))
	}
	return do(ctx, c, at, l.rest)
}

func queue(c *client.Client, at place, s *messages.Send) (outcome, error) {
	if at.conversation == "" {
		return outcome{}, errNowhere
	}
	out, err := c.Send(s)
	return outcome{sent: out}, err
}

func sendText(_ context.Context, c *client.Client, at place, text string) (outcome, error) {
	if strings.TrimSpace(text) == "" {
		return outcome{}, nil
	}
	return queue(c, at, client.Text(client.In(at.conversation), text))
}

func openRoom(_ context.Context, _ *client.Client, _ place, name string) (outcome, error) {
	if name == "" {
		return outcome{}, errors.New("say whom: /to NAME")
	}
	return outcome{to: name}, nil
}

// numbered splits an optional #N from the front.
func numbered(rest string, otherwise uint64) (seq uint64, text string, err error) {
	first, text, _ := strings.Cut(rest, " ")
	number, ok := strings.CutPrefix(first, "#")
	if !ok {
		seq, text = otherwise, rest
	} else if seq, err = strconv.ParseUint(number, 10, 64); err != nil {
		// Not a number: the text begins with this sign.
		seq, text = otherwise, rest
	}
	if seq == 0 {
		return 0, "", errNoEntry
	}
	return seq, strings.TrimSpace(text), nil
}

func reply(_ context.Context, c *client.Client, at place, rest string) (outcome, error) {
	seq, text, err := numbered(rest, at.other)
	if err != nil {
		return outcome{}, err
	}
	if text == "" {
		return outcome{}, errors.New("say what: /reply TEXT")
	}
	s := client.Text(client.In(at.conversation), text)
	s.ReplyTo = seq
	return queue(c, at, s)
}

func edit(_ context.Context, c *client.Client, at place, rest string) (outcome, error) {
	seq, text, err := numbered(rest, at.own)
	if err != nil {
		return outcome{}, err
	}
	if text == "" {
		return outcome{}, errors.New("say what: /edit TEXT")
	}
	return queue(c, at, client.Edit(client.In(at.conversation), messages.Seq(seq), text))
}

func retract(_ context.Context, c *client.Client, at place, rest string) (outcome, error) {
	seq, _, err := numbered(rest, at.own)
	if err != nil {
		return outcome{}, err
	}
	return queue(c, at, client.Retract(client.In(at.conversation), messages.Seq(seq)))
}

func react(_ context.Context, c *client.Client, at place, rest string) (outcome, error) {
	seq, emoji, err := numbered(rest, at.other)
	if err != nil {
		return outcome{}, err
	}
	return queue(c, at, client.React(client.In(at.conversation), messages.Seq(seq), emoji))
}

func makeGroup(ctx context.Context, c *client.Client, _ place, rest string) (outcome, error) {
	words := strings.Fields(rest)
	if len(words) < 1 {
		return outcome{}, errors.New("say a name and users: /group NAME USER…")
	}
	g, err := c.CreateGroup(ctx, &messages.CreateGroup{Name: words[0], Members: words[1:]})
	return outcome{group: g}, err
}

func changeMembers(set func(*messages.ChangeGroup, []string)) command {
	return func(ctx context.Context, c *client.Client, at place, rest string) (outcome, error) {
		users := strings.Fields(rest)
		if len(users) == 0 {
			return outcome{}, errors.New("say whom")
		}
		change := &messages.ChangeGroup{}
		set(change, users)
		return changeGroup(ctx, c, at, change)
	}
}

func changeGroup(ctx context.Context, c *client.Client, at place, change *messages.ChangeGroup) (outcome, error) {
	if at.conversation == "" {
		return outcome{}, errNowhere
	}
	change.Conversation = string(at.conversation)
	g, err := c.ChangeGroup(ctx, change)
	return outcome{group: g}, err
}

func leave(ctx context.Context, c *client.Client, at place, _ string) (outcome, error) {
	if _, err := changeGroup(ctx, c, at, &messages.ChangeGroup{Leave: true}); err != nil {
		return outcome{}, err
	}
	return outcome{notice: "you have left"}, nil
}

func rename(ctx context.Context, c *client.Client, at place, name string) (outcome, error) {
	if name == "" {
		return outcome{}, errors.New("say how: /rename NAME")
	}
	return changeGroup(ctx, c, at, &messages.ChangeGroup{Name: name})
}

func blocking(do func(*client.Client, context.Context, messages.UserID) error, done string) command {
	return func(ctx context.Context, c *client.Client, at place, rest string) (outcome, error) {
		user := at.peer
		if rest != "" {
			user = messages.UserID(rest)
		}
		if user == "" {
			return outcome{}, errors.New("say whom")
		}
		return outcome{notice: string(user) + " is " + done}, do(c, ctx, user)
	}
}

// who tells the members and their status for the newest entry of one's own.
func who(ctx context.Context, c *client.Client, at place, _ string) (outcome, error) {
	if at.conversation == "" {
		return outcome{}, errNowhere
	}
	if at.own == 0 && at.peer != "" {
		return outcome{notice: string(at.peer)}, nil
	}
	if at.own == 0 {
		g, err := c.Group(ctx, at.conversation)
		return outcome{notice: roles(g.GetMembers()), group: g}, err
	}
	list, err := c.Receipts(ctx, at.conversation, messages.Seq(at.own))
	return outcome{notice: statuses(list)}, err
}

func roles(members []*messages.Member) string {
	var out []string
	for _, m := range members {
		out = append(out, cleanLine(m.User+" "+m.Role))
	}
	return strings.Join(out, ", ")
}

func statuses(list *messages.ReceiptList) string {
	var out []string
	for _, m := range list.GetMembers() {
		out = append(out, cleanLine(m.User+" "+m.Status))
	}
	return fmt.Sprintf("#%d: %s", list.GetSeq(), strings.Join(out, ", "))
}

// numberedText writes the argument of a command about the entry seq.
func numberedText(seq uint64, text string) string {
	return "#" + strconv.FormatUint(seq, 10) + " " + text
}

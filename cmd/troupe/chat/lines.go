package chat

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/troupe-chat/troupe/gateway/client"
	"github.com/troupe-chat/troupe/messages"
)

// Line mode. Each entry is one line of output:
//
//	WHERE #SEQ FROM: TEXT
//	WHERE #SEQ FROM edited #N: TEXT       or: retracted #N, reacted to #N: EMOJI
//	WHERE #SEQ * ana added bo
//
// WHERE is a user or a group's name; a line end within a text is written as a
// backslash and n. Lines that begin with "* " are remarks, with "! " failures.
// Input is a text for the open conversation, or a command. When the input
// ends, what is on its way is waited for.
type lines struct {
	client *client.Client

	mu   sync.Mutex
	out  io.Writer // guarded by mu
	book *book     // guarded by mu
	open *room     // guarded by mu; nil: none

	// Owned by the goroutine that reads the input.
	sends  []*client.Outgoing
	own    map[messages.ConversationID]uint64 // the last text of one's own
	failed bool
}

var errNotSent = errors.New("not everything was sent")

func runLines(ctx context.Context, o Options, options client.Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := &lines{out: o.Out, book: newBook(o.User), own: map[messages.ConversationID]uint64{}}
	options.Handler = client.Handler{Entry: l.entry, State: l.state}
	c, err := client.New(options)
	if err != nil {
		return err
	}
	l.client = c
	l.sends = c.Unsent()
	ended := make(chan error, 1)
	go func() {
		ended <- c.Run(ctx)
		cancel()
	}()
	err = l.serve(ctx, o)
	cancel()
	if stopped := <-ended; stopped != nil {
		return stopped
	}
	return err
}

// serve takes the input to its end.
func (l *lines) serve(ctx context.Context, o Options) error {
	if o.To != "" {
		if err := l.goTo(ctx, o.To); err != nil {
			return err
		}
	}
	for text := range readLines(ctx, o.In) {
		quit, err := l.do(ctx, text)
		if err != nil {
			l.failed = true
			l.print("! " + cleanLine(err.Error()))
		}
		if quit {
			break
		}
	}
	return l.settle(ctx)
}

// readLines yields lines until the input or ctx ends. A read cannot be given
// up: the goroutine ends with the input, or with the process.
func readLines(ctx context.Context, in io.Reader) func(func(string) bool) {
	texts := make(chan string)
	go func() {
		defer close(texts)
		scanner := bufio.NewScanner(in)
		for scanner.Scan() {
			select {
			case texts <- scanner.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	return func(yield func(string) bool) {
		for {
			select {
			case text, more := <-texts:
				if !more || !yield(text) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

func (l *lines) do(ctx context.Context, text string) (quit bool, err error) {
	input := parse(text)
	at := l.place()
	if input.name != "" {
		at.own = max(at.own, l.lastSent(ctx, at.conversation))
	}
	done, err := execute(ctx, l.client, at, input)
	if err != nil {
		return false, err
	}
	if done.sent != nil {
		l.sends = append(l.unsettled(), done.sent)
	}
	if done.group != nil {
		l.mu.Lock()
		l.open = l.book.grouped(done.group)
		l.mu.Unlock()
	}
	if done.notice != "" {
		l.print("* " + strings.ReplaceAll(clean(done.notice), "\n", "\n* "))
	}
	if done.to != "" {
		return false, l.goTo(ctx, done.to)
	}
	return done.quit, nil
}

func (l *lines) place() place {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.book.placeOf(l.open)
}

// lastSent waits for what was typed before a command, and returns the last text
// of it in a conversation: that is what a script means by its last entry.
func (l *lines) lastSent(ctx context.Context, id messages.ConversationID) uint64 {
	for _, out := range l.sends {
		sent, err := out.Wait(ctx)
		if err == nil && out.Send().GetText() != nil {
			c := messages.ConversationID(sent.Conversation)
			l.own[c] = max(l.own[c], sent.Seq)
		}
	}
	return l.own[id]
}

// goTo opens what name means. Names of groups are the server's to know.
func (l *lines) goTo(ctx context.Context, name string) error {
	if err := l.load(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.book.find(name)
	if r == nil {
		return fmt.Errorf("there is no %s", cleanLine(name))
	}
	l.open = r
	return nil
}

func (l *lines) load(ctx context.Context) error {
	var all []*messages.Conversation
	for c, err := range l.client.Conversations(ctx) {
		if err != nil {
			return err
		}
		all = append(all, c)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range all {
		l.book.listed(c)
	}
	return nil
}

// unsettled returns the sends that are on their way, and tells of those that
// have failed.
func (l *lines) unsettled() []*client.Outgoing {
	return slices.DeleteFunc(l.sends, func(out *client.Outgoing) bool {
		select {
		case <-out.Done():
			_, err := out.Result()
			l.outcome(err)
			return true
		default:
			return false
		}
	})
}

func (l *lines) outcome(err error) {
	if err != nil {
		l.failed = true
		l.print("! not sent: " + cleanLine(err.Error()))
	}
}

// settle waits for what is on its way.
func (l *lines) settle(ctx context.Context) error {
	for _, out := range l.sends {
		_, err := out.Wait(ctx)
		l.outcome(err)
	}
	if l.failed && ctx.Err() == nil {
		return errNotSent
	}
	return nil
}

func (l *lines) print(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintln(l.out, s)
}

// entry prints an entry. It runs on the client's goroutine.
func (l *lines) entry(e *messages.Entry) {
	l.nameGroup(e.Conversation)
	l.mu.Lock()
	defer l.mu.Unlock()
	r, _ := l.book.arrived(e)
	fmt.Fprintf(l.out, "%s #%d %s\n", r.title(), e.Seq, strings.ReplaceAll(told(e), "\n", `\n`))
}

// nameGroup asks for the name of a group that is new here.
func (l *lines) nameGroup(id string) {
	l.mu.Lock()
	r := l.book.room(id)
	unnamed := r.kind == messages.KindGroup && r.name == ""
	l.mu.Unlock()
	if !unnamed {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), messages.CommandTimeout)
	defer cancel()
	if g, err := l.client.Group(ctx, messages.ConversationID(id)); err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.book.grouped(g)
	}
}

// told puts an entry into words.
func told(e *messages.Entry) string {
	from := cleanLine(e.From)
	switch k := e.Kind.(type) {
	case *messages.Entry_Edit:
		return fmt.Sprintf("%s edited #%d: %s", from, k.Edit.Seq, clean(k.Edit.Body))
	case *messages.Entry_Retract:
		return fmt.Sprintf("%s retracted #%d", from, k.Retract.Seq)
	case *messages.Entry_Reaction:
		return fmt.Sprintf("%s reacted to #%d: %s", from, k.Reaction.Seq, cleanLine(k.Reaction.Emoji))
	case *messages.Entry_Event:
		return "* " + describe(k.Event)
	case nil:
		return from + ": (retracted)"
	}
	body, _ := bodyOf(e)
	return from + ": " + body
}

// state remarks on a lost connection.
func (l *lines) state(s client.State) {
	if s.Phase == client.Waiting {
		l.print(fmt.Sprintf("* connection lost: %s", cleanLine(s.Err.Error())))
	}
}

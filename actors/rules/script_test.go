package rules

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/troupe-chat/troupe/messages"
)

var rewrite = flag.Bool("rewrite", false, "write what the scripts answer into them")

// A script is blocks of commands, "----" and what they answer, divided by
// blank lines. Lines that begin with # are comments.
func runScript(t *testing.T, path string, run func(line string) string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, block := range strings.Split(strings.TrimSpace(string(text)), "\n\n") {
		input, want, _ := strings.Cut(block, "\n----")
		got := runBlock(input, run)
		if want = strings.TrimSpace(want); got != want && !*rewrite {
			t.Errorf("%s:\n%s\n---- got\n%s\n---- want\n%s", path, input, got, want)
		}
		if got != "" {
			input += "\n----\n" + got
		}
		out = append(out, input)
	}
	if *rewrite {
		if err := os.WriteFile(path, []byte(strings.Join(out, "\n\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func runBlock(input string, run func(line string) string) string {
	var out []string
	for line := range strings.Lines(input) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if answer := strings.TrimSpace(run(line)); answer != "" {
			out = append(out, answer)
		}
	}
	return strings.Join(out, "\n")
}

func TestConversationScripts(t *testing.T) {
	for _, path := range scripts(t, "conversation") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			s := &script{t: t, world: newWorld("g:none")}
			runScript(t, path, s.run)
		})
	}
}

func scripts(t *testing.T, folder string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", folder, "*.txt"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts in %s: %v", folder, err)
	}
	return paths
}

// script runs the lines of one file against one world. The commands:
//
//	direct A B                                    begin with the pair
//	create U ID NAME [members=] [history=]        make a group, and go on in it
//	change U ID [add=] [remove=] [promote=] [demote=] [name=] [leave]
//	send U ID TEXT…   reply U ID SEQ TEXT…   to U ID user= conversation= TEXT…
//	media U ID UPLOAD CAPTION…   edit U ID SEQ TEXT…   retract U ID SEQ   react U ID SEQ EMOJI
//	group U, history U [SEQ], receipts U SEQ, read U SEQ, typing U, …
//	unknown U…   known U…   upload M   block   unblock   clock DURATION
//	limits text=N members=N   over MS   forget   restart [recall]
//	log   effects   head   matrix   views   unread U…   move U delivered read   status SEQ
type script struct {
	t     *testing.T
	world *world
}

func (s *script) run(line string) string {
	words := strings.Fields(line)
	name, args := words[0], words[1:]
	if answer, ok := s.setUp(name, args); ok {
		return answer
	}
	if answer, ok := s.show(name, args); ok {
		return answer
	}
	return s.command(name, args)
}

func (s *script) setUp(name string, args []string) (string, bool) {
	w := s.world
	switch name {
	case "direct":
		s.world = newWorld(messages.Direct(messages.UserID(args[0]), messages.UserID(args[1])))
	case "unknown":
		for _, u := range args {
			w.unknown[messages.UserID(u)] = true
		}
	case "known":
		clear(w.unknown)
	case "upload":
		w.uploads[args[0]] = true
	case "block", "unblock":
		w.blocked = name == "block"
	case "clock":
		d, err := time.ParseDuration(args[0])
		if err != nil {
			s.t.Fatal(err)
		}
		w.now += d.Milliseconds()
	case "limits":
		o := options(args)
		if o["text"] != "" {
			w.limits.TextBytes = uint32(number(s.t, o["text"]))
		}
		if o["members"] != "" {
			w.limits.GroupMembers = uint32(number(s.t, o["members"]))
		}
	case "over":
		w.over = int64(number(s.t, args[0]))
	case "forget":
		clear(w.ids)
	case "restart":
		if err := w.restart(); err != nil {
			return err.Error(), true
		}
		if len(args) > 0 {
			w.state.Recall(w.log[max(0, len(w.log)-8):])
		}
	default:
		return "", false
	}
	return "", true
}

func (s *script) show(name string, args []string) (string, bool) {
	w := s.world
	var b strings.Builder
	switch name {
	case "log":
		for _, e := range w.log {
			fmt.Fprintln(&b, show(e))
		}
	case "head":
		h := w.state.Head()
		fmt.Fprintf(&b, "seq %d countable %d state %d marked %t ended %t", h.Seq, h.Countable, h.StateSeq, w.state.Marked(), w.state.Ended())
	case "effects":
		showEffects(&b, w.effects[len(w.effects)-1])
	case "matrix":
		b.WriteString(matrix(s.t))
	case "views":
		for _, u := range slices.Sorted(maps.Keys(w.intervals)) {
			fmt.Fprintln(&b, u, showIntervals(w.intervals[u]))
		}
	case "unread":
		for _, arg := range args {
			u := messages.UserID(arg)
			fmt.Fprintf(&b, "%s read %d unread %d\n", u, w.reads[u], w.unread(u))
		}
	case "move":
		s.move(&b, args)
	case "status":
		seq := messages.Seq(number(s.t, args[0]))
		for _, u := range w.state.Audience(seq) {
			fmt.Fprintf(&b, "%s %s\n", u, w.receipts.Status(u, seq))
		}
	default:
		return "", false
	}
	return b.String(), true
}

func (s *script) move(b *strings.Builder, args []string) {
	u := messages.UserID(args[0])
	delivered, read := messages.Seq(number(s.t, args[1])), messages.Seq(number(s.t, args[2]))
	m, moved := s.world.receipts.Move(u, delivered, read, s.world.state.Head().Seq)
	if !moved {
		fmt.Fprint(b, "unmoved")
		return
	}
	fmt.Fprintf(b, "%s delivered %d read %d; tell %s", u, m.Now.Delivered, m.Now.Read, join(s.world.receipts.Authors(m)))
	if after, upTo := s.world.receipts.Missing(m); after < upTo {
		fmt.Fprintf(b, " and the authors of %d–%d", after+1, upTo)
	}
}

func (s *script) command(name string, args []string) string {
	u := messages.UserID(args[0])
	frame := s.frame(name, args)
	if name == "create" {
		id, f := ConversationOf(u, frame)
		if f != nil {
			return f.Error()
		}
		if s.world.state.id != id {
			w := newWorld(id)
			w.unknown, w.limits = s.world.unknown, s.world.limits
			s.world = w
		}
	}
	if name != "to" {
		about(frame, s.world.state.id)
	}
	d, f := s.world.do(u, frame)
	if f != nil {
		return answerOf(f)
	}
	return s.answer(name, d)
}

func answerOf(f *messages.Failure) string {
	if f.RetryAfter != 0 {
		return fmt.Sprintf("%v (after %v)", f, f.RetryAfter)
	}
	return f.Error()
}

func (s *script) answer(name string, d Decision) string {
	switch {
	case d.Duplicate != nil:
		return fmt.Sprintf("sent %d again", d.Duplicate.Seq)
	case name == "create" || name == "change" || name == "group":
		return showEntries(d.Entries) + showGroup(s.world.state.Group())
	case len(d.Entries) == 1:
		return fmt.Sprintf("sent %d", d.Entries[0].Seq)
	}
	return "ok"
}

func (s *script) frame(name string, args []string) *messages.ClientFrame {
	text := func(from int) string { return strings.Join(args[min(from, len(args)):], " ") }
	seq := func(i int) uint64 { return number(s.t, args[i]) }
	switch name {
	case "send":
		return textFrame(args[1], text(2))
	case "reply":
		f := textFrame(args[1], text(3))
		f.GetSend().ReplyTo = seq(2)
		return f
	case "to":
		o := options(args)
		f := textFrame(args[1], "hello")
		f.GetSend().User, f.GetSend().Conversation = o["user"], o["conversation"]
		return f
	case "media":
		return mediaFrame(args[1], args[2], text(3))
	case "edit":
		return editFrame(args[1], seq(2), text(3))
	case "retract":
		return retractFrame(args[1], seq(2))
	case "react":
		return reactFrame(args[1], seq(2), text(3))
	case "create":
		o := options(args)
		return createFrame(&messages.CreateGroup{ClientId: args[1], Name: args[2], Members: list(o["members"]), History: o["history"]})
	case "change":
		o := options(args)
		return changeFrame(&messages.ChangeGroup{
			ClientId: args[1], Add: list(o["add"]), Remove: list(o["remove"]),
			Promote: list(o["promote"]), Demote: list(o["demote"]), Name: o["name"],
			Leave: slices.Contains(args, "leave"),
		})
	}
	if !slices.Contains(otherCommands, name) && name != "ping" {
		s.t.Fatalf("no such command: %s", name)
	}
	if len(args) > 1 {
		return otherFrame(name, seq(1))
	}
	return otherFrame(name, 0)
}

func (w *world) unread(u messages.UserID) uint64 {
	return Unread(w.state.Head().Countable, w.countables(0, w.reads[u], anyone))
}

func options(args []string) map[string]string {
	o := map[string]string{}
	for _, arg := range args {
		if key, value, ok := strings.Cut(arg, "="); ok {
			o[key] = value
		}
	}
	return o
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func number(t *testing.T, s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func join(users []messages.UserID) string {
	if len(users) == 0 {
		return "nobody"
	}
	return strings.Join(names(users), ",")
}

func showEntries(entries []*messages.Entry) string {
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintln(&b, show(e))
	}
	return b.String()
}

func showGroup(g *messages.Group) string {
	var b strings.Builder
	fmt.Fprintf(&b, "group %q head %d history %s:", g.Name, g.Head, g.History)
	for _, m := range g.Members {
		fmt.Fprintf(&b, " %s", m.User)
		if m.Role != RoleMember {
			fmt.Fprintf(&b, "(%s)", m.Role)
		}
	}
	return b.String()
}

func showEffects(b *strings.Builder, fx Effects) {
	fmt.Fprintf(b, "to %s, others before %d", join(fx.Recipients), fx.OthersBefore)
	if fx.Countable {
		b.WriteString(", countable")
	}
	if fx.Membership {
		b.WriteString(", snapshot")
	}
	if o := fx.Overlay; o != nil {
		fmt.Fprintf(b, ", overlay of %d: retract %t %q", o.Target, o.Retract, o.Body)
	}
	for _, i := range fx.Memberships {
		fmt.Fprintf(b, "\n%s %s", i.User, showIntervals([]Interval{i}))
	}
}

// showIntervals writes intervals as "from–ended (joined n)".
func showIntervals(intervals []Interval) string {
	var parts []string
	for _, i := range intervals {
		part := fmt.Sprintf("%d–", i.From)
		if i.Ended != 0 {
			part += fmt.Sprint(i.Ended)
		}
		if i.Joined != i.From {
			part += fmt.Sprintf(" (joined %d)", i.Joined)
		}
		if i.Unmarked {
			part += " unmarked"
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

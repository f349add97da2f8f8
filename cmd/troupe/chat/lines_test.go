package chat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/troupe-chat/troupe/gateway/client"
	"github.com/troupe-chat/troupe/gateway/client/clienttest"
	"github.com/troupe-chat/troupe/messages"
)

// town is a server on the network, with a chat for each user.
type town struct {
	*testing.T
	server *clienttest.Server
	url    string
}

func newTown(t *testing.T) *town {
	server := clienttest.New()
	listening := httptest.NewServer(server)
	t.Cleanup(listening.Close)
	return &town{T: t, server: server, url: listening.URL}
}

// screen is an output that can be waited on.
type screen struct {
	mu      sync.Mutex
	changed *sync.Cond
	text    bytes.Buffer // guarded by mu
	ended   bool         // guarded by mu
}

func newScreen() *screen {
	s := &screen{}
	s.changed = sync.NewCond(&s.mu)
	return s
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.changed.Broadcast()
	return s.text.Write(b)
}

func (s *screen) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.changed.Broadcast()
}

// await waits until the output has a text, and reports false where it ended
// without.
func (s *screen) await(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !strings.Contains(s.text.String(), text) {
		if s.ended {
			return false
		}
		s.changed.Wait()
	}
	return true
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// person is a chat that runs.
type someone struct {
	*town
	in   *io.PipeWriter
	out  *screen
	done chan error
}

func (w *town) options(user string, in io.Reader, out io.Writer) Options {
	return Options{
		Server: w.url, User: user, Password: "a password", Plain: true,
		Dir: w.TempDir(), In: in, Out: out, Err: io.Discard,
	}
}

func (w *town) enter(user, to string) *someone {
	r, in := io.Pipe()
	s := &someone{town: w, in: in, out: newScreen(), done: make(chan error, 1)}
	o := w.options(user, r, s.out)
	o.To = to
	go func() {
		err := Run(context.Background(), o)
		s.out.end()
		s.done <- err
	}()
	w.server.AwaitConn(user)
	return s
}

func (s *someone) types(text string) {
	s.Helper()
	if _, err := fmt.Fprintln(s.in, text); err != nil {
		s.Fatal(err)
	}
}

func (s *someone) sees(text string) {
	s.Helper()
	if !s.out.await(text) {
		s.Fatalf("%q was not seen in\n%s", text, s.out)
	}
}

func (s *someone) leaves() error {
	s.in.Close()
	return <-s.done
}

func TestLineModeEndToEnd(t *testing.T) {
	w := newTown(t)
	bo := w.enter("bo", "")
	ana := w.enter("ana", "bo")
	ana.types("hello bo")
	bo.sees("ana #1 ana: hello bo\n")
	bo.types("too early")
	bo.sees("! no conversation is open")
	bo.types("/to ana")
	bo.types("hi")
	ana.sees("bo #2 bo: hi\n")
	ana.types("/reply welcome")
	bo.sees("ana #3 ana: welcome\n")
	ana.types("/edit you are welcome")
	bo.sees("ana #4 ana edited #3: you are welcome\n")
	bo.types("/react ❤")
	ana.sees("bo #5 bo reacted to #3: ❤\n")
	ana.types("/retract #1")
	bo.sees("ana #6 ana retracted #1\n")
	bo.types("//not a command")
	ana.sees("bo #7 bo: /not a command\n")
	bo.types("/dance")
	bo.sees("! there is no /dance")
	ana.types("/who")
	ana.sees("* #3: ana")
	ana.types("/block")
	ana.sees("* bo is blocked")
	bo.types("are you there?")
	if err := bo.leaves(); !errors.Is(err, errNotSent) {
		t.Errorf("bo's chat ended with %v, want that not all was sent", err)
	}
	bo.sees("! not sent: forbidden")
	if err := ana.leaves(); err != nil {
		t.Errorf("ana's chat: %v", err)
	}
	if e := w.server.Log("d:ana~bo")[2]; e.ReplyTo != 2 {
		t.Errorf("the reply answers %d, want 2", e.ReplyTo)
	}
}

func TestGroupsInLineMode(t *testing.T) {
	w := newTown(t)
	bo := w.enter("bo", "")
	cy := w.enter("cy", "")
	ana := w.enter("ana", "")
	ana.types("/group team bo")
	bo.sees("team #1 * ana created team with ana, bo\n")
	ana.types("/add cy")
	cy.sees("team #2 * ana added cy\n")
	ana.types("/rename crew")
	cy.sees("crew #3 * ana renamed the group to crew\n")
	cy.types("/to crew")
	cy.types("hi all")
	bo.sees("crew #4 cy: hi all\n")
	ana.types("/remove bo")
	bo.sees("crew #5 * ana removed bo\n")
	cy.types("/leave")
	ana.sees("crew #6 * cy left\n")
	for _, s := range []*someone{ana, bo, cy} {
		if err := s.leaves(); err != nil {
			t.Errorf("%v\n%s", err, s.out)
		}
	}
}

func TestScriptSendsAndEnds(t *testing.T) {
	w := newTown(t)
	w.server.AddUser("bo", "a password")
	o := w.options("ana", strings.NewReader("one\ntwo\nthree\n"), newScreen())
	o.To = "bo"
	if err := Run(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range w.server.Log("d:ana~bo") {
		got = append(got, e.GetText().GetBody())
	}
	if strings.Join(got, " ") != "one two three" {
		t.Errorf("sent %q", got)
	}
}

func TestScriptEditsWhatItHasJustSaid(t *testing.T) {
	w := newTown(t)
	w.server.AddUser("bo", "a password")
	o := w.options("ana", strings.NewReader("frist\n/edit first\nsecnd\n/edit second\n/retract\n"), newScreen())
	o.To = "bo"
	if err := Run(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	log := w.server.Log("d:ana~bo")
	if len(log) != 5 || log[1].GetEdit().GetSeq() != 1 || log[3].GetEdit().GetSeq() != 3 || log[4].GetRetract().GetSeq() != 3 {
		t.Errorf("log %v", log)
	}
}

func TestTokenIsKeptPrivatelyAndUsed(t *testing.T) {
	w := newTown(t)
	o := w.options("ana", strings.NewReader("/quit\n"), newScreen())
	if err := Run(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	var files []string
	filepath.Walk(o.Dir, func(path string, info os.FileInfo, _ error) error {
		if !info.IsDir() {
			files = append(files, filepath.Base(path))
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v", path, info.Mode())
			}
		}
		return nil
	})
	if strings.Join(files, " ") != "device state token" {
		t.Errorf("files %q", files)
	}
	o.Password, o.In = "not needed", strings.NewReader("/quit\n")
	if err := Run(context.Background(), o); err != nil {
		t.Errorf("with the kept token: %v", err)
	}
	w.server.Revoke("ana")
	o.Password, o.In = "a password", strings.NewReader("/quit\n")
	if err := Run(context.Background(), o); err != nil {
		t.Errorf("with a dead token and the password: %v", err)
	}
	w.server.Revoke("ana")
	o.Password, o.To = "", "bo"
	o.In = strings.NewReader("/quit\n")
	var f *messages.Failure
	if err := Run(context.Background(), o); !errors.As(err, &f) || f.Code != messages.CodeUnauthenticated {
		t.Errorf("with a dead token: %v", err)
	}
}

func TestWrongPasswordIsSaid(t *testing.T) {
	w := newTown(t)
	w.server.AddUser("ana", "the right one")
	o := w.options("ana", strings.NewReader(""), newScreen())
	if err := Run(context.Background(), o); err == nil || !strings.Contains(err.Error(), "wrong password") {
		t.Errorf("got %v", err)
	}
	o.User = "Ana!"
	if err := Run(context.Background(), o); err == nil {
		t.Error("a bad name was taken")
	}
}

// answers is a person who always says the same.
type answers struct {
	password string
	yes      bool
	asked    int
}

func (a *answers) secret(string) (string, error) { a.asked++; return a.password, nil }
func (a *answers) confirm(string) (bool, error)  { return a.yes, nil }

func TestUnknownNameIsOfferedAnAccount(t *testing.T) {
	w := newTown(t)
	ctx := context.Background()
	entering := func(user string, a *answers) *login {
		return &login{
			accounts: client.Accounts{Server: w.url}, user: messages.UserID(user), ask: a,
			tell: io.Discard, file: filepath.Join(t.TempDir(), "token"),
		}
	}
	if _, err := entering("ana", &answers{password: "a password"}).token(ctx); err == nil {
		t.Error("registered without leave")
	}
	yes := &answers{password: "a password", yes: true}
	l := entering("ana", yes)
	for range 2 {
		if token, err := l.token(ctx); err != nil || token == "" {
			t.Fatalf("got %q, %v", token, err)
		}
	}
	if yes.asked != 1 {
		t.Errorf("asked %d times for the password, want once", yes.asked)
	}
}

func TestSecondChatIsAnotherDevice(t *testing.T) {
	w := newTown(t)
	o := Options{Server: w.url, User: "ana", Dir: t.TempDir()}
	dir, err := home(o)
	if err != nil {
		t.Fatal(err)
	}
	first, _, closer, err := identity(o, dir)
	if err != nil {
		t.Fatal(err)
	}
	second, _, _, err := identity(o, dir)
	if err != nil || second == first {
		t.Errorf("two chats at once are %s and %s, %v", first, second, err)
	}
	closer.Close()
	third, _, closer, err := identity(o, dir)
	if err != nil || third != first {
		t.Errorf("the next is %s, %v, want %s again", third, err, first)
	}
	closer.Close()
}

func TestScreenEndToEnd(t *testing.T) {
	w := newTown(t)
	token := w.server.AddUser("ana", "a password")
	bo := w.enter("bo", "ana")
	r, in := io.Pipe()
	out := newScreen()
	o := w.options("ana", r, out)
	o.To = "bo"
	done := make(chan error, 1)
	go func() {
		err := runScreen(context.Background(), o, client.Options{
			Server: w.url, Device: "d", Start: "head",
			Token: func(context.Context) (string, error) { return token, nil },
		}, tea.WithoutSignalHandler())
		out.end()
		done <- err
	}()
	see := func(text string) {
		t.Helper()
		if !out.await(text) {
			t.Fatalf("%q is not on the screen:\n%s", text, out)
		}
	}
	see("online")
	io.WriteString(in, "hello\r")
	bo.sees("ana #1 ana: hello\n")
	see("✓✓")
	bo.types("hi there")
	see("bo: hi there")
	io.WriteString(in, "/group team bo\r")
	bo.sees("team #1 * ana created team with ana, bo\n")
	see("2 members")
	in.Write([]byte{3}) // Ctrl+C
	if err := <-done; err != nil {
		t.Errorf("the screen ended with %v", err)
	}
	bo.leaves()
}

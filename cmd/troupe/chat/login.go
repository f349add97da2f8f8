package chat

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/charmbracelet/x/term"

	"github.com/troupe-chat/troupe/gateway/client"
	"github.com/troupe-chat/troupe/messages"
)

// asker asks a person, or is nil where there is none.
type asker interface {
	secret(prompt string) (string, error)
	confirm(question string) (bool, error)
}

// login gets tokens for one user. It keeps the last one in a file.
type login struct {
	accounts client.Accounts
	user     messages.UserID
	ask      asker     // nil: only what was given counts
	tell     io.Writer // says what was done
	file     string    // where the token is kept

	mu       sync.Mutex
	password string // guarded by mu
	used     bool   // guarded by mu: the kept token was handed out
}

// token returns the kept token the first time, and a new one after that, when
// the server did not take the last.
func (l *login) token(ctx context.Context) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.used {
		l.used = true
		if b, err := os.ReadFile(l.file); err == nil && len(b) > 0 {
			return strings.TrimSpace(string(b)), nil
		}
	}
	t, err := l.enter(ctx)
	if err != nil {
		return "", err
	}
	return t.Token, l.keep(t.Token)
}

// isRefused reports that the server does not take a token. Where the server
// cannot be reached the answer is no: there is time to find out.
func (l *login) isRefused(ctx context.Context, token string) bool {
	_, err := l.accounts.Devices(ctx, token)
	f, ok := errors.AsType[*messages.Failure](err)
	return ok && f.Code == messages.CodeUnauthenticated
}

// enter logs in, or registers who has no account yet.
func (l *login) enter(ctx context.Context) (client.Token, error) {
	if err := l.needPassword(); err != nil {
		return client.Token{}, err
	}
	t, err := l.accounts.Login(ctx, l.user, l.password)
	if f, ok := errors.AsType[*messages.Failure](err); ok && f.Code == messages.CodeUnauthenticated {
		t, err = l.register(ctx, f)
	}
	if f, ok := errors.AsType[*messages.Failure](err); ok && f.Code == messages.CodeUnauthenticated {
		l.password = "" // asked for again, should there be another time
	}
	return t, err
}

// register makes the account; one that exists means that the password was
// wrong. Without a person to ask, a given password is leave enough.
func (l *login) register(ctx context.Context, refused *messages.Failure) (client.Token, error) {
	if l.ask != nil {
		yes, err := l.ask.confirm(fmt.Sprintf("No account %s with this password. Register %s as a new user?", l.user, l.user))
		if err != nil {
			return client.Token{}, err
		}
		if !yes {
			return client.Token{}, refused
		}
	}
	t, err := l.accounts.Register(ctx, l.user, l.password)
	if f, ok := errors.AsType[*messages.Failure](err); ok && f.Code == messages.CodeConflict {
		return client.Token{}, messages.Fail(messages.CodeUnauthenticated, "wrong password for %s", l.user)
	}
	if err == nil {
		fmt.Fprintf(l.tell, "* registered %s\n", l.user)
	}
	return t, err
}

func (l *login) needPassword() error {
	if l.password != "" {
		return nil
	}
	if l.ask == nil {
		return messages.Fail(messages.CodeUnauthenticated, "a password is needed: --password, TROUPE_PASSWORD, or a terminal to ask on")
	}
	password, err := l.ask.secret(fmt.Sprintf("Password for %s: ", l.user))
	if err != nil {
		return err
	}
	if password == "" {
		return messages.Fail(messages.CodeUnauthenticated, "no password was given")
	}
	l.password = password
	return nil
}

// keep writes the token where only the user reads it.
func (l *login) keep(token string) error {
	fresh := l.file + ".new"
	if err := os.WriteFile(fresh, []byte(token+"\n"), 0o600); err != nil {
		return fmt.Errorf("keeping the token: %w", err)
	}
	if err := os.Rename(fresh, l.file); err != nil {
		return fmt.Errorf("keeping the token: %w", err)
	}
	return nil
}

// home is the folder of one user of one server on this machine.
func home(o Options) (string, error) {
	base := o.Dir
	if base == "" {
		config, err := os.UserConfigDir()
		if err != nil {
			return "", fmt.Errorf("finding where to keep the token: %w", err)
		}
		base = filepath.Join(config, "troupe")
	}
	server, err := url.Parse(o.Server)
	if err != nil {
		return "", fmt.Errorf("server address: %w", err)
	}
	dir := filepath.Join(base, url.PathEscape(server.Host+server.Path), o.User)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("making the folder for the token: %w", err)
	}
	return dir, nil
}

// identity returns the device of this installation and the store that goes
// with it. Where another chat uses them, this one is a device of its own that
// remembers nothing.
func identity(o Options, dir string) (messages.DeviceID, client.Store, io.Closer, error) {
	store, err := client.OpenFile(filepath.Join(dir, "state"))
	if errors.Is(err, client.ErrLocked) {
		device := messages.DeviceID(cmp.Or(o.Device, newDevice()))
		return device, client.NewMemory(), io.NopCloser(nil), nil
	}
	if err != nil {
		return "", nil, nil, err
	}
	if o.Device != "" {
		return messages.DeviceID(o.Device), store, store, nil
	}
	device, err := keptDevice(filepath.Join(dir, "device"))
	if err != nil {
		store.Close()
		return "", nil, nil, err
	}
	return device, store, store, nil
}

func newDevice() string { return "terminal-" + strings.ToLower(client.NewID()[:10]) }

func keptDevice(path string) (messages.DeviceID, error) {
	if b, err := os.ReadFile(path); err == nil {
		if d := messages.DeviceID(strings.TrimSpace(string(b))); d.Valid() {
			return d, nil
		}
	}
	device := newDevice()
	if err := os.WriteFile(path, []byte(device+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keeping the device's name: %w", err)
	}
	return messages.DeviceID(device), nil
}

// person asks on a terminal.
type person struct {
	in  *os.File
	out io.Writer
}

func (p person) secret(prompt string) (string, error) {
	fmt.Fprint(p.out, prompt)
	b, err := term.ReadPassword(p.in.Fd())
	fmt.Fprintln(p.out)
	if err != nil {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	return string(b), nil
}

func (p person) confirm(question string) (bool, error) {
	fmt.Fprint(p.out, question+" [y/N] ")
	answer, err := bufio.NewReader(p.in).ReadString('\n')
	if err != nil {
		return false, fmt.Errorf("reading the answer: %w", err)
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes", nil
}

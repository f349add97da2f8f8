//go:build linux

package nemesis

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/troupe-chat/troupe/actors"
	"github.com/troupe-chat/troupe/cmd/troupe/node"
	"github.com/troupe-chat/troupe/gateway/accounts"
	"github.com/troupe-chat/troupe/internal/load"
	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
	"github.com/troupe-chat/troupe/persistence/pebble"
)

var seed = flag.Uint64("seed", 0, "of all choices; 0: a new one, which is printed")

// nodeVariable, when set, makes this binary a node: it holds a nodeConfig.
const nodeVariable = "TROUPE_NEMESIS_NODE"

func TestMain(m *testing.M) {
	if config := os.Getenv(nodeVariable); config != "" {
		os.Exit(runNode(config))
	}
	flag.Parse()
	code := m.Run()
	_ = os.RemoveAll(builtIn)
	os.Exit(code)
}

// ---------------------------------------------------------------- the node

// nodeConfig is a node that can be made to fail in ways that a real one can't.
type nodeConfig struct {
	Dir, Listen, Admin     string
	Issuer, JWKS, Audience string

	Point  string // where the process ends
	Nth    int    // at this time that it comes there
	NoSync bool   // it answers before the fsync
	Lie    bool   // it answers before the write
}

// The points that the store's wrapper adds to those of the actors.
const (
	beforeChange = "before_membership" // an append that changes members is about to be made
	afterChange  = "after_membership"  // it is durable, with what it changes elsewhere
)

const crashed = 137 // the exit code of a crash at a point

func runNode(encoded string) int {
	var c nodeConfig
	if err := json.Unmarshal([]byte(encoded), &c); err != nil {
		return complain(2, err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	n, err := node.Start(ctx, c.node())
	if err != nil {
		return complain(2, err)
	}
	select {
	case <-ctx.Done():
	case err := <-n.Failed():
		return complain(1, err)
	}
	ending, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := n.Stop(ending); err != nil {
		return complain(1, err)
	}
	return 0
}

func complain(code int, err error) int {
	fmt.Fprintln(os.Stderr, err)
	return code
}

func (c nodeConfig) node() node.Config {
	var times atomic.Int64
	reached := func(p string) {
		if p == c.Point && times.Add(1) == int64(c.Nth) {
			os.Exit(crashed)
		}
	}
	return node.Config{
		Name: "nemesis", Dir: c.Dir, Listen: c.Listen, Admin: c.Admin,
		Limits: messages.WithoutRates(messages.DefaultLimits()),
		Accounts: accounts.Config{
			Issuer:    &accounts.Issuer{Issuer: c.Issuer, JWKS: c.JWKS, Audience: c.Audience},
			LimitsOff: true,
		},
		IdleAfter: 20 * time.Millisecond, // so that activations come and go all the time
		Logger:    slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Pebble:    pebble.Options{NoSync: c.NoSync, FS: c.fs()},
		Reached:   func(p actors.Point) { reached(string(p)) },
		Wrap:      func(s persistence.Store) persistence.Store { return &watchedStore{s, reached} },
	}
}

func (c nodeConfig) fs() vfs.FS {
	if c.Lie {
		return lyingFS{vfs.Default}
	}
	return vfs.Default
}

// watchedStore tells of appends that change who is a member.
type watchedStore struct {
	persistence.Store
	reached func(string)
}

func (s *watchedStore) Append(b *persistence.Batch, done persistence.Done) {
	if len(b.Memberships) == 0 {
		s.Store.Append(b, done)
		return
	}
	s.reached(beforeChange)
	s.Store.Append(b, func(err error) {
		if err == nil {
			s.reached(afterChange)
		}
		done(err)
	})
}

// ---------------------------------------------------------------- a run

// run is one server and its crowd.
type run struct {
	*testing.T
	ctx      context.Context
	rng      *rand.Rand
	server   *Server
	crowd    *Crowd
	store    string // directory
	config   nodeConfig
	real     bool // the real binary
	restarts int
	first    func() // once everyone is there
}

// builtIn is the directory of the real binary, once it is built.
var builtIn string

// binary builds the real one, once.
var binary = sync.OnceValues(func() (bin string, err error) {
	if builtIn, err = os.MkdirTemp("", "troupe-nemesis-"); err != nil {
		return "", err
	}
	bin = filepath.Join(builtIn, "troupe")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/troupe-chat/troupe/cmd/troupe").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build troupe: %w\n%s", err, out)
	}
	return bin, nil
})

// newRun prepares a server in dir, and a crowd. Its process is this binary as
// a node, or the real one.
func newRun(t *testing.T, dir string, real bool) *run {
	t.Helper()
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", s)
	// Whatever happens, a run ends: the limits of single waits are within.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	r := &run{T: t, ctx: ctx, real: real, rng: rand.New(rand.NewPCG(s, 0)), store: filepath.Join(dir, "store")}
	ports := must(FreePorts(3))(t)
	issuer := must(load.NewIssuer("https://nemesis.invalid", "nemesis"))(t)
	logs := t.TempDir()
	jwks := filepath.Join(logs, "jwks.json")
	check(t, os.WriteFile(jwks, issuer.JWKS(), 0o600))
	r.config = nodeConfig{Dir: r.store, Listen: ports[0], Admin: ports[1], Issuer: issuer.Name, JWKS: jwks, Audience: issuer.Audience}
	r.server = &Server{Address: ports[0], Log: filepath.Join(logs, "log")}
	if real {
		r.server.Args = []string{
			must(binary())(t), "serve", "--listen", ports[0], "--admin", ports[1], "--actors", ports[2],
			"--data", logs, "--store", "pebble:" + r.store, "--limits", "off",
			"--issuer", issuer.Name, "--audience", issuer.Audience, "--jwks", jwks,
		}
	} else {
		r.server.Args = []string{must(os.Executable())(t)}
	}
	r.crowd = NewCrowd(ports[0], issuer.Token, s)
	t.Cleanup(func() { check(t, r.server.Kill()) })
	return r
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		check(t, err)
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// launch starts a process without waiting for it.
func (r *run) launch() {
	r.Helper()
	if !r.real {
		encoded := must(json.Marshal(r.config))(r)
		r.server.Env = []string{nodeVariable + "=" + string(encoded)}
	}
	check(r, r.server.Launch())
	r.restarts++
}

// start starts a process and waits until it serves.
func (r *run) start() {
	r.Helper()
	r.launch()
	check(r, r.server.Ready(r.ctx))
}

// begin starts the first process and the crowd.
func (r *run) begin() {
	r.Helper()
	r.start()
	r.restarts = 0
	ctx, stop := context.WithCancel(r.ctx)
	wait := r.crowd.Run(ctx)
	r.Cleanup(func() { stop(); wait() })
	// Everyone exists before anyone is written to.
	check(r, r.crowd.AwaitOnline(r.ctx))
	r.first()
	check(r, r.crowd.Quiet(r.ctx))
	r.crowd.Send()
}

// acknowledged waits for n more acknowledgements.
func (r *run) acknowledged(n int) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, time.Minute)
	defer cancel()
	if err := r.crowd.AwaitAcknowledged(ctx, n); err != nil {
		r.Fatalf("%v%s", err, r.server.LastWords())
	}
}

// verdict ends the load and judges.
func (r *run) verdict() Verdict {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, time.Minute)
	defer cancel()
	check(r, r.crowd.Quiet(ctx))
	check(r, r.crowd.AwaitOnline(ctx))
	v := must(r.crowd.Judge(ctx))(r)
	r.Logf("restarts %d, %v", r.restarts, r.crowd.Figures())
	return v
}

// sound fails where a promise was broken, or the store is not as promised.
func (r *run) sound(rounds int) {
	r.Helper()
	v := r.verdict()
	r.Logf("rounds %d, lost %d, violations %d, faults %d", rounds, v.Lost(), len(v.Violations), len(v.Faults))
	if err := v.Err(); err != nil {
		r.Errorf("%v%s", err, r.server.LastWords())
	}
	r.unpanicked()
	check(r, r.server.Kill())
	s := must(pebble.Open(r.store, pebble.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}))(r)
	defer s.Close()
	report := must(s.Verify(r.ctx))(r)
	for _, f := range report.Findings {
		r.Errorf("the store: %v", f)
	}
}

// unpanicked fails where an actor has: that is answered in time, and wrong.
func (r *run) unpanicked() {
	r.Helper()
	log := string(must(os.ReadFile(r.server.Log))(r))
	if at := strings.Index(log, "panic"); at >= 0 {
		from := strings.LastIndexByte(log[:at], '\n') + 1
		r.Errorf("the server has panicked:\n%s", log[from:min(len(log), at+4000)])
	}
}

// ---------------------------------------------------------------- crowds

func user(i int) messages.UserID { return messages.UserID(fmt.Sprintf("u%02d", i)) }

// body is a text of up to a few hundred bytes.
func body(rng *rand.Rand) string {
	return strings.Repeat("x", rng.IntN(300)) + fmt.Sprint(rng.Uint64())
}

// anyOf sends texts to one of some conversations at a time.
func anyOf(talks ...messages.ConversationID) Plan {
	return func(rng *rand.Rand) *messages.ClientFrame { return Text(talks[rng.IntN(len(talks))], body(rng)) }
}

// pairs fills the crowd with n pairs, both of each writing, and a group of the
// first of each. Some have a second device, which forgets.
func (r *run) pairs(n int) {
	group := r.crowd.Group(user(0), "g")
	members := make([]string, n)
	for i := range n {
		members[i] = string(user(2 * i))
	}
	for i := range n {
		a, b := user(2*i), user(2*i+1)
		talk := messages.Direct(a, b)
		d := r.crowd.Add(a, messages.DeviceID(a+"-1"), false, anyOf(talk, talk, talk, talk, group))
		r.crowd.Add(b, messages.DeviceID(b+"-1"), false, anyOf(talk))
		if i == 0 {
			r.first = func() { d.Order(createGroup("g", members)) }
		}
		if i%4 == 1 {
			r.crowd.Add(a, messages.DeviceID(a+"-2"), true, nil)
			r.crowd.Add(b, messages.DeviceID(b+"-2"), true, anyOf(talk))
		}
	}
}

func createGroup(id messages.ClientID, members []string) *messages.ClientFrame {
	return &messages.ClientFrame{Command: &messages.ClientFrame_CreateGroup{CreateGroup: &messages.CreateGroup{
		ClientId: string(id), Name: "nemesis", Members: members,
	}}}
}

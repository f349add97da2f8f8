package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

// town is a provider that nodes of one test share: whoever joins is a member.
type town struct {
	mu      sync.Mutex
	members []Member
	changed map[string]func([]Member)
}

func newTown() *town { return &town{changed: map[string]func([]Member){}} }

// resident is one node's part of a town.
type resident struct {
	town *town
	id   string
}

func (r *resident) Join(_ context.Context, self Member, changed func([]Member)) error {
	r.id = self.ID
	r.town.change(func() {
		r.town.members = append(r.town.members, self)
		r.town.changed[self.ID] = changed
	})
	return nil
}

func (r *resident) Leave(context.Context) error {
	r.town.expel(r.id)
	return nil
}

// expel makes a member leave, and lets it know.
func (t *town) expel(id string) {
	t.change(func() {
		left := []Member{}
		for _, m := range t.members {
			if m.ID != id {
				left = append(left, m)
			}
		}
		t.members = left
	})
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.changed, id)
}

func (t *town) change(by func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	by()
	for _, changed := range t.changed {
		changed(t.members)
	}
}

// where answers with the name of its node; it says what it was told to got.
func where(name string, got *collector[string]) Kind {
	return kindOf("echo", func(ctx actor.Context) {
		switch m := ctx.Message().(type) {
		case *messages.Delivered:
			ctx.Respond(&messages.Attached{Session: name})
		case *messages.Detach:
			panic("on purpose")
		case *messages.Expel:
			ctx.Respond(nil)
		case *messages.Text:
			got.add(name + " " + m.Body)
		}
	})
}

func pair(t *testing.T, got *collector[string], secure func(name string) *tls.Config) (a, b *Node, tw *town) {
	t.Helper()
	tw = newTown()
	var nodes []*Node
	for _, name := range []string{"troupe-1", "troupe-2"} {
		nodes = append(nodes, start(t, Config{
			Name: name, Listen: "127.0.0.1:0", Provider: &resident{town: tw}, TLS: secure(name),
			Kinds: []Kind{where(name, got)},
		}))
	}
	return nodes[0], nodes[1], tw
}

func open(string) *tls.Config { return nil }

// ownedBy returns an identity that n says is the member's.
func ownedBy(t *testing.T, n *Node, member string) string {
	t.Helper()
	for i := range 1000 {
		id := fmt.Sprintf("user-%d", i)
		if at, err := n.Locate("echo", id); err == nil && at.Owner == member {
			return id
		}
	}
	t.Fatalf("%s owns nothing", member)
	return ""
}

func TestTwoNodesServeEachOther(t *testing.T) {
	got := newCollector[string]()
	a, b, _ := pair(t, got, open)
	id := ownedBy(t, a, "troupe-2")
	answer, err := a.Request(t.Context(), "echo", id, &messages.Delivered{})
	if m, ok := answer.(*messages.Attached); err != nil || !ok || m.Session != "troupe-2" {
		t.Fatalf("Request: %v, %v", answer, err)
	}
	for i := range 100 {
		tell(t, a, id, &messages.Text{Body: fmt.Sprint(i)})
	}
	for i, text := range got.wait(100) {
		if want := fmt.Sprintf("troupe-2 %d", i); text != want {
			t.Fatalf("got %q, want %q", text, want)
		}
	}
	if at, _ := a.Locate("echo", id); at.Active {
		t.Error("it is active on both")
	}
	if _, err := a.Request(t.Context(), "echo", id, &messages.Detach{}); messages.FailureOf(err).Code != messages.CodeInternal {
		t.Errorf("of one that panics: %v", err)
	}
	if _, err := a.Request(t.Context(), "echo", id, &messages.Expel{}); !errors.Is(err, ErrBadReply) {
		t.Errorf("of one that answers nil: %v", err)
	}
	if err := a.Tell("echo", id, "no protobuf message"); !errors.Is(err, ErrLocalOnly) {
		t.Errorf("a message that can't leave: %v", err)
	}
	if counts := b.Refusals(); counts[NotOwner] != 0 {
		t.Errorf("refusals: %v", counts)
	}
	to := b.self()
	stop(t, a)
	if err := a.send(to, "echo", id, &messages.Text{}); !errors.Is(err, ErrStopped) {
		t.Errorf("after Stop: %v", err)
	}
}

// A member that can't be reached makes nobody wait, and nothing grow.
func TestALinkIsBounded(t *testing.T) {
	n := start(t, Config{Listen: "127.0.0.1:0"})
	dead := Member{Name: "troupe-2", Address: "127.0.0.1:1"}
	for i := range 2*linkQueue + 2*linkBatch {
		err := n.send(dead, "echo", "ana", &messages.Text{})
		if errors.Is(err, ErrLinkFull) {
			return
		}
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	t.Error("it took everything")
}

func TestServicesOfANode(t *testing.T) {
	a, b, _ := pair(t, newCollector[string](), open)
	got := newCollector[string]()
	for _, n := range []*Node{a, b} {
		n.Serve("fan-out", func(m proto.Message) { got.add(n.Name() + " " + m.(*messages.Text).Body) })
	}
	for i, name := range []string{"troupe-1", "troupe-2"} {
		if err := a.TellService(name, "fan-out", &messages.Text{Body: "x"}); err != nil {
			t.Fatal(err)
		}
		if all := got.wait(i + 1); all[i] != name+" x" {
			t.Errorf("got %v", all)
		}
	}
	if err := a.TellService("troupe-1", "nothing", &messages.Text{}); !errors.Is(err, ErrUnknownService) {
		t.Errorf("unknown service: %v", err)
	}
	if err := a.TellService("troupe-9", "fan-out", &messages.Text{}); !errors.Is(err, ErrUnknownNode) {
		t.Errorf("unknown node: %v", err)
	}
}

// A node that others take for the owner, and that knows better, must not
// activate: two of a kind would live for good.
func TestNotOwnerIsRefusedByItsOwnView(t *testing.T) {
	n, _, _ := target(t)
	other := Member{ID: "other", Name: "troupe-2", Address: "127.0.0.1:1"}
	n.membersChanged([]Member{n.self(), other})
	id := ownedBy(t, n, "troupe-2")
	a := attack(t, n)
	a.sendBatch(batch(ingress, envelope(t, "echo", id, &messages.Text{Body: "x"})))
	a.barrier()
	if counts := n.Refusals(); counts[NotOwner] != 1 {
		t.Errorf("refusals: %v", counts)
	}
	if at, _ := n.Locate("echo", id); at.Active {
		t.Error("it was activated")
	}
}

func TestAnActivationMovesWithItsPartition(t *testing.T) {
	ends := newEnded()
	tw, got := newTown(), newCollector[string]()
	a := start(t, Config{Name: "troupe-1", Listen: "127.0.0.1:0", Provider: &resident{town: tw}, Kinds: []Kind{where("troupe-1", got)}, OnEnded: ends.on})
	two := newPlacement([]Member{{ID: "1", Name: "troupe-1"}, {ID: "2", Name: "troupe-2"}}, "1")
	k := a.kinds["echo"]
	var stays, moves string
	for i := 0; stays == "" || moves == ""; i++ {
		if id := fmt.Sprintf("user-%d", i); two.owns(k.hash(id)) {
			stays = id
		} else {
			moves = id
		}
	}
	tell(t, a, stays, &messages.Text{Body: "stays"})
	tell(t, a, moves, &messages.Text{Body: "moves"})
	got.wait(2)
	start(t, Config{Name: "troupe-2", Listen: "127.0.0.1:0", Provider: &resident{town: tw}, Kinds: []Kind{where("troupe-2", got)}})
	if cause := <-ends.causes; cause != Lost {
		t.Errorf("it ended as %q", cause)
	}
	tell(t, a, moves, &messages.Text{Body: "moved"})
	if all := got.wait(3); all[2] != "troupe-2 moved" {
		t.Errorf("got %v", all)
	}
	if at, _ := a.Locate("echo", stays); !at.Active {
		t.Error("one that belongs here has ended")
	}
}

// What waits for an activation when its partition moves goes along.
func TestWhatWaitsMovesAlong(t *testing.T) {
	tw, got, hold := newTown(), newCollector[string](), make(chan struct{})
	slow := kindOf("echo", func(ctx actor.Context) {
		if c, ok := ctx.Message().(chan struct{}); ok {
			<-c
		}
		if m, ok := ctx.Message().(*messages.Text); ok {
			got.add("troupe-1 " + m.Body)
		}
	})
	a := start(t, Config{Name: "troupe-1", Listen: "127.0.0.1:0", Provider: &resident{town: tw}, Kinds: []Kind{slow}})
	two := newPlacement([]Member{{ID: "1", Name: "troupe-1"}, {ID: "2", Name: "troupe-2"}}, "1")
	moves := ""
	for i := 0; moves == ""; i++ {
		if id := fmt.Sprintf("user-%d", i); !two.owns(a.kinds["echo"].hash(id)) {
			moves = id
		}
	}
	tell(t, a, moves, hold)
	tell(t, a, moves, &messages.Text{Body: "before"})
	h := a.kinds["echo"].hash(moves)
	start(t, Config{Name: "troupe-2", Listen: "127.0.0.1:0", Provider: &resident{town: tw}, Kinds: []Kind{where("troupe-2", got)}})
	for i := range 10 { // as a sender does that has not seen the change
		if err := a.kinds["echo"].tell(h, moves, &messages.Text{Body: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	close(hold)
	all := got.wait(11)
	if all[0] != "troupe-1 before" {
		t.Errorf("got %v", all)
	}
	for i := range 10 {
		if all[i+1] != fmt.Sprintf("troupe-2 %d", i) {
			t.Errorf("got %v", all)
		}
	}
}

// A node that was away too long is no member: it drops what it ran, and what it
// is told goes to those that are.
func TestANodeThatIsNoMemberServesNothing(t *testing.T) {
	got := newCollector[string]()
	a, _, tw := pair(t, got, open)
	mine := ownedBy(t, a, "troupe-1")
	tell(t, a, mine, &messages.Text{Body: "x"})
	got.wait(1)
	tw.expel(a.System().ID)
	for a.live() > 0 {
		<-a.quiet.changed
	}
	tell(t, a, mine, &messages.Text{Body: "y"})
	if all := got.wait(2); all[1] != "troupe-2 y" {
		t.Errorf("got %v", all)
	}
	if len(a.Members()) != 1 || a.Members()[0].Self {
		t.Errorf("it still counts itself: %v", a.Members())
	}
}

// Tells, looks and changes of the members at once: for the race detector.
func TestMembersChangeUnderLoad(t *testing.T) {
	n := start(t, Config{Kinds: []Kind{kindOf("echo", leaves)}})
	other := Member{ID: "other", Name: "troupe-2"}
	var wg sync.WaitGroup
	for s := range 3 {
		wg.Go(func() {
			for i := range 2000 {
				id := fmt.Sprintf("user-%d", (i*7+s)%100)
				err := n.Tell("echo", id, i)
				if err != nil && !errors.Is(err, ErrUnknownNode) {
					t.Error(err)
				}
				if _, err := n.Locate("echo", id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 100 {
		n.membersChanged([]Member{n.self(), other})
		n.Members()
		n.membersChanged([]Member{n.self()})
	}
	wg.Wait()
	n.membersChanged([]Member{other})
	for n.live() > 0 {
		<-n.quiet.changed
	}
}

// authority signs certificates for 127.0.0.1.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	var der []byte
	der, a.key = a.sign(template, nil, nil)
	a.cert, _ = x509.ParseCertificate(der)
	return a
}

func (a *authority) sign(template, parent *x509.Certificate, by *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

func (a *authority) config(name string) *tls.Config {
	der, key := a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, a.key)
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:      pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}
}

func TestNodesTrustOneAuthorityOnly(t *testing.T) {
	own, foreign := newAuthority(t), newAuthority(t)
	a, _, _ := pair(t, newCollector[string](), own.config)
	id := ownedBy(t, a, "troupe-2")
	if _, err := a.Request(t.Context(), "echo", id, &messages.Delivered{}); err != nil {
		t.Errorf("between nodes of one authority: %v", err)
	}
	for name, config := range map[string]*tls.Config{
		"another authority": foreign.config("troupe-3"),
		"no certificate":    {},
	} {
		config.InsecureSkipVerify = true
		conn, err := tls.Dial("tcp", a.Address(), config)
		if err != nil {
			continue
		}
		if _, err = conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: was let in", name)
		}
		_ = conn.Close()
	}
}

func TestHalfATLSConfigIsRefused(t *testing.T) {
	full := newAuthority(t).config("troupe-1")
	for name, change := range map[string]func(*tls.Config){
		"clients unverified": func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert },
		"no client CAs":      func(c *tls.Config) { c.ClientCAs = nil },
		"no root CAs":        func(c *tls.Config) { c.RootCAs = nil },
	} {
		half := full.Clone()
		change(half)
		if n, err := Start(t.Context(), Config{Name: "n", Listen: "0.0.0.0:0", TLS: half}); err == nil {
			t.Errorf("%s: started", name)
			stop(t, n)
		}
	}
}

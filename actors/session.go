package actors

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/troupe-chat/troupe/messages"
)

// session is the virtual actor of one user: it owns which devices are
// connected and where, their connection numbers, who is told of its presence,
// and whom its connections watch. It holds no entries.
//
//	Attach           from a gateway: a connection said hello, or lost its session
//	Detach           from a gateway: a connection ended
//	SignOut          close a device's connections, or all
//	Command          watch, block, unblock and profile, from a client
//	ObservePresence  from the session of a user that watches this one
//	PresenceChanged  from the session of a user that this one watches
//	numbered, observed, blocked   what the store said
type session struct {
	env  *Env
	user messages.UserID
	id   string // of this activation
	self func(any)

	attached []*attachment
	watchers map[messages.UserID]time.Time // until when they are told of presence
	watches  map[place]*watch              // of this user's connections
	pending  int                           // results on their way
	signOuts int                           // so far; see numbered
}

// place names a connection.
type place struct {
	node       string
	connection uint64
}

type attachment struct {
	place
	device      messages.DeviceID
	number      uint64
	incarnation uint64
	protocol    string
	client      string
	since       int64
}

// watch is what one connection has asked to be told of.
type watch struct {
	users map[messages.UserID]bool
	until time.Time
}

// numbered is a connection that the store has given its number.
type numbered struct {
	attach   *messages.Attach
	device   deviceEntry
	err      error
	signOuts int // of the session when it was asked for
}

// observed is what a watcher may see.
type observed struct {
	watcher  messages.UserID
	visible  bool
	lastSeen int64
}

type blocked struct{ user messages.UserID }

// finished is the end of work with no other result.
type finished struct{}

// maxWatchers bounds who is told of one user's presence.
const maxWatchers = 10_000

// NewSession returns the behaviour of the session kind.
func NewSession(env *Env, identity string) actor.Actor {
	return &session{env: env, user: messages.UserID(identity)}
}

// Receive takes one message.
func (s *session) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		s.started(ctx)
	case *messages.Attach:
		s.attach(m)
	case *numbered:
		s.numbered(m)
	case *messages.Detach:
		s.detach(m)
	case *messages.SignOut:
		s.signOut(m)
	case *messages.Command:
		s.command(m)
	case *messages.ObservePresence:
		s.observe(m)
	case *observed:
		s.observed(m)
	case *messages.PresenceChanged:
		s.presenceChanged(m)
	case *blocked:
		s.blocked(m)
	case *finished:
		s.pending--
	case *messages.Inspect:
		m.Reply(s.inspect())
	case *messages.Idle:
		s.idle(m)
	}
}

func (s *session) started(ctx actor.Context) {
	self, root := ctx.Self(), ctx.ActorSystem().Root
	s.self = func(m any) { root.Send(self, m) }
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	s.id = hex.EncodeToString(b[:])
}

// aside runs work that blocks; what it returns comes back as a message.
func (s *session) aside(work func(ctx context.Context) any) {
	s.pending++
	s.env.Pool.Do(func() {
		ctx, cancel := ioContext()
		defer cancel()
		s.self(work(ctx))
	})
}

// ---------------------------------------------------------------- connections

// attach joins a connection. A new one gets its number from the store, so that
// the newest is known across activations; one that comes back presents its own.
func (s *session) attach(m *messages.Attach) {
	if m.Number != 0 {
		s.join(m, m.Number, 0, false)
		return
	}
	env, user, signOuts := s.env, s.user, s.signOuts
	s.aside(func(ctx context.Context) any {
		entry, err := env.numberDevice(ctx, user, m)
		if err == nil {
			err = env.admitted(ctx, user, m.TokenId)
		}
		return &numbered{m, entry, err, signOuts}
	})
}

func (s *session) numbered(m *numbered) {
	s.pending--
	switch {
	case errors.Is(m.err, errNotAdmitted), m.signOuts != s.signOuts:
		// It was vouched for before a sign-out, and may not be any more.
		s.refuse(m.attach, errNotAdmitted, messages.CloseUnauthenticated)
		return
	case m.err != nil:
		s.env.Log.Warn("attaching a device", "user", s.user, "error", m.err)
		s.refuse(m.attach, unavailable(), messages.CloseOverloaded)
		return
	}
	s.join(m.attach, m.device.number, m.device.incarnation, m.device.fresh)
}

func (s *session) refuse(m *messages.Attach, f *messages.Failure, code int) {
	s.env.Gateways.Tell(m.Origin.Node, &messages.Attached{
		Connection: m.Origin.Connection, Error: f.Proto(), Close: uint32(code),
	})
}

var errReplaced = messages.Fail(messages.CodeConflict, "this device has connected elsewhere")

func (s *session) join(m *messages.Attach, number, incarnation uint64, fresh bool) {
	device := messages.DeviceID(m.Origin.Device)
	i := slices.IndexFunc(s.attached, func(a *attachment) bool { return a.device == device })
	if i < 0 && len(s.attached) >= int(s.env.Limits.Devices) {
		s.refuse(m, messages.Fail(messages.CodeConflict,
			"%d devices are connected already; disconnect one", len(s.attached)), messages.CloseTooManyDevices)
		return
	}
	at := place{m.Origin.Node, m.Origin.Connection}
	if i >= 0 && s.attached[i].place != at {
		if old := s.attached[i]; old.number > number {
			s.refuse(m, errReplaced, messages.CloseReplaced)
			return
		}
		s.expel(s.attached[i], messages.CloseReplaced, errReplaced.Message)
	}
	if i >= 0 {
		incarnation = max(incarnation, s.attached[i].incarnation)
		s.attached = slices.Delete(s.attached, i, i+1)
	}
	s.attached = append(s.attached, &attachment{
		place: at, device: device, number: number, incarnation: incarnation,
		protocol: m.Protocol, client: m.Client, since: m.Since,
	})
	s.publish()
	if len(s.attached) == 1 && i < 0 {
		s.tellPresence()
	}
	s.env.Gateways.Tell(m.Origin.Node, &messages.Attached{
		Connection: m.Origin.Connection, Number: number, Incarnation: incarnation, Session: s.id, Fresh: fresh,
	})
}

func (s *session) expel(a *attachment, code int, reason string) {
	s.env.Gateways.Tell(a.node, &messages.Expel{Connection: a.connection, Close: uint32(code), Reason: reason})
	delete(s.watches, a.place)
}

// publish makes the node's fan-out know the user's connections.
func (s *session) publish() {
	conns := make([]Connection, 0, len(s.attached))
	for _, a := range s.attached {
		if c, ok := s.env.Gateways.Connection(a.node, a.connection); ok {
			conns = append(conns, c)
		}
	}
	s.env.Routes.Publish(s.user, conns)
}

// detach compares before it deletes: a connection that was replaced ends
// after its successor began.
func (s *session) detach(m *messages.Detach) {
	device := messages.DeviceID(m.Origin.Device)
	i := slices.IndexFunc(s.attached, func(a *attachment) bool {
		return a.device == device && a.number == m.Number
	})
	if i < 0 {
		return
	}
	delete(s.watches, s.attached[i].place)
	s.attached = slices.Delete(s.attached, i, i+1)
	s.publish()
	if len(s.attached) == 0 {
		s.attached = nil
		s.tellPresence()
	}
	env, user, last, now := s.env, s.user, len(s.attached) == 0, s.env.nowMs()
	s.aside(func(ctx context.Context) any {
		env.left(ctx, user, device, last, now)
		return &finished{}
	})
}

func (s *session) signOut(m *messages.SignOut) {
	s.signOuts++
	for _, a := range s.attached {
		if m.Device == "" || messages.DeviceID(m.Device) == a.device {
			s.expel(a, messages.CloseUnauthenticated, m.Reason)
		}
	}
}

// ---------------------------------------------------------------- presence

func (s *session) online() bool { return len(s.attached) > 0 }

// tellPresence stores that the user came or went, and tells who watches.
func (s *session) tellPresence() {
	now := s.env.nowMs()
	s.env.putPresence(s.user, s.online(), now)
	p := s.presence(now)
	for watcher, until := range s.watchers {
		if s.env.Now().After(until) {
			delete(s.watchers, watcher)
			continue
		}
		s.tellWatcher(watcher, p)
	}
}

func (s *session) presence(lastSeen int64) *messages.Presence {
	return &messages.Presence{User: string(s.user), Online: s.online(), LastSeen: lastSeen}
}

func (s *session) tellWatcher(watcher messages.UserID, p *messages.Presence) {
	_ = s.env.Cluster.Tell(messages.ActorSession, string(watcher), &messages.PresenceChanged{
		Watcher: string(watcher), Presence: p,
	})
}

// observe judges whether a watcher may know, and tells it what it may.
func (s *session) observe(m *messages.ObservePresence) {
	watcher := messages.UserID(m.Watcher)
	if m.Stop {
		delete(s.watchers, watcher)
		return
	}
	env, user := s.env, s.user
	s.aside(func(ctx context.Context) any { return env.observe(ctx, user, watcher) })
}

func (s *session) observed(m *observed) {
	s.pending--
	if !m.visible {
		s.tellWatcher(m.watcher, &messages.Presence{User: string(s.user)})
		return
	}
	if s.watchers == nil {
		s.watchers = map[messages.UserID]time.Time{}
	}
	if _, ok := s.watchers[m.watcher]; ok || len(s.watchers) < maxWatchers {
		s.watchers[m.watcher] = s.env.Now().Add(messages.WatchFor)
	}
	lastSeen := m.lastSeen
	if s.online() {
		lastSeen = s.env.nowMs()
	}
	s.tellWatcher(m.watcher, s.presence(lastSeen))
}

// presenceChanged shows a watched user's presence to whoever asked for it.
func (s *session) presenceChanged(m *messages.PresenceChanged) {
	now := s.env.Now()
	for at, w := range s.watches {
		if now.After(w.until) {
			delete(s.watches, at)
			continue
		}
		if !w.users[messages.UserID(m.Presence.User)] {
			continue
		}
		if c, ok := s.env.Gateways.Connection(at.node, at.connection); ok {
			c.Notify(&messages.ServerFrame{Event: &messages.ServerFrame_Presence{Presence: m.Presence}})
		}
	}
}

// ---------------------------------------------------------------- commands

func (s *session) command(m *messages.Command) {
	switch cmd := m.Frame.Command.(type) {
	case *messages.ClientFrame_Watch:
		s.watch(m.Origin, cmd.Watch)
	case *messages.ClientFrame_Block:
		s.block(m, messages.UserID(cmd.Block.User), true)
	case *messages.ClientFrame_Unblock:
		s.block(m, messages.UserID(cmd.Unblock.User), false)
	case *messages.ClientFrame_Profile:
		s.profile(m.Origin, cmd.Profile)
	}
}

// watch replaces what a connection is told of; nothing stops it.
func (s *session) watch(o *messages.Origin, w *messages.Watch) {
	if len(w.Users) > int(s.env.Limits.Watches) {
		s.env.fail(o, messages.Fail(messages.CodeInvalid, "users: at most %d", s.env.Limits.Watches))
		return
	}
	at := place{o.Node, o.Connection}
	s.env.answer(o, okFrame())
	if len(w.Users) == 0 {
		delete(s.watches, at)
		return
	}
	users := make(map[messages.UserID]bool, len(w.Users))
	for _, u := range w.Users {
		users[messages.UserID(u)] = true
	}
	if s.watches == nil {
		s.watches = map[place]*watch{}
	}
	s.watches[at] = &watch{users, s.env.Now().Add(messages.WatchFor)}
	for u := range users {
		s.askPresence(u)
	}
}

func (s *session) askPresence(u messages.UserID) {
	if !u.Valid() {
		s.presenceChanged(&messages.PresenceChanged{Presence: &messages.Presence{User: string(u)}})
		return
	}
	_ = s.env.Cluster.Tell(messages.ActorSession, string(u), &messages.ObservePresence{
		User: string(u), Watcher: string(s.user),
	})
}

// block stores a block, or its end. The direct conversation answers: from then
// on it decides by it.
func (s *session) block(m *messages.Command, other messages.UserID, on bool) {
	env, user := s.env, s.user
	s.aside(func(ctx context.Context) any {
		if f := env.block(ctx, user, other, on); f != nil {
			env.fail(m.Origin, f)
			return &finished{}
		}
		_ = env.Cluster.Tell(messages.ActorConversation, string(messages.Direct(user, other)), m)
		if !on {
			return &finished{}
		}
		return &blocked{other}
	})
}

// blocked ends what both have seen of each other's presence.
func (s *session) blocked(m *blocked) {
	s.pending--
	if _, ok := s.watchers[m.user]; ok {
		delete(s.watchers, m.user)
		s.tellWatcher(m.user, &messages.Presence{User: string(s.user)})
	}
	_ = s.env.Cluster.Tell(messages.ActorSession, string(m.user), &messages.ObservePresence{
		User: string(m.user), Watcher: string(s.user), Stop: true,
	})
	s.presenceChanged(&messages.PresenceChanged{Presence: &messages.Presence{User: string(m.user)}})
}

func (s *session) profile(o *messages.Origin, p *messages.Profile) {
	env, user := s.env, s.user
	s.aside(func(ctx context.Context) any {
		list, err := env.profiles(ctx, user, p)
		if err != nil {
			env.fail(o, messages.FailureOf(err))
			return &finished{}
		}
		env.answer(o, &messages.ServerFrame{Event: &messages.ServerFrame_ProfileList{ProfileList: list}})
		return &finished{}
	})
}

// ---------------------------------------------------------------- the rest

func (s *session) idle(m *messages.Idle) {
	now := s.env.Now()
	for w, until := range s.watchers {
		if now.After(until) {
			delete(s.watchers, w)
		}
	}
	if s.pending == 0 && len(s.attached) == 0 && len(s.watchers) == 0 {
		m.Leave()
	}
}

func (s *session) inspect() any {
	type device struct {
		Device     messages.DeviceID `json:"device"`
		Node       string            `json:"node"`
		Connection uint64            `json:"connection"`
		Protocol   string            `json:"protocol"`
		Client     string            `json:"client"`
		Since      int64             `json:"since"`
		InFlight   int               `json:"in_flight"`
	}
	out := struct {
		Devices  []device `json:"devices"`
		Watchers int      `json:"watchers"`
	}{Devices: []device{}, Watchers: len(s.watchers)}
	for _, a := range s.attached {
		d := device{
			Device: a.device, Node: a.node, Connection: a.connection,
			Protocol: a.protocol, Client: a.client, Since: a.since,
		}
		if c, ok := s.env.Gateways.Connection(a.node, a.connection); ok {
			d.InFlight = c.InFlight()
		}
		out.Devices = append(out.Devices, d)
	}
	return out
}

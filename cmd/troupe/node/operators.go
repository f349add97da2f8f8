package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"

	"github.com/troupe-chat/troupe/cluster"
	"github.com/troupe-chat/troupe/gateway/accounts"
	"github.com/troupe-chat/troupe/gateway/console"
	"github.com/troupe-chat/troupe/messages"
)

// operatorsView is what the console sees of a node.
type operatorsView struct{ *Node }

// Members lists the members of the cluster.
func (v operatorsView) Members(context.Context) ([]console.Member, error) {
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	var out []console.Member
	for _, m := range v.cluster.Members() {
		member := console.Member{
			ID: m.ID, Name: m.Name, Address: m.Address, State: "up", Kinds: m.Kinds,
			Share: m.Share, Actors: m.Actors, Started: m.Since, Version: v.cfg.Version,
			Uptime: (v.cfg.Now().UnixMilli() - m.Since) / 1000,
		}
		if m.Self {
			member.Connections = int(v.gateway.Metrics.Connections.Load())
			member.Memory = memory.Sys - memory.HeapReleased
		}
		out = append(out, member)
	}
	return out, nil
}

// Actors lists live activations.
func (v operatorsView) Actors(_ context.Context, f console.Filter) ([]console.Actor, error) {
	if f.Member != "" && f.Member != v.cfg.Name {
		return nil, nil
	}
	var out []console.Actor
	for _, a := range v.cluster.Activations(cluster.Filter{Kind: f.Kind, Sort: cluster.Sort(f.Sort), Limit: f.Limit}) {
		out = append(out, actorOf(a))
	}
	return out, nil
}

func actorOf(a cluster.Activation) console.Actor {
	return console.Actor{
		Kind: a.Kind, ID: a.Identity, Member: a.Member, Mailbox: a.Mailbox, Handled: a.Handled, Rate: a.Rate,
		Since: a.Since.UnixMilli(), Age: a.Age.Seconds(), LastMessage: a.LastMessage, LastAt: a.LastAt.UnixMilli(),
	}
}

// Actor describes one identity, active or not.
func (v operatorsView) Actor(ctx context.Context, kind, id string) (console.ActorDetail, error) {
	at, err := v.cluster.Locate(kind, id)
	if err != nil {
		return console.ActorDetail{}, err
	}
	d := console.ActorDetail{Kind: kind, ID: id, Owner: at.Owner, Active: at.Active}
	if !at.Active {
		return d, nil
	}
	if a, ok := v.cluster.Activation(kind, id); ok {
		actor := actorOf(a)
		d.Actor = &actor
	}
	d.State, err = v.cluster.Inspect(ctx, kind, id)
	if errors.Is(err, cluster.ErrNotActive) {
		return console.ActorDetail{Kind: kind, ID: id, Owner: at.Owner}, nil
	}
	return d, err
}

// Session lists a user's connected devices.
func (v operatorsView) Session(ctx context.Context, u messages.UserID) ([]console.Connection, error) {
	state, err := v.cluster.Inspect(ctx, messages.ActorSession, string(u))
	if errors.Is(err, cluster.ErrNotActive) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	encoded, err := json.Marshal(state)
	if err != nil {
		return nil, fmt.Errorf("describing the session of %s: %w", u, err)
	}
	var session struct{ Devices []console.Connection }
	if err := json.Unmarshal(encoded, &session); err != nil {
		return nil, fmt.Errorf("describing the session of %s: %w", u, err)
	}
	return session.Devices, nil
}

// usersView is what the console changes of accounts.
type usersView struct{ *accounts.Service }

func (n *Node) accountsView() console.Users { return usersView{n.accounts} }

// Users lists accounts.
func (v usersView) Users(ctx context.Context, after messages.UserID, limit int) ([]console.User, error) {
	all, err := v.List(ctx, after, limit)
	out := make([]console.User, len(all))
	for i, a := range all {
		out[i] = console.User{User: a.User, CreatedAt: a.Created, LastSeen: a.LastSeen, Disabled: a.Disabled, Deleted: a.Deleted}
	}
	return out, err
}

package actors

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// What follows is the work of session actors that reads and writes the store.
// All of it blocks.

// deviceEntry is what the store says of a connecting device.
type deviceEntry struct {
	number      uint64
	incarnation uint64
	fresh       bool
}

// maxTokens is how many tokens of one device are remembered, to be revoked
// when it is signed out.
const maxTokens = 8

// numberDevice gives a new connection of a device its number, makes the device
// known where it is not, and forgets those that are too many or too old.
func (e *Env) numberDevice(ctx context.Context, u messages.UserID, m *messages.Attach) (deviceEntry, error) {
	var entry deviceEntry
	var forgotten []uint64
	now := e.nowMs()
	err := e.Store.UpdateDevices(ctx, u, func(devices []persistence.Device) ([]persistence.Device, error) {
		entry, forgotten = deviceEntry{}, nil
		devices, forgotten = forgetDevices(devices, messages.DeviceID(m.Origin.Device), now)
		i := slices.IndexFunc(devices, func(d persistence.Device) bool { return string(d.ID) == m.Origin.Device })
		if i < 0 {
			entry.fresh = true
			devices = append(devices, persistence.Device{
				ID: messages.DeviceID(m.Origin.Device), Incarnation: newIncarnation(), Created: now,
			})
			i = len(devices) - 1
		}
		d := &devices[i]
		d.Number++
		d.Client, d.LastSeen = m.Client, now
		d.Tokens = rememberToken(d.Tokens, m.TokenId)
		entry.number, entry.incarnation = d.Number, d.Incarnation
		return devices, nil
	})
	for _, incarnation := range forgotten {
		e.Store.ForgetDevice(persistence.DeviceKey{User: u, Incarnation: incarnation}, func(err error) {
			if err != nil {
				e.Log.Warn("forgetting a device", "user", u, "error", err)
			}
		})
	}
	return entry, err
}

// errNotAdmitted refuses a connection whose token has stopped counting since
// its hello was judged.
var errNotAdmitted = messages.Fail(messages.CodeUnauthenticated, "signed out meanwhile; log in again")

// admitted judges a connection's account and token once more.
func (e *Env) admitted(ctx context.Context, u messages.UserID, token string) error {
	account, err := e.Store.Account(ctx, u)
	if err != nil {
		return fmt.Errorf("reading the account of a device: %w", err)
	}
	revoked, err := e.Store.Revoked(ctx, token)
	if err != nil {
		return fmt.Errorf("reading the token of a device: %w", err)
	}
	if account.Deleted || account.Disabled || revoked {
		return errNotAdmitted
	}
	return nil
}

// forgetDevices drops devices unused for long, and all but the latest ones, so
// that keep finds room.
func forgetDevices(devices []persistence.Device, keep messages.DeviceID, now int64) (kept []persistence.Device, forgotten []uint64) {
	slices.SortFunc(devices, func(a, b persistence.Device) int { return cmp.Compare(b.LastSeen, a.LastSeen) })
	room := messages.KeptDevices - 1
	for _, d := range devices {
		old := now-d.LastSeen > messages.ForgetDevice.Milliseconds()
		switch {
		case d.ID == keep && !old:
			kept = append(kept, d)
		case room == 0 || old:
			forgotten = append(forgotten, d.Incarnation)
		default:
			kept = append(kept, d)
			room--
		}
	}
	return kept, forgotten
}

func rememberToken(tokens []string, id string) []string {
	if id == "" || slices.Contains(tokens, id) {
		return tokens
	}
	tokens = append(tokens, id)
	return tokens[max(0, len(tokens)-maxTokens):]
}

// newIncarnation returns a number that no other device of a user has, 0
// excepted.
func newIncarnation() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return max(1, binary.BigEndian.Uint64(b[:]))
}

// left stores when a device, and with its last one the user, was last seen.
func (e *Env) left(ctx context.Context, u messages.UserID, id messages.DeviceID, last bool, now int64) {
	err := e.Store.UpdateDevices(ctx, u, func(devices []persistence.Device) ([]persistence.Device, error) {
		for i := range devices {
			if devices[i].ID == id {
				devices[i].LastSeen = now
			}
		}
		return devices, nil
	})
	if last && err == nil {
		err = e.Store.UpdateAccount(ctx, u, func(a *persistence.Account) error {
			a.LastSeen = now
			return nil
		})
	}
	if err != nil {
		e.Log.Warn("storing when a device was last seen", "user", u, "error", err)
	}
}

// putPresence stores that a user came or went. It may be lost.
func (e *Env) putPresence(u messages.UserID, online bool, now int64) {
	e.Pool.Do(func() {
		ctx, cancel := ioContext()
		defer cancel()
		if err := e.Presence.Put(ctx, u, persistence.Online{Online: online, LastSeen: now}); err != nil {
			e.Log.Warn("storing presence", "user", u, "error", err)
		}
	})
}

// observe tells what a watcher may know of u's presence.
func (e *Env) observe(ctx context.Context, u, watcher messages.UserID) *observed {
	visible, err := e.acquainted(ctx, u, watcher)
	if err != nil {
		e.Log.Warn("judging who sees whom", "user", u, "error", err)
	}
	o := &observed{watcher: watcher, visible: visible && err == nil}
	if o.visible {
		o.lastSeen = e.lastSeen(ctx, u)
	}
	return o
}

func (e *Env) lastSeen(ctx context.Context, u messages.UserID) int64 {
	if known, err := e.Presence.Get(ctx, []messages.UserID{u}); err == nil && known[0].LastSeen != 0 {
		return known[0].LastSeen
	}
	account, err := e.Store.Account(ctx, u)
	if err != nil {
		return 0
	}
	return account.LastSeen
}

// acquainted reports whether two users share a conversation and neither blocks
// the other.
func (e *Env) acquainted(ctx context.Context, a, b messages.UserID) (bool, error) {
	if a == b {
		return true, nil
	}
	barred, err := e.Store.Blocked(ctx, a, b)
	if err != nil || barred {
		return false, err
	}
	direct, err := e.Store.Membership(ctx, a, messages.Direct(a, b))
	if err != nil || len(direct) > 0 {
		return err == nil, err
	}
	ofA, err := e.openConversations(ctx, a)
	if err != nil {
		return false, err
	}
	ofB, err := e.openConversations(ctx, b)
	if err != nil {
		return false, err
	}
	for c := range ofA {
		if ofB[c] {
			return true, nil
		}
	}
	return false, nil
}

func (e *Env) openConversations(ctx context.Context, u messages.UserID) (map[messages.ConversationID]bool, error) {
	all, err := e.Store.Memberships(ctx, u)
	if err != nil {
		return nil, err
	}
	open := make(map[messages.ConversationID]bool, len(all))
	for _, m := range all {
		if m.Ended == 0 {
			open[m.Conversation] = true
		}
	}
	return open, nil
}

// block makes u block other, or no longer.
func (e *Env) block(ctx context.Context, u, other messages.UserID, on bool) *messages.Failure {
	if u == other {
		return messages.Fail(messages.CodeInvalid, "nobody can block oneself")
	}
	unknown, err := e.exists(ctx, other)
	switch {
	case err != nil:
		return unavailable()
	case unknown:
		return messages.Fail(messages.CodeNotFound, "there is no such user")
	}
	if err := e.Store.SetBlock(ctx, u, other, on); err != nil {
		e.Log.Warn("storing a block", "user", u, "error", err)
		return unavailable()
	}
	return nil
}

// exists reports whether u is nobody's id.
func (e *Env) exists(ctx context.Context, u messages.UserID) (unknown bool, err error) {
	if !u.Valid() {
		return true, nil
	}
	missing, err := e.Store.Unknown(ctx, []messages.UserID{u})
	return len(missing) > 0, err
}

// profiles sets u's own profile, or reads those of others. Users that do not
// exist are left out.
func (e *Env) profiles(ctx context.Context, u messages.UserID, p *messages.Profile) (*messages.ProfileList, error) {
	users := p.Users
	if p.Set != nil {
		if err := e.setProfile(ctx, u, p.Set); err != nil {
			return nil, err
		}
		users = []string{string(u)}
	}
	if len(users) > int(e.Limits.Watches) {
		return nil, messages.Fail(messages.CodeInvalid, "users: at most %d", e.Limits.Watches)
	}
	list := &messages.ProfileList{}
	for _, id := range users {
		account, err := e.Store.Account(ctx, messages.UserID(id))
		if errors.Is(err, persistence.ErrNotFound) || account.Deleted {
			continue
		}
		if err != nil {
			return nil, unavailable()
		}
		list.Profiles = append(list.Profiles, &messages.ProfileInfo{User: id, Name: account.Name, Avatar: account.Avatar})
	}
	return list, nil
}

func (e *Env) setProfile(ctx context.Context, u messages.UserID, set *messages.ProfileSet) error {
	if len(set.Name) > messages.MaxName || len(set.Avatar) > messages.MaxAvatar {
		return messages.Fail(messages.CodeTooLarge, "a name takes at most %d bytes, an avatar %d", messages.MaxName, messages.MaxAvatar)
	}
	err := e.Store.UpdateAccount(ctx, u, func(a *persistence.Account) error {
		a.Name, a.Avatar = set.Name, set.Avatar
		return nil
	})
	if err != nil {
		e.Log.Warn("storing a profile", "user", u, "error", err)
		return unavailable()
	}
	return nil
}

// day returns the day of a time (ms), as in marks.
func day(ms int64) int64 { return ms / (24 * time.Hour).Milliseconds() }

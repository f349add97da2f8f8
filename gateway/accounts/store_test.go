package accounts

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

type unused interface{ persistence.Accounts }

// fakeStore keeps accounts in memory. down makes every call fail.
type fakeStore struct {
	unused // what is not needed here panics

	mu        sync.Mutex // guards all below
	down      error
	accounts  map[messages.UserID]persistence.Account
	devices   map[messages.UserID][]persistence.Device
	revoked   map[string]int64
	forgotten []persistence.DeviceKey

	before func(*persistence.Account) // another's change of an account; it comes first
}

func newFakeStore() *fakeStore {
	return &fakeStore{
		accounts: make(map[messages.UserID]persistence.Account),
		devices:  make(map[messages.UserID][]persistence.Device),
		revoked:  make(map[string]int64),
	}
}

func (f *fakeStore) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = err
}

func (f *fakeStore) CreateAccount(_ context.Context, a persistence.Account) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return f.down
	}
	if _, ok := f.accounts[a.User]; ok {
		return persistence.ErrExists
	}
	f.accounts[a.User] = a
	return nil
}

func (f *fakeStore) Account(_ context.Context, u messages.UserID) (persistence.Account, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return persistence.Account{}, f.down
	}
	a, ok := f.accounts[u]
	if !ok {
		return a, persistence.ErrNotFound
	}
	return a, nil
}

func (f *fakeStore) UpdateAccount(_ context.Context, u messages.UserID, change func(*persistence.Account) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return f.down
	}
	a, ok := f.accounts[u]
	if !ok {
		return persistence.ErrNotFound
	}
	if f.before != nil {
		f.before(&a)
	}
	if err := change(&a); err != nil {
		return err
	}
	f.accounts[u] = a
	return nil
}

func (f *fakeStore) Accounts(_ context.Context, after messages.UserID, limit int) (all []persistence.Account, _ error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for u, a := range f.accounts {
		if u > after {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, func(a, b persistence.Account) int {
		if a.User < b.User {
			return -1
		}
		return 1
	})
	return all[:min(limit, len(all))], f.down
}

func (f *fakeStore) Devices(_ context.Context, u messages.UserID) ([]persistence.Device, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.devices[u]), f.down
}

func (f *fakeStore) UpdateDevices(_ context.Context, u messages.UserID, change func([]persistence.Device) ([]persistence.Device, error)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	ds, err := change(slices.Clone(f.devices[u]))
	if err == nil {
		f.devices[u] = ds
	}
	return err
}

func (f *fakeStore) Revoke(_ context.Context, token string, until int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.revoked[token] = until
	return f.down
}

func (f *fakeStore) Revoked(_ context.Context, token string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.revoked[token]
	return ok, f.down
}

func (f *fakeStore) ForgetDevice(d persistence.DeviceKey, done persistence.Done) {
	f.mu.Lock()
	f.forgotten = append(f.forgotten, d)
	f.mu.Unlock()
	go done(nil)
}

// fakeLimiter counts exactly, and remembers its keys.
type fakeLimiter struct {
	mu   sync.Mutex
	hits map[string][]time.Time
	down error
}

func (l *fakeLimiter) Allow(_ context.Context, key string, limit int, window time.Duration, now time.Time) (time.Duration, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down != nil {
		return 0, l.down
	}
	if l.hits == nil {
		l.hits = make(map[string][]time.Time)
	}
	hits := slices.DeleteFunc(l.hits[key], func(t time.Time) bool { return !t.After(now.Add(-window)) })
	l.hits[key] = hits
	if len(hits) >= limit {
		return hits[0].Add(window).Sub(now), nil
	}
	l.hits[key] = append(hits, now)
	return 0, nil
}

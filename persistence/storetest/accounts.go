package storetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

func accounts(t *testing.T, e *env) {
	a := persistence.Account{User: ana, Password: "hash", Name: "Ana", Avatar: "x", Created: 5, Generation: 3}
	e.must(e.CreateAccount(e.ctx, a))
	e.equal(errors.Is(e.CreateAccount(e.ctx, a), persistence.ErrExists), true)
	for _, u := range []messages.UserID{"an", "bo", "ana.b"} {
		e.must(e.CreateAccount(e.ctx, persistence.Account{User: u}))
	}
	e.reopen()
	e.equal(must[persistence.Account](e)(e.Account(e.ctx, ana)), a)
	_, err := e.Account(e.ctx, "nobody")
	e.equal(errors.Is(err, persistence.ErrNotFound), true)

	e.must(e.UpdateAccount(e.ctx, bo, func(a *persistence.Account) error {
		a.Deleted, a.LastSeen = true, 8
		return nil
	}))
	refused := errors.New("refused")
	e.equal(errors.Is(e.UpdateAccount(e.ctx, ana, func(a *persistence.Account) error {
		a.Name = "nobody sees this"
		return refused
	}), refused), true)
	e.equal(errors.Is(e.UpdateAccount(e.ctx, "nobody", func(*persistence.Account) error { return nil }), persistence.ErrNotFound), true)
	e.equal(must[persistence.Account](e)(e.Account(e.ctx, ana)).Name, "Ana")
	e.equal(must[persistence.Account](e)(e.Account(e.ctx, bo)).LastSeen, 8)
	e.equal(errors.Is(e.CreateAccount(e.ctx, persistence.Account{User: bo}), persistence.ErrExists), true)

	e.equal(must[[]messages.UserID](e)(e.Unknown(e.ctx, []messages.UserID{"nobody", ana, bo})), []messages.UserID{"nobody", bo})
	e.equal(e.users("", 3), []messages.UserID{"an", ana, "ana.b"})
	e.equal(e.users(ana, 3), []messages.UserID{"ana.b", bo})
	e.equal(len(e.users(bo, 3)), 0)
}

func (e *env) users(after messages.UserID, limit int) []messages.UserID {
	e.Helper()
	var us []messages.UserID
	for _, a := range must[[]persistence.Account](e)(e.Store.Accounts(e.ctx, after, limit)) {
		us = append(us, a.User)
	}
	return us
}

func accountsOneAtATime(t *testing.T, e *env) {
	var created, group sync.WaitGroup
	wins := make(chan error, 8)
	for range 8 {
		created.Go(func() { wins <- e.CreateAccount(e.ctx, persistence.Account{User: ana}) })
	}
	created.Wait()
	won := 0
	for range 8 {
		if err := <-wins; err == nil {
			won++
		} else if !errors.Is(err, persistence.ErrExists) {
			t.Error(err)
		}
	}
	e.equal(won, 1)
	for i := range 8 {
		group.Go(func() {
			for j := range 5 {
				if err := e.UpdateAccount(e.ctx, ana, func(a *persistence.Account) error {
					a.Generation++
					return nil
				}); err != nil {
					t.Error(err)
				}
				if err := e.UpdateDevices(e.ctx, ana, func(ds []persistence.Device) ([]persistence.Device, error) {
					return append(ds, persistence.Device{ID: messages.DeviceID(fmt.Sprint(i, j))}), nil
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	e.reopen()
	e.equal(must[persistence.Account](e)(e.Account(e.ctx, ana)).Generation, 40)
	e.equal(len(must[[]persistence.Device](e)(e.Devices(e.ctx, ana))), 40)
}

func devices(t *testing.T, e *env) {
	e.equal(len(must[[]persistence.Device](e)(e.Devices(e.ctx, ana))), 0)
	d := persistence.Device{ID: "phone", Incarnation: 4, Number: 7, Client: "x/1", Created: 1, LastSeen: 2, Tokens: []string{"t1"}}
	e.must(e.UpdateDevices(e.ctx, ana, func(ds []persistence.Device) ([]persistence.Device, error) { return append(ds, d), nil }))
	refused := errors.New("refused")
	e.equal(errors.Is(e.UpdateDevices(e.ctx, ana, func([]persistence.Device) ([]persistence.Device, error) { return nil, refused }), refused), true)
	e.reopen()
	e.equal(must[[]persistence.Device](e)(e.Devices(e.ctx, ana)), []persistence.Device{d})
	e.must(e.UpdateDevices(e.ctx, ana, func([]persistence.Device) ([]persistence.Device, error) { return nil, nil }))
	e.equal(len(must[[]persistence.Device](e)(e.Devices(e.ctx, ana))), 0)
}

func revoked(t *testing.T, e *env) {
	e.must(e.Revoke(e.ctx, "t1", e.ms()+1000))
	e.reopen()
	e.equal(must[bool](e)(e.Revoked(e.ctx, "t1")), true)
	e.equal(must[bool](e)(e.Revoked(e.ctx, "t")), false)
	e.expire()
	e.equal(must[bool](e)(e.Revoked(e.ctx, "t1")), true)
	if e.maker.Expires {
		e.now = e.now.Add(2 * time.Second)
		e.expire()
		e.equal(must[bool](e)(e.Revoked(e.ctx, "t1")), false)
	}
}

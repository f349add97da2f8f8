package accounts

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// Why connections are closed, as SignOut is told.
const (
	reasonSignedOut = "signed out"
	reasonPassword  = "the password was changed"
	reasonDisabled  = "the account was disabled"
	reasonDeleted   = "the account was deleted"
	reasonOperator  = "disconnected by an operator"
)

// Create makes an account with a password. Its Failures: invalid, conflict
// where the name is or was taken, forbidden where an issuer has the users.
func (s *Service) Create(ctx context.Context, u messages.UserID, password string) error {
	if err := s.needLocal(); err != nil {
		return err
	}
	if !u.Valid() {
		return messages.Fail(messages.CodeInvalid, "a user name is 1 to 64 of a-z 0-9 . _ -")
	}
	if err := validPassword(password); err != nil {
		return err
	}
	if err := s.free(ctx, u); err != nil {
		return err
	}
	hash, err := s.passwords.hash(ctx, password)
	if err != nil {
		return err
	}
	err = s.Store.CreateAccount(ctx, persistence.Account{User: u, Password: hash, Created: s.Now().UnixMilli()})
	if errors.Is(err, persistence.ErrExists) {
		return errTaken
	}
	if err != nil {
		return failure("creating an account", err)
	}
	s.Logger.Info("account created", "user", u)
	return nil
}

var errTaken = messages.Fail(messages.CodeConflict, "this name is taken; choose another")

// free spares the hashing of a password for a name that is taken.
func (s *Service) free(ctx context.Context, u messages.UserID) error {
	_, err := s.Store.Account(ctx, u)
	if err == nil {
		return errTaken
	}
	if errors.Is(err, persistence.ErrNotFound) {
		return nil
	}
	return failure("looking up an account", err)
}

// login answers a token for the right password. An unknown, disabled or
// deleted user takes the same steps as a wrong password and gets the same
// answer.
func (s *Service) login(ctx context.Context, u messages.UserID, password string) (Token, error) {
	a, err := s.Store.Account(ctx, u)
	if err != nil && !errors.Is(err, persistence.ErrNotFound) {
		return Token{}, failure("looking up an account", err)
	}
	if err != nil || !usable(a) {
		a = persistence.Account{}
	}
	ok, err := s.passwords.matches(ctx, a.Password, password)
	if err != nil {
		return Token{}, err
	}
	if !ok {
		return Token{}, messages.Fail(messages.CodeUnauthenticated, "the user or the password is wrong")
	}
	return s.signer.issue(a)
}

// changePassword changes who's password and signs its other devices out. The
// token that asked stays valid.
func (s *Service) changePassword(ctx context.Context, who Identity, old, password string) error {
	if err := s.needLocal(); err != nil {
		return err
	}
	if err := validPassword(password); err != nil {
		return err
	}
	known, err := s.checkPassword(ctx, who.User, old)
	if err != nil {
		return err
	}
	err = s.storePassword(ctx, who.User, password, func(a *persistence.Account) error {
		if a.Password != known {
			return messages.Fail(messages.CodeConflict, "the password was changed meanwhile")
		}
		return nil
	})
	if err != nil {
		return err
	}
	_, err = s.signOutDevices(ctx, who.User, reasonPassword, func(d persistence.Device) bool {
		return !slices.Contains(d.Tokens, who.TokenID)
	})
	return err
}

// checkPassword returns the encoded hash that password matches.
func (s *Service) checkPassword(ctx context.Context, u messages.UserID, password string) (string, error) {
	a, err := s.Store.Account(ctx, u)
	if err != nil {
		return "", failure("looking up an account", err)
	}
	ok, err := s.passwords.matches(ctx, a.Password, password)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", messages.Fail(messages.CodeForbidden, "the password is wrong")
	}
	return a.Password, nil
}

// storePassword stores the hash of password, with what else changes. An error
// of change is returned as it is, and nothing is stored.
func (s *Service) storePassword(ctx context.Context, u messages.UserID, password string, change func(*persistence.Account) error) error {
	hash, err := s.passwords.hash(ctx, password)
	if err != nil {
		return err
	}
	return s.update(ctx, u, func(a *persistence.Account) error {
		if err := change(a); err != nil {
			return err
		}
		a.Password = hash
		return nil
	})
}

// update changes an account that is not deleted.
func (s *Service) update(ctx context.Context, u messages.UserID, f func(*persistence.Account) error) error {
	err := s.Store.UpdateAccount(ctx, u, func(a *persistence.Account) error {
		if a.Deleted {
			return persistence.ErrNotFound
		}
		return f(a)
	})
	if _, ok := errors.AsType[*messages.Failure](err); ok || err == nil {
		return err
	}
	return failure("changing an account", err)
}

// nextGeneration takes every token of a back. A generation is the time (ms) of
// its sign-out, so that it also judges an issuer's tokens by when they were
// issued.
func (s *Service) nextGeneration(a *persistence.Account) error {
	a.Generation = max(a.Generation+1, uint64(s.Now().UnixMilli()))
	return nil
}

// Devices returns u's devices, the last used first.
func (s *Service) Devices(ctx context.Context, u messages.UserID) ([]persistence.Device, error) {
	devices, err := s.Store.Devices(ctx, u)
	if err != nil {
		return nil, failure("listing devices", err)
	}
	slices.SortFunc(devices, func(a, b persistence.Device) int {
		return cmp.Or(cmp.Compare(b.LastSeen, a.LastSeen), cmp.Compare(a.ID, b.ID))
	})
	return devices, nil
}

// SignOutDevice takes back the tokens that a device of u used, closes its
// connection and forgets it. Not a device of u: not_found.
func (s *Service) SignOutDevice(ctx context.Context, u messages.UserID, id messages.DeviceID) error {
	gone, err := s.signOutDevices(ctx, u, reasonSignedOut, func(d persistence.Device) bool { return d.ID == id })
	if err == nil && gone == 0 {
		return messages.Fail(messages.CodeNotFound, "there is no such device; GET /v1/devices lists them")
	}
	return err
}

func (s *Service) signOutDevices(ctx context.Context, u messages.UserID, reason string, drop func(persistence.Device) bool) (int, error) {
	gone, err := s.dropDevices(ctx, u, drop)
	for _, d := range gone {
		s.SignOut(u, d.ID, reason)
	}
	return len(gone), err
}

// SignOutAll takes back every token of u, closes its connections and forgets
// its devices.
func (s *Service) SignOutAll(ctx context.Context, u messages.UserID) error {
	if err := s.update(ctx, u, s.nextGeneration); err != nil {
		return err
	}
	return s.dropAll(ctx, u, reasonSignedOut)
}

func (s *Service) dropAll(ctx context.Context, u messages.UserID, reason string) error {
	_, err := s.dropDevices(ctx, u, func(persistence.Device) bool { return true })
	s.SignOut(u, "", reason)
	return err
}

// dropDevices forgets those of u's devices that drop picks, and returns them.
// Their tokens go first: were this cut short, doing it again finds the devices
// still there. Tokens that came meanwhile go too.
func (s *Service) dropDevices(ctx context.Context, u messages.UserID, drop func(persistence.Device) bool) ([]persistence.Device, error) {
	devices, err := s.Store.Devices(ctx, u)
	if err != nil {
		return nil, failure("listing devices", err)
	}
	revoked := make(map[string]bool)
	for _, d := range devices {
		if !drop(d) {
			continue
		}
		if err := s.revoke(ctx, d.Tokens, revoked); err != nil {
			return nil, err
		}
	}
	gone, err := s.removeDevices(ctx, u, drop)
	if err != nil {
		return nil, err
	}
	for _, d := range gone {
		if err := s.revoke(ctx, d.Tokens, revoked); err != nil {
			return nil, err
		}
		s.forget(u, d)
	}
	return gone, nil
}

// revoke revokes the tokens that are not in revoked yet.
func (s *Service) revoke(ctx context.Context, tokens []string, revoked map[string]bool) error {
	until := s.Now().Add(keepRevoked).UnixMilli()
	for _, id := range tokens {
		if revoked[id] {
			continue
		}
		if err := s.Store.Revoke(ctx, id, until); err != nil {
			return failure("revoking a token", err)
		}
		revoked[id] = true
	}
	return nil
}

func (s *Service) removeDevices(ctx context.Context, u messages.UserID, drop func(persistence.Device) bool) (gone []persistence.Device, err error) {
	err = s.Store.UpdateDevices(ctx, u, func(all []persistence.Device) ([]persistence.Device, error) {
		gone = nil
		var kept []persistence.Device
		for _, d := range all {
			if drop(d) {
				gone = append(gone, d)
			} else {
				kept = append(kept, d)
			}
		}
		return kept, nil
	})
	if err != nil {
		return nil, failure("removing devices", err)
	}
	return gone, nil
}

// forget gives back the room of a device's cursors. Nothing waits for it: a
// device of the same name that comes again is another incarnation.
func (s *Service) forget(u messages.UserID, d persistence.Device) {
	s.Store.ForgetDevice(persistence.DeviceKey{User: u, Incarnation: d.Incarnation}, func(err error) {
		if err != nil {
			s.Logger.Warn("a device's cursors were not forgotten", "user", u, "device", d.ID, "error", err)
		}
	})
}

// Delete closes u's account for ever; its name stays taken. Deleting what is
// deleted does the rest again.
func (s *Service) Delete(ctx context.Context, u messages.UserID) error {
	err := s.Store.UpdateAccount(ctx, u, func(a *persistence.Account) error {
		a.Deleted = true
		a.Password, a.Name, a.Avatar = "", "", ""
		return s.nextGeneration(a)
	})
	if err != nil {
		return failure("deleting an account", err)
	}
	s.Logger.Info("account deleted", "user", u)
	s.Deleted(context.WithoutCancel(ctx), u)
	return s.dropAll(ctx, u, reasonDeleted)
}

// SetPassword gives u another password, for operators: every token is taken
// back, every connection closed.
func (s *Service) SetPassword(ctx context.Context, u messages.UserID, password string) error {
	if err := s.needLocal(); err != nil {
		return err
	}
	if err := validPassword(password); err != nil {
		return err
	}
	if err := s.storePassword(ctx, u, password, s.nextGeneration); err != nil {
		return err
	}
	s.Logger.Info("password reset", "user", u)
	s.SignOut(u, "", reasonPassword)
	return nil
}

// SetDisabled closes an account to its user, or opens it again. Its tokens
// count for nothing meanwhile.
func (s *Service) SetDisabled(ctx context.Context, u messages.UserID, disabled bool) error {
	err := s.update(ctx, u, func(a *persistence.Account) error {
		a.Disabled = disabled
		return nil
	})
	if err != nil {
		return err
	}
	s.Logger.Info("account changed", "user", u, "disabled", disabled)
	if disabled {
		s.SignOut(u, "", reasonDisabled)
	}
	return nil
}

// Disconnect closes u's connections. Its tokens stay valid.
func (s *Service) Disconnect(ctx context.Context, u messages.UserID) error {
	if _, err := s.Store.Account(ctx, u); err != nil {
		return failure("looking up an account", err)
	}
	s.SignOut(u, "", reasonOperator)
	return nil
}

// List returns up to limit accounts with names beyond after, in order, without
// their passwords.
func (s *Service) List(ctx context.Context, after messages.UserID, limit int) ([]persistence.Account, error) {
	all, err := s.Store.Accounts(ctx, after, limit)
	if err != nil {
		return nil, failure("listing accounts", err)
	}
	for i := range all {
		all[i].Password = ""
	}
	return all, nil
}

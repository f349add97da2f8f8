package accounts

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/troupe-chat/troupe/gateway/httpjson"
	"github.com/troupe-chat/troupe/messages"
)

// How often, in any minute: registrations and logins from one address, and
// passwords tried for one user.
const (
	perAddress = 120
	perUser    = 10
)

// Handler serves the account calls of the client's port: /v1/users, /v1/tokens,
// /v1/password, /v1/devices, /v1/devices/{id} and /v1/account.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/v1/users", httpjson.Methods{"POST": s.open(s.postUsers)})
	mux.Handle("/v1/tokens", httpjson.Methods{"POST": s.open(s.postTokens)})
	mux.Handle("/v1/password", httpjson.Methods{"POST": s.signedIn(s.postPassword)})
	mux.Handle("/v1/devices", httpjson.Methods{"GET": s.signedIn(s.getDevices)})
	mux.Handle("/v1/devices/{id}", httpjson.Methods{"DELETE": s.signedIn(s.deleteDevice)})
	mux.Handle("/v1/account", httpjson.Methods{"DELETE": s.signedIn(s.deleteAccount)})
	mux.HandleFunc("/", httpjson.NotFound)
	return mux
}

// open serves a call that needs no token.
func (s *Service) open(f func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := f(w, r); err != nil {
			s.refuse(w, r, err)
		}
	})
}

// signedIn serves a call of the user that its token speaks for.
func (s *Service) signedIn(f func(http.ResponseWriter, *http.Request, Identity) error) http.Handler {
	return s.open(func(w http.ResponseWriter, r *http.Request) error {
		who, err := s.FromRequest(r)
		if err != nil {
			return err
		}
		return f(w, r, who)
	})
}

func (s *Service) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if messages.FailureOf(err).Code == messages.CodeInternal && r.Context().Err() == nil {
		s.Logger.Error("an account call failed", "method", r.Method, "path", r.Pattern, "error", err)
	}
	httpjson.WriteError(w, err)
}

// FromRequest returns whom the request's bearer token speaks for. Its errors
// are those of Verify.
func (s *Service) FromRequest(r *http.Request) (Identity, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return Identity{}, messages.Fail(messages.CodeUnauthenticated, "send Authorization: Bearer with a token")
	}
	return s.Verify(r.Context(), strings.TrimSpace(token))
}

type credentials struct {
	User     messages.UserID `json:"user"`
	Password string          `json:"password"`
}

type tokenAnswer struct {
	User      messages.UserID `json:"user,omitempty"`
	Token     string          `json:"token"`
	ExpiresAt int64           `json:"expires_at"` // ms since the epoch
}

func (s *Service) postUsers(w http.ResponseWriter, r *http.Request) error {
	if err := s.needLocal(); err != nil {
		return err
	}
	if !s.Registration {
		return messages.Fail(messages.CodeForbidden, "registration is off here; ask an operator for an account")
	}
	if err := s.limit(r.Context(), "register/"+ClientAddress(r, s.TrustProxy), perAddress); err != nil {
		return err
	}
	var c credentials
	if err := httpjson.Read(w, r, &c); err != nil {
		return err
	}
	if err := s.Create(r.Context(), c.User, c.Password); err != nil {
		return err
	}
	t, err := s.Issue(r.Context(), c.User)
	if err != nil {
		return err
	}
	httpjson.Write(w, http.StatusCreated, tokenAnswer{c.User, t.Token, t.Expires.UnixMilli()})
	return nil
}

func (s *Service) postTokens(w http.ResponseWriter, r *http.Request) error {
	if err := s.needLocal(); err != nil {
		return err
	}
	if err := s.limit(r.Context(), "login/"+ClientAddress(r, s.TrustProxy), perAddress); err != nil {
		return err
	}
	var c credentials
	if err := httpjson.Read(w, r, &c); err != nil {
		return err
	}
	if err := s.limitPasswords(r.Context(), c.User); err != nil {
		return err
	}
	t, err := s.login(r.Context(), c.User, c.Password)
	if err != nil {
		return err
	}
	httpjson.Write(w, http.StatusOK, tokenAnswer{Token: t.Token, ExpiresAt: t.Expires.UnixMilli()})
	return nil
}

func (s *Service) postPassword(w http.ResponseWriter, r *http.Request, who Identity) error {
	var c struct {
		Password    string `json:"password"`
		NewPassword string `json:"new_password"`
	}
	if err := httpjson.Read(w, r, &c); err != nil {
		return err
	}
	if err := s.limitPasswords(r.Context(), who.User); err != nil {
		return err
	}
	if err := s.changePassword(r.Context(), who, c.Password, c.NewPassword); err != nil {
		return err
	}
	httpjson.NoContent(w)
	return nil
}

type deviceAnswer struct {
	ID        messages.DeviceID `json:"id"`
	Client    string            `json:"client"`
	CreatedAt int64             `json:"created_at"` // ms since the epoch
	LastSeen  int64             `json:"last_seen"`  // ms since the epoch
}

func (s *Service) getDevices(w http.ResponseWriter, r *http.Request, who Identity) error {
	devices, err := s.Devices(r.Context(), who.User)
	if err != nil {
		return err
	}
	list := make([]deviceAnswer, 0, len(devices))
	for _, d := range devices {
		list = append(list, deviceAnswer{d.ID, d.Client, d.Created, d.LastSeen})
	}
	httpjson.Write(w, http.StatusOK, map[string]any{"devices": list})
	return nil
}

func (s *Service) deleteDevice(w http.ResponseWriter, r *http.Request, who Identity) error {
	err := s.signOut(r.Context(), who.User, r.PathValue("id"))
	if err == nil {
		httpjson.NoContent(w)
	}
	return err
}

func (s *Service) signOut(ctx context.Context, u messages.UserID, id string) error {
	if id == "all" {
		return s.SignOutAll(ctx, u)
	}
	return s.SignOutDevice(ctx, u, messages.DeviceID(id))
}

func (s *Service) deleteAccount(w http.ResponseWriter, r *http.Request, who Identity) error {
	err := s.Delete(r.Context(), who.User)
	if err == nil {
		httpjson.NoContent(w)
	}
	return err
}

// limitPasswords counts a password tried for u. What can be no user's name is
// counted for nobody: a key is kept for each name.
func (s *Service) limitPasswords(ctx context.Context, u messages.UserID) error {
	if !u.Valid() {
		return nil
	}
	return s.limit(ctx, "password/"+string(u), perUser)
}

// limit counts one attempt in any minute. A limiter that cannot answer stops
// nobody: what it holds may be lost.
func (s *Service) limit(ctx context.Context, key string, most int) error {
	if s.LimitsOff {
		return nil
	}
	wait, err := s.Limiter.Allow(ctx, key, most, time.Minute, s.Now())
	if err != nil {
		s.Logger.Warn("a rate limit could not be looked up", "error", err)
		return nil
	}
	if wait > 0 {
		return messages.Later(messages.CodeRateLimited, wait, "too many attempts; wait")
	}
	return nil
}

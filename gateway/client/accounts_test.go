package client_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/troupe-chat/troupe/gateway/client"
	"github.com/troupe-chat/troupe/gateway/client/clienttest"
	"github.com/troupe-chat/troupe/messages"
)

func TestAccounts(t *testing.T) {
	server := httptest.NewServer(clienttest.New())
	defer server.Close()
	accounts := client.Accounts{Server: server.URL}
	ctx := context.Background()
	token, err := accounts.Register(ctx, "ana", "a password")
	if err != nil || token.User != "ana" || token.Token == "" || time.Until(token.ExpiresAt) < time.Minute {
		t.Fatalf("register: %+v, %v", token, err)
	}
	wantCode(t, second(accounts.Register(ctx, "ana", "a password")), messages.CodeConflict)
	wantCode(t, second(accounts.Register(ctx, "Ana", "a password")), messages.CodeInvalid)
	wantCode(t, second(accounts.Login(ctx, "ana", "wrong")), messages.CodeUnauthenticated)
	if _, err := accounts.Source("ana", "a password")(ctx); err != nil {
		t.Errorf("login: %v", err)
	}
	wantCode(t, accounts.ChangePassword(ctx, token.Token, "wrong", "new password"), messages.CodeForbidden)
	if err := accounts.ChangePassword(ctx, token.Token, "a password", "new password"); err != nil {
		t.Errorf("change password: %v", err)
	}
	wantCode(t, second(accounts.Devices(ctx, "forged")), messages.CodeUnauthenticated)
	devices, err := accounts.Devices(ctx, token.Token)
	if err != nil || len(devices) != 0 {
		t.Errorf("devices: %v, %v", devices, err)
	}
	if err := accounts.SignOut(ctx, token.Token, client.EveryDevice); err != nil {
		t.Errorf("sign out: %v", err)
	}
	if err := accounts.DeleteAccount(ctx, token.Token); err != nil {
		t.Errorf("delete: %v", err)
	}
	wantCode(t, second(accounts.Login(ctx, "ana", "new password")), messages.CodeUnauthenticated)
}

func second[T any](_ T, err error) error { return err }

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	var f *messages.Failure
	if !errors.As(err, &f) || f.Code != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

func TestRefusalsWithoutABodyHaveACode(t *testing.T) {
	for status, code := range map[int]string{
		401: messages.CodeUnauthenticated, 403: messages.CodeForbidden, 404: messages.CodeNotFound,
		405: messages.CodeNotFound, 413: messages.CodeTooLarge, 429: messages.CodeRateLimited,
		502: messages.CodeUnavailable, 503: messages.CodeUnavailable, 418: messages.CodeInternal,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3")
			http.Error(w, "<html>", status)
		}))
		_, err := client.Accounts{Server: server.URL}.Login(context.Background(), "ana", "a password")
		wantCode(t, err, code)
		var f *messages.Failure
		if errors.As(err, &f) && f.RetryAfter != 3*time.Second {
			t.Errorf("%d: retry after %v", status, f.RetryAfter)
		}
		server.Close()
	}
}

func TestSignedOutDeviceGetsANewToken(t *testing.T) {
	inWorld(t, func(w *world) {
		bo := w.start("bo", nil)
		time.Sleep(time.Second)
		w.only("bo").Close(messages.CloseUnauthenticated, "signed out")
		w.server.Revoke("bo")
		time.Sleep(time.Minute)
		if bo.tokensGot() != 2 || bo.Stats().Connects != 2 {
			t.Errorf("%d tokens, %d connects, want 2 and 2", bo.tokensGot(), bo.Stats().Connects)
		}
	})
}

func TestWrongServerIsTheEnd(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	c, err := client.New(client.Options{
		Server: server.URL, Device: "d",
		Token: func(context.Context) (string, error) { return "t", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	var closed *client.Closed
	if err := c.Run(context.Background()); !errors.As(err, &closed) {
		t.Errorf("Run returned %v", err)
	}
}

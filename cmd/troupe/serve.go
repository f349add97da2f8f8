package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/troupe-chat/troupe/cmd/troupe/node"
	"github.com/troupe-chat/troupe/gateway/accounts"
)

// serve runs a node until ctx ends or it fails.
func serve(ctx context.Context, c Config, e env) error {
	cfg, err := c.node(e)
	if err != nil {
		return err
	}
	n, err := node.Start(ctx, cfg)
	if err != nil {
		return mistake("%v", err)
	}
	fmt.Fprintf(e.out, "troupe %s\n  clients  %s\n  console  %s\n", versionText(), n.ClientURL(), n.AdminURL())
	fmt.Fprintf(e.out, "  chat     troupe chat --server %s --user NAME\n", n.ClientURL())
	var failure error
	select {
	case <-ctx.Done():
	case failure = <-n.Failed():
	}
	cfg.Logger.Info("stopping", "grace", c.Grace)
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Grace*4/5)
	defer cancel()
	if err := n.Stop(ending); err != nil {
		cfg.Logger.Warn("stopping", "error", err)
	}
	return failure
}

// node is the part of the configuration that makes a node.
func (c Config) node(e env) (node.Config, error) {
	limits := c.EffectiveLimits()
	cfg := node.Config{
		Name: c.Name, Dir: strings.TrimPrefix(c.Store, "pebble:"), Listen: c.Listen, Admin: c.Admin,
		Actors: c.Actors, Advertise: c.Advertise, Version: versionText(),
		TLSCert: c.TLSCert, TLSKey: c.TLSKey, Origins: c.Origins,
		Accounts: accounts.Config{
			TokenKey: c.TokenKey, MakeKey: c.MakeTokenKey, Registration: c.Registration,
			LimitsOff: !c.RateLimits, TrustProxy: c.TrustProxy,
		},
		Limits: limits, IdleAfter: c.IdleAfter, Logger: c.Logger(e.err),
	}
	if c.Issuer != "" {
		cfg.Accounts.Issuer = &accounts.Issuer{Issuer: c.Issuer, JWKS: c.JWKS, Audience: c.Audience}
	}
	var err error
	if cfg.AdminToken, err = secret("admin-token-file", c.AdminFile); err != nil {
		return cfg, err
	}
	if c.Hook != "" {
		key, err := secret("hook-secret", c.HookSecret)
		if err != nil {
			return cfg, err
		}
		cfg.Hook = &node.Hook{URL: c.Hook, Secret: []byte(key)}
	}
	return cfg, nil
}

// secret reads a file that holds one secret; no file is no secret.
func secret(name, file string) (string, error) {
	if file == "" {
		return "", nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", mistake("%s: %v", name, err)
	}
	if b = bytes.TrimSpace(b); len(b) == 0 {
		return "", mistake("%s %s is empty: it must hold the secret", name, file)
	}
	return string(b), nil
}

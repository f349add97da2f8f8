package node

import (
	"context"

	"github.com/troupe-chat/troupe/gateway"
	"github.com/troupe-chat/troupe/messages"
)

// startHook begins to tell the webhook of entries that wait, where there is
// one.
func (n *Node) startHook(context.Context) error {
	if n.cfg.Hook == nil {
		return nil
	}
	n.hook = gateway.NewHook(gateway.HookConfig{
		URL: n.cfg.Hook.URL, Secret: n.cfg.Hook.Secret, Store: n.store, Now: n.cfg.Now, Logger: n.log,
		Connected: func(u messages.UserID) bool { return len(n.env.Routes.Of(u)) > 0 },
	})
	n.env.Hooks = n.hook
	return nil
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// leaveWithin bounds the provider's farewell when Stop's context is over.
const leaveWithin = time.Second

// quiet lets Stop wait for the last activation.
type quiet struct{ changed chan struct{} }

// wake tells that a kind has no activation left. It never blocks.
func (q *quiet) wake() {
	select {
	case q.changed <- struct{}{}:
	default:
	}
}

// Stop ends the node: every activation handles what waits for it, gets
// *actor.Stopping and *actor.Stopped, and then the actors' port and the system
// go. From its beginning no activation is begun. Where ctx is over first, Stop
// no longer waits for the activations and says how many there were. Calling it
// again waits for the first call and returns its error.
func (n *Node) Stop(ctx context.Context) error {
	n.stop.Do(func() {
		n.stopErr = n.shutDown(ctx)
		close(n.stopped)
	})
	select {
	case <-n.stopped:
		return n.stopErr
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *Node) shutDown(ctx context.Context) error {
	n.stopping.Store(true)
	n.wheel.end()
	err := n.endActivations(ctx)
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWithin)
	defer cancel()
	if left := n.config.Provider.Leave(bye); left != nil {
		err = errors.Join(err, fmt.Errorf("leaving the cluster: %w", left))
	}
	n.disconnect()
	n.system.Shutdown()
	if n.live() == 0 { // else its goroutine hangs, and would be waited for
		n.crew.Close()
	}
	return err
}

func (n *Node) endActivations(ctx context.Context) error {
	n.order(stopOrder, func(*activation) bool { return true })
	for {
		live := n.live()
		if live == 0 {
			return nil
		}
		select {
		case <-n.quiet.changed:
		case <-ctx.Done():
			return fmt.Errorf("stopping %d activations: %w", live, ctx.Err())
		}
	}
}

// order queues o for the activations that concerns names.
func (n *Node) order(o *order, concerns func(*activation) bool) {
	for _, k := range n.kinds {
		k.each(func(a *activation) {
			if concerns(a) {
				a.push(&node{msg: o})
			}
		})
	}
}

func (n *Node) live() int {
	live := 0
	for _, k := range n.kinds {
		live += int(k.live.Load())
	}
	return live
}

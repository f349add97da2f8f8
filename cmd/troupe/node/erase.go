package node

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/troupe-chat/troupe/messages"
	"github.com/troupe-chat/troupe/persistence"
)

// How deleted users are erased: one after another, and one conversation of
// theirs after another.
const (
	eraseQueue   = 64               // users told of and not begun; more are found again
	eraseWithin  = 10 * time.Minute // one conversation; it goes on with the next time
	eraseRetry   = time.Minute
	accountsPage = 100
)

// deletions are the users whose erasure is to begin.
type deletions struct {
	queue  chan messages.UserID
	missed atomic.Bool // some are not in the queue: the accounts tell which
}

func newDeletions() *deletions {
	return &deletions{queue: make(chan messages.UserID, eraseQueue)}
}

// erase begins to retract what a deleted user wrote. It never blocks: the
// account stays noted as not erased until that is done, so a user that finds
// no room is found again.
func (n *Node) erase(_ context.Context, user messages.UserID) {
	select {
	case n.deletions.queue <- user:
	default:
		n.deletions.missed.Store(true)
	}
}

// eraseDeleted erases users as they are deleted, and first those whose erasure
// was cut short. It looks through the accounts again only while it has missed
// some.
func (n *Node) eraseDeleted() {
	n.eraseRest()
	retry := time.NewTicker(eraseRetry)
	defer retry.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case user := <-n.deletions.queue:
			n.eraseUser(user)
		case <-retry.C:
			if n.deletions.missed.Swap(false) {
				n.eraseRest()
			}
		}
	}
}

// eraseRest erases every deleted user that is not erased.
func (n *Node) eraseRest() {
	for after, more := messages.UserID(""), true; more; {
		page, err := n.store.Accounts(n.ctx, after, accountsPage)
		if err != nil {
			n.eraseLater("", err)
			return
		}
		for _, a := range page {
			if a.Deleted && !a.Erased {
				n.eraseUser(a.User)
			}
			after = a.User
		}
		more = len(page) == accountsPage
	}
}

// eraseUser has every conversation that a user has ever been in take back what
// it wrote there. One that fails does not keep the others.
func (n *Node) eraseUser(user messages.UserID) {
	intervals, err := n.store.Memberships(n.ctx, user)
	for i, m := range intervals {
		if i == 0 || m.Conversation != intervals[i-1].Conversation {
			err = errors.Join(err, n.eraseIn(user, m.Conversation))
		}
	}
	if err == nil {
		err = n.store.UpdateAccount(n.ctx, user, func(a *persistence.Account) error {
			a.Erased = true
			return nil
		})
	}
	if err != nil {
		n.eraseLater(user, err)
		return
	}
	n.log.Info("account erased", "user", user)
}

// eraseIn waits until the conversation's actor finds nothing of user left.
func (n *Node) eraseIn(user messages.UserID, c messages.ConversationID) error {
	ctx, cancel := context.WithTimeout(n.ctx, eraseWithin)
	defer cancel()
	_, err := n.cluster.Request(ctx, c.ActorKind(), string(c), &messages.Erase{User: string(user)})
	if err != nil {
		return fmt.Errorf("erasing in %s: %w", c, err)
	}
	return nil
}

func (n *Node) eraseLater(user messages.UserID, err error) {
	n.deletions.missed.Store(true)
	if n.ctx.Err() == nil {
		n.log.Warn("erasing a deleted account; tried again", "user", user, "error", err)
	}
}

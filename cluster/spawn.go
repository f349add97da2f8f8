package cluster

import (
	"strconv"
	"sync"

	"github.com/asynkron/protoactor-go/actor"
)

// spawner makes protoactor run lives. All its lives share one Props: with a
// Props for each, an idle activation would take half as much memory again. One
// goroutine has it at a time, and next is the life that it is starting.
type spawner struct {
	props *actor.Props
	next  *life
}

func newSpawner() any {
	s := &spawner{}
	s.props = actor.PropsFromProducer(
		func() actor.Actor { return s.next },
		actor.WithMailbox(func() actor.Mailbox { return s.next }),
	)
	return s
}

var spawners = sync.Pool{New: newSpawner}

// spawn starts l under a name that no other life ever has: a PID that outlived
// its life must not reach another one.
func (n *Node) spawn(l *life) {
	s := spawners.Get().(*spawner)
	defer spawners.Put(s)
	s.next = l
	for {
		name := l.a.kind.name + "/" + l.a.identity + "@" + strconv.FormatUint(n.lives.Add(1), 36)
		// The one error there is says that the name is taken.
		if _, err := n.system.Root.SpawnNamed(s.props, name); err == nil {
			s.next = nil
			return
		}
	}
}

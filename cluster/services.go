package cluster

import (
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"
)

// services are the handlers of this node that are no virtual actors.
type services struct{ m sync.Map } // name → func(proto.Message)

// Serve registers the handler of a service, in place of an earlier one. It
// runs on the sender's goroutine, any number of times at once, and must not
// block. No kind may have the same name.
func (n *Node) Serve(service string, handler func(m proto.Message)) {
	n.services.m.Store(service, handler)
}

func (s *services) of(name string) func(proto.Message) {
	handler, ok := s.m.Load(name)
	if !ok {
		return nil
	}
	return handler.(func(proto.Message))
}

// TellService hands m to a service of the node with that name: on this node by
// a direct call. m must not be changed afterwards.
func (n *Node) TellService(node, service string, m proto.Message) error {
	if node != n.config.Name {
		return n.tellRemoteService(node, service, m)
	}
	handler := n.services.of(service)
	if handler == nil {
		return fmt.Errorf("%w: %q", ErrUnknownService, service)
	}
	handler(m)
	return nil
}

func (n *Node) tellRemoteService(node, service string, m proto.Message) error {
	member, ok := n.placement.Load().named(node)
	if !ok {
		return fmt.Errorf("%w: %q", ErrUnknownNode, node)
	}
	return n.send(member, service, "", m)
}

// Package cluster is a node: the actor system it runs, which of the cluster's
// virtual actors live on it, and how it is told apart from the others. It knows
// nothing of conversations; messages pass through it as they are.
//
// A virtual actor is a kind and an identity. Telling it something makes it
// live: its owner, the member that the hash of both belongs to, begins an
// activation. What it is told is queued at the activation and handled by one
// life at a time. A life ends when it is idle and leaves, when it panics, when
// it is stopped, or when its partition moves; what waits then is handled by the
// next life, here or there, in order. Nothing that was told to an identity is
// lost by an end, but for the message that a life panicked on. What was sent to
// a PID was meant for one life, and becomes a dead letter with it: the outcome
// of something that a life began must not reach its successor.
//
// Between nodes a message may be lost, with the link or at a member that does
// not own the target by its own view. What matters is answered, and asked again.
//
//	node.go       Config, Node, Start, Tell
//	placement.go  which member owns which identity
//	kind.go       the table of activations, in sectors
//	activation.go an identity's place in the table, its queue and counts
//	life.go       one running behaviour: protoactor's mailbox and actor in one
//	queue.go      the mailbox's queue
//	spawn.go      how protoactor is made to run a life
//	idle.go       the wheel that finds idle activations
//	request.go    asking and being answered
//	services.go   a node's handlers that are no virtual actors
//	inspect.go    what operators see
//	provider.go   who is in the cluster
//	lookup.go     the table, as protoactor's cluster sees it
//	remote.go     the actors' port
//	guard.go      what is let in there
//	link.go       the ways to other members
//	log.go        protoactor's logging, without contents
//	stop.go       the end
//
// Protoactor runs the actors: contexts, PIDs, watching, children, futures. Its
// cluster is there with this package's lookup, provider and context, so that
// what asks it finds the same activations. Its own start is not used: it brings
// gossip and topics, whose messages the port refuses, and waits for a second.
// Nor are its member list, which never takes back who was gone once, and its
// remote: starting that replaces the process's gRPC logger while others use it,
// stopping it may panic, and its reader hands on what anyone sends. The actors'
// port speaks its protocol all the same.
//
// What is known to go wrong with protoactor, what is done about it, and the
// test that fails without it:
//
//   - An activation by a node that is no owner stays for good. The owner's own
//     view decides, under the lock of the table: Node.mayBegin,
//     TestNotOwnerIsRefusedByItsOwnView.
//   - Neighbouring addresses get unequal shares. Stable names, a finalised
//     64-bit hash and a limit on each share: placement.go,
//     TestPlacementIsBalanced, TestPlacementMovesLittle, TestHashSpreads.
//   - A stranger's message ends the process or an actor. Only envelopes for the
//     node are opened, and nothing in them makes that fail: guard.go,
//     TestAttacksOnTheActorsPort, TestProcessesAreNotListed, TestStrangeStreams,
//     TestBeyondLoopbackNeedsTLS, TestNodesTrustOneAuthorityOnly.
//   - What waits behind an end vanishes. The queue outlives the life:
//     activation.settle, TestWhatIsBehindTheEndGoesToTheNextActivation,
//     TestPassivationLosesNothingAndKeepsOrder, TestWhatWaitsMovesAlong.
//   - A stale PID swallows what it is told, or reaches a stranger. PIDs are
//     never used again and their letters are dead letters; identities are looked
//     up each time: spawn.go, TestAPIDReachesOneLifeOnly.
//   - Requests retry in no time, for ever on nil, and share their options:
//     request.go, TestRequestIsMadeAgain, TestRequestGivesUp,
//     TestANilReplyIsAnErrorAtOnce, TestOptionsAreOfOneCallOnly.
//   - Stopping many activations stops new ones from beginning. Each is taken out
//     of its sector alone: kind.release, BenchmarkComeAndGo.
//   - A receive timeout races with its actor, and costs memory: idle.go,
//     TestAnIdleActivationLeaves, TestTheWheelTurnsByItself.
//   - Mailboxes grow without bound, or block who tells. Their depth is counted
//     for whoever admits work (Activations); links to members have an end:
//     TestALinkIsBounded.
//   - A burst leaves its memory behind: queue.go and sector.remove,
//     TestABurstLeavesNothing, TestTheTableShrinks,
//     TestActivationsAreSmallAndLeaveNothingBehind. Protoactor's registry keeps
//     about 100 bytes for each activation of the largest crowd it has seen.
//   - A member that was gone is never taken back, and one that was taken out
//     goes on serving: provider.go, TestANodeThatIsNoMemberServesNothing.
//   - A peer costs 16 MB before its first message, and is never asked whether it
//     is there: link.go has a queue of 4,096, remote.go keepalives. Logs have
//     contents: log.go, TestProtoactorsLogIsRedacted.
//   - The mailbox gauge never reports and metrics are slow: the counts of
//     activation.go, TestActivations.
//   - A failure restarts in place and loses its message only. A life that panics
//     is over: life.Receive, TestAFailureIsItsActivationsOwn,
//     TestAKindThatFailsToBeginDropsOneMessageEach,
//     TestAPanicInAContinuationEndsTheActivation.
//   - Looking activates, and behaviours are made on one actor for all. Looking
//     reads the table, and a behaviour is made on its own goroutine: inspect.go,
//     TestLookingNeverActivates, life.Receive.
//   - Looking races with changes of the members, and stopping panics:
//     TestMembersChangeUnderLoad, TestStopWithPeersConnected.
package cluster

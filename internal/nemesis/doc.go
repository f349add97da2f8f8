// Package nemesis attacks running servers and judges what their clients saw.
//
// A Server is a real process that is killed, paused and started again on the
// same ports and data. A Crowd is the devices of many users: each keeps coming
// back by itself with the positions it has, sends again what was not answered,
// and keeps a tape for package history. When the attack is over the Crowd stops
// sending, waits until every device has what is due to it, reads the logs, and
// returns every promise that was broken.
//
// Nothing here waits for a time to pass where it can wait for an event: a
// round ends when so many sends were acknowledged, a crash when its point is
// reached. All choices follow from one seed.
//
// The short run is part of go test. The whole one, with power loss, needs root
// and loop devices:
//
//	go test -tags nemesis -timeout 30m ./internal/nemesis -v -seed 7
package nemesis

//go:build linux && !nemesis

package nemesis

// How long the runs are that go test makes.
const (
	killRounds  = 5
	roundSends  = 400
	pointRounds = 1
	stopSeconds = 3
	termRounds  = 1
)

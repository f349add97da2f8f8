//go:build linux && nemesis

package nemesis

// How long the whole runs are.
const (
	killRounds  = 30
	roundSends  = 1500
	pointRounds = 6
	stopSeconds = 20
	termRounds  = 5
	powerRounds = 10
)

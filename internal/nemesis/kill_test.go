//go:build linux

package nemesis

import "testing"

// Promises 1 to 5: a server that is killed under load, again and again, at
// times while it starts, loses nothing that it acknowledged.
func TestKilledUnderLoad(t *testing.T) {
	r := newRun(t, t.TempDir(), true)
	r.pairs(20)
	r.begin()
	for range killRounds {
		r.acknowledged(1 + r.rng.IntN(roundSends))
		check(r, r.server.Kill())
		for r.rng.IntN(3) == 0 {
			r.launch()
			check(r, r.server.Kill())
		}
		r.start()
	}
	r.acknowledged(roundSends)
	r.sound(killRounds)
}

// The control: of a node that acknowledges before it writes, the same run must
// find what is lost.
func TestKilledWithADiskThatLies(t *testing.T) {
	r := newRun(t, t.TempDir(), false)
	r.config.Lie = true
	r.pairs(4)
	r.begin()
	r.acknowledged(200)
	check(r, r.server.Kill())
	r.config.Lie = false
	r.start()
	r.acknowledged(20)
	if v := r.verdict(); v.Lost() == 0 {
		t.Errorf("nothing lost was found: the check is blind; it found %v", v.Err())
	}
}

//go:build linux

package load

import (
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// keptViolations bounds how many violations are described; all are counted.
const keptViolations = 20

// tally is what one loop counts. Rates and latencies are those of the measured
// window, from ≤ t < to; correctness is judged over the whole run.
type tally struct {
	from, to time.Duration
	busy     float64 // share of the window

	acked, delivered            int64 // within the window
	attempts, ackedAll          int64
	unanswered                  int64
	refused                     map[string]int64 // by error code
	disconnects                 int64
	lost, duplicated, reordered int64
	receiptsBack                int64
	violations                  []string
	latency, latencyRaw         *hdrhistogram.Histogram // µs
	sentLatency, sentLatencyRaw *hdrhistogram.Histogram // µs
	lag                         *hdrhistogram.Histogram // µs behind schedule
}

func newTally() *tally {
	return &tally{
		refused:        make(map[string]int64),
		latency:        newHistogram(),
		latencyRaw:     newHistogram(),
		sentLatency:    newHistogram(),
		sentLatencyRaw: newHistogram(),
		lag:            newHistogram(),
	}
}

// newHistogram holds 1 µs to 10 minutes with an error below 0.1 %.
func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, 600_000_000, 3) }

func record(h *hdrhistogram.Histogram, d time.Duration) {
	// Values beyond the range count as its end.
	_ = h.RecordValue(min(max(d.Microseconds(), 1), h.HighestTrackableValue()))
}

func (t *tally) measures(at time.Duration) bool { return t.from <= at && at < t.to }

// delivery counts an entry at a recipient's socket.
func (t *tally) delivery(now time.Duration, s stamp) {
	if t.measures(now) {
		t.delivered++
	}
	if t.measures(s.due) {
		t.latencies(t.latency, t.latencyRaw, now, s)
	}
}

// answer counts a sent.
func (t *tally) answer(now time.Duration, s stamp) {
	t.ackedAll++
	if t.measures(now) {
		t.acked++
	}
	if t.measures(s.due) {
		t.latencies(t.sentLatency, t.sentLatencyRaw, now, s)
	}
}

func (t *tally) latencies(corrected, raw *hdrhistogram.Histogram, now time.Duration, s stamp) {
	record(corrected, now-s.due)
	record(raw, now-s.due-s.late)
}

// violation counts one in what, and describes the first few.
func (t *tally) violation(what *int64, format string, args ...any) {
	*what++
	if len(t.violations) < keptViolations {
		t.violations = append(t.violations, fmt.Sprintf(format, args...))
	}
}

// merge adds o to t.
func (t *tally) merge(o *tally) {
	t.acked += o.acked
	t.delivered += o.delivered
	t.attempts += o.attempts
	t.ackedAll += o.ackedAll
	t.unanswered += o.unanswered
	t.disconnects += o.disconnects
	t.lost += o.lost
	t.duplicated += o.duplicated
	t.reordered += o.reordered
	t.receiptsBack += o.receiptsBack
	t.violations = append(t.violations, o.violations...)
	for code, n := range o.refused {
		t.refused[code] += n
	}
	t.latency.Merge(o.latency)
	t.latencyRaw.Merge(o.latencyRaw)
	t.sentLatency.Merge(o.sentLatency)
	t.sentLatencyRaw.Merge(o.sentLatencyRaw)
	t.lag.Merge(o.lag)
	t.busy = max(t.busy, o.busy)
}

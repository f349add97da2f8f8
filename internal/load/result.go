//go:build linux

package load

import (
	"math"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what one run found. Rates are per second of the measured window;
// correctness is that of the whole run, warm-up and settling included.
type Result struct {
	Scenario string  `json:"scenario"`
	Seconds  float64 `json:"seconds"` // of the measured window
	Clients  int     `json:"clients"`
	Rate     float64 `json:"rate,omitempty"`     // offered, in an open loop
	Inflight int     `json:"inflight,omitempty"` // in a closed one

	SentPerS      float64 `json:"sent_per_s"`      // acknowledged sends
	DeliveredPerS float64 `json:"delivered_per_s"` // entries at recipients' sockets

	Attempts   int64            `json:"attempts"`
	Acked      int64            `json:"acked"`
	Unanswered int64            `json:"unanswered"`
	Refused    map[string]int64 `json:"refused,omitempty"` // by error code

	Lost         int64    `json:"lost"`       // acknowledged, and a connected member never got it
	Duplicated   int64    `json:"duplicated"` // twice at one socket, or one send at two seqs
	Reordered    int64    `json:"reordered"`  // beyond a gap, or other than at another device
	ReceiptsBack int64    `json:"receipts_back"`
	Disconnects  int64    `json:"disconnects"`
	Violations   []string `json:"violations,omitempty"` // the first few

	Latency        Latency `json:"latency_ms"`      // from when it was due to the recipient's socket
	LatencyRaw     Latency `json:"latency_raw_ms"`  // from when it was sent
	SentLatency    Latency `json:"sent_latency_ms"` // to the sender's answer
	SentLatencyRaw Latency `json:"sent_latency_raw_ms"`

	Drain     *DrainResult `json:"drain,omitempty"`
	Server    ServerUse    `json:"server"`
	Generator GeneratorUse `json:"generator"`
}

// Latency is quantiles in milliseconds.
type Latency struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// DrainResult is how long a device took to catch up.
type DrainResult struct {
	Entries       int     `json:"entries"`
	Conversations int     `json:"conversations"`
	Seconds       float64 `json:"seconds"`       // from dialling to the last entry
	FirstSeconds  float64 `json:"first_seconds"` // from dialling to the first entry
	CaughtUp      float64 `json:"caught_up_s"`   // from dialling to caught_up, 0 without one
	EntriesPerS   float64 `json:"entries_per_s"`
}

// ServerUse is what the server process used; zeros where it was not watched.
type ServerUse struct {
	RSSBytes           int64   `json:"rss_bytes"`            // at the end of the window
	CPU                float64 `json:"cpu"`                  // cores
	CPUPerMessage      float64 `json:"cpu_us_per_message"`   // per entry delivered
	BytesPerConnection float64 `json:"bytes_per_connection"` // resting, more than before they connected
}

// GeneratorUse tells whether the generator was the bottleneck.
type GeneratorUse struct {
	CPU       float64 `json:"cpu"`    // cores
	Lag       float64 `json:"lag_ms"` // behind schedule, p99
	LagMax    float64 `json:"lag_max_ms"`
	Busy      float64 `json:"busy"` // share of the window in which its busiest loop did not wait
	Saturated bool    `json:"saturated"`
}

// Correct reports whether the run saw no violation.
func (r *Result) Correct() bool {
	return r.Lost == 0 && r.Duplicated == 0 && r.Reordered == 0 && r.ReceiptsBack == 0
}

// A generator is the bottleneck when it sends this late, or when a loop hardly
// ever waits.
const (
	saturatedLag  = 5 * time.Millisecond
	saturatedBusy = 0.95
)

func (g *GeneratorUse) judge() {
	g.Saturated = g.Lag > ms(saturatedLag) || g.Busy > saturatedBusy
}

func (r *Result) count(t *tally, window time.Duration) {
	r.Seconds = window.Seconds()
	r.SentPerS = perSecond(t.acked, window)
	r.DeliveredPerS = perSecond(t.delivered, window)
	r.Attempts, r.Acked, r.Unanswered, r.Refused = t.attempts, t.ackedAll, t.unanswered, t.refused
	r.Lost, r.Duplicated, r.Reordered = t.lost, t.duplicated, t.reordered
	r.ReceiptsBack, r.Disconnects = t.receiptsBack, t.disconnects
	r.Violations = t.violations[:min(len(t.violations), keptViolations)]
	r.Latency, r.LatencyRaw = quantiles(t.latency), quantiles(t.latencyRaw)
	r.SentLatency, r.SentLatencyRaw = quantiles(t.sentLatency), quantiles(t.sentLatencyRaw)
	r.Generator.Lag = float64(t.lag.ValueAtQuantile(99)) / 1000
	r.Generator.LagMax = float64(t.lag.Max()) / 1000
	r.Generator.Busy = t.busy
	r.Generator.judge()
}

func perSecond(n int64, d time.Duration) float64 { return math.Round(float64(n) / d.Seconds()) }

func quantiles(h *hdrhistogram.Histogram) Latency {
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
	return Latency{P50: at(50), P95: at(95), P99: at(99), Max: float64(h.Max()) / 1000}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

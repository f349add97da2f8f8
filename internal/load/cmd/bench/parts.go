//go:build linux

package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/troupe-chat/troupe/internal/load"
)

// part is some steps that share a server process.
type part struct {
	name  string
	relay bool // whether the relay can do it
	steps func(o *options) []step
}

// step is one measurement.
type step struct {
	name   string
	figure string // what is compared
	unit   string
	value  func(*load.Result) float64
	run    func(ctx context.Context, cfg load.Config) (*load.Result, error)
}

// row is what a step found, for both servers.
type row struct {
	Step   string       `json:"step"`
	Figure string       `json:"figure"`
	Unit   string       `json:"unit"`
	Troupe *load.Result `json:"troupe,omitempty"`
	Relay  *load.Result `json:"relay,omitempty"`

	value func(*load.Result) float64
}

var parts = []part{
	{"pairs", true, pairSteps},
	{"group", false, groupSteps},
	{"drain", false, drainSteps},
	{"latency", true, latencySteps},
	{"idle", true, idleSteps},
}

func pairSteps(o *options) []step {
	var steps []step
	for _, inflight := range []int{1, 8, 32} {
		steps = append(steps, step{
			name:   fmt.Sprintf("%d pairs, %d in flight", o.pairs, inflight),
			figure: "delivered", unit: "/s", value: delivered,
			run: func(ctx context.Context, cfg load.Config) (*load.Result, error) {
				cfg.Pairs, cfg.Inflight = o.pairs, inflight
				return load.Run(ctx, cfg)
			},
		})
	}
	return steps
}

func groupSteps(o *options) []step {
	return []step{{
		name:   fmt.Sprintf("a group of %d, %d in flight", o.group, o.groupIn),
		figure: "delivered", unit: "/s", value: delivered,
		run: func(ctx context.Context, cfg load.Config) (*load.Result, error) {
			cfg.Groups, cfg.GroupSize, cfg.Inflight = 1, o.group, o.groupIn
			return load.Run(ctx, cfg)
		},
	}}
}

func drainSteps(o *options) []step {
	var steps []step
	for _, conversations := range []int{1, 20} {
		steps = append(steps, step{
			name:   fmt.Sprintf("drain of %d over %d", o.entries, conversations),
			figure: "time", unit: " s", value: func(r *load.Result) float64 { return r.Drain.Seconds },
			run: func(ctx context.Context, cfg load.Config) (*load.Result, error) {
				cfg.Prefix += fmt.Sprint("-", conversations)
				return load.Drain(ctx, load.DrainConfig{Config: cfg, Entries: o.entries, Conversations: conversations})
			},
		})
	}
	return steps
}

func latencySteps(o *options) []step {
	var steps []step
	for _, rate := range []float64{1000, 6000} {
		steps = append(steps, step{
			name:   fmt.Sprintf("%d pairs at %g/s", o.pairs, rate),
			figure: "p99", unit: " ms", value: func(r *load.Result) float64 { return r.Latency.P99 },
			run: func(ctx context.Context, cfg load.Config) (*load.Result, error) {
				cfg.Pairs, cfg.Rate = o.pairs, rate
				return load.Run(ctx, cfg)
			},
		})
	}
	return steps
}

func idleSteps(o *options) []step {
	return []step{{
		name:   fmt.Sprintf("%d idle connections", o.idle),
		figure: "RSS", unit: " B each", value: func(r *load.Result) float64 { return r.Server.BytesPerConnection },
		run: func(ctx context.Context, cfg load.Config) (*load.Result, error) {
			cfg.Idle = o.idle
			return load.Run(ctx, cfg)
		},
	}}
}

func delivered(r *load.Result) float64 { return r.DeliveredPerS }

// run measures the steps on one server after the other.
func (p part) run(ctx context.Context, o *options, dir string) ([]row, error) {
	steps := p.steps(o)
	rows := make([]row, len(steps))
	for i, s := range steps {
		rows[i] = row{Step: s.name, Figure: s.figure, Unit: s.unit, value: s.value}
	}
	if o.server != "" {
		results, err := measure(ctx, o, steps, func() (*server, error) { return startTroupe(ctx, o.server, filepath.Join(dir, "troupe")) })
		if err != nil {
			return nil, fmt.Errorf("troupe: %w", err)
		}
		for i := range rows {
			rows[i].Troupe = results[i]
		}
	}
	if o.relay && p.relay {
		results, err := measure(ctx, o, steps, func() (*server, error) { return startRelay(ctx, filepath.Join(dir, "relay")) })
		if err != nil {
			return nil, fmt.Errorf("relay: %w", err)
		}
		for i := range rows {
			rows[i].Relay = results[i]
		}
	}
	return rows, nil
}

// measure runs steps on a server of their own.
func measure(ctx context.Context, o *options, steps []step, start func() (*server, error)) (results []*load.Result, err error) {
	s, err := start()
	if err != nil {
		return nil, err
	}
	defer func() {
		if stopErr := s.stop(); err == nil {
			err = stopErr
		}
	}()
	for i, step := range steps {
		cfg := s.config(o)
		stopProfile := s.profile(ctx, o, fmt.Sprintf("%s-%d", s.name, i))
		r, err := step.run(ctx, cfg)
		stopProfile()
		if err != nil {
			return nil, fmt.Errorf("%s: %w%s", step.name, err, s.lastWords())
		}
		results = append(results, r)
	}
	return results, nil
}

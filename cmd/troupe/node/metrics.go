package node

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// metrics are the node's figures for Prometheus, read when they are asked for.
func (n *Node) metrics() prometheus.Gatherer {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	gauge := func(name, help string, f func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "troupe", Name: name, Help: help}, f))
	}
	counter := func(name, help string, f func() float64) {
		r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "troupe", Name: name, Help: help}, f))
	}
	g, a := &n.gateway.Metrics, n.env.Metrics
	gauge("connections", "Client connections.", func() float64 { return float64(g.Connections.Load()) })
	counter("accepted_total", "Client connections accepted.", func() float64 { return float64(g.Accepted.Load()) })
	counter("frames_in_total", "Frames from clients.", func() float64 { return float64(g.FramesIn.Load()) })
	counter("delivered_total", "Entries handed to sockets by deliver frames.", func() float64 { return float64(g.Delivered.Load()) })
	counter("sent_total", "Entries answered by sent frames.", func() float64 { return float64(g.Sent.Load()) })
	counter("hinted_total", "Entries handed to sockets without reading the log.", func() float64 { return float64(g.Hints.Load()) })
	counter("delivery_reads_total", "Reads of the log by delivery loops.", func() float64 { return float64(g.Reads.Load()) })
	counter("refused_total", "Commands answered rate_limited or overloaded.", func() float64 { return float64(g.Refused.Load()) })
	counter("appends_total", "Batches appended by conversations.", func() float64 { return float64(a.Appends.Load()) })
	counter("entries_total", "Entries appended.", func() float64 { return float64(a.Entries.Load()) })
	counter("duplicates_total", "Retried commands that found their entry.", func() float64 { return float64(a.Duplicates.Load()) })
	counter("append_conflicts_total", "Appends that lost the compare-and-set.", func() float64 { return float64(a.Conflicts.Load()) })
	counter("append_unknown_total", "Appends issued again because their outcome was not known.", func() float64 { return float64(a.Unknown.Load()) })
	counter("append_failed_total", "Appends that the store refused.", func() float64 { return float64(a.Failed.Load()) })
	counter("store_writes_total", "Durable writes asked for and done.", func() float64 { return float64(n.disk.Stats().Writes) })
	counter("store_commits_total", "Groups of writes, each with a share of one fsync.", func() float64 { return float64(n.disk.Stats().Commits) })
	counter("store_bytes_total", "Bytes of keys and values written.", func() float64 { return float64(n.disk.Stats().Bytes) })
	r.MustRegister(actorCounts{n})
	return r
}

// actorCounts tells live activations by kind.
type actorCounts struct{ n *Node }

var actorsDesc = prometheus.NewDesc("troupe_actors", "Live activations.", []string{"kind"}, nil)

// Describe implements prometheus.Collector.
func (a actorCounts) Describe(ch chan<- *prometheus.Desc) { ch <- actorsDesc }

// Collect implements prometheus.Collector.
func (a actorCounts) Collect(ch chan<- prometheus.Metric) {
	for kind, n := range a.n.cluster.Counts() {
		ch <- prometheus.MustNewConstMetric(actorsDesc, prometheus.GaugeValue, float64(n), kind)
	}
}

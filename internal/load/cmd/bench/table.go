//go:build linux

package main

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

	"github.com/troupe-chat/troupe/internal/load"
)

// printRows prints one part: the figure that is compared and its ratio to the
// relay's, then what explains it.
func printRows(out io.Writer, part string, rows []row) {
	fmt.Fprintf(out, "\n%s\n", part)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "step\tserver\tfigure\tof relay\tp50 ms\tp99 ms\tsent p99\tserver cpu\tµs/msg\tRSS MB\tgen cpu\tbusy\tlag p99\tlost dup reord refused\t")
	for _, r := range rows {
		printResult(w, r, "troupe", r.Troupe)
		printResult(w, r, "relay", r.Relay)
	}
	w.Flush()
}

func printResult(w io.Writer, r row, server string, res *load.Result) {
	if res == nil {
		return
	}
	ratio := ""
	if server == "troupe" && r.Relay != nil && r.value(r.Relay) != 0 {
		ratio = fmt.Sprintf("%.2f", r.value(res)/r.value(r.Relay))
	}
	var refused int64
	for _, n := range res.Refused {
		refused += n
	}
	fmt.Fprintf(w, "%s\t%s\t%s%s\t%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.1f\t%d\t%.2f\t%.2f\t%.2f\t%d %d %d %d\t\n",
		r.Step, server, figure(r.value(res)), r.Unit, ratio,
		res.Latency.P50, res.Latency.P99, res.SentLatency.P99,
		res.Server.CPU, res.Server.CPUPerMessage, res.Server.RSSBytes>>20,
		res.Generator.CPU, res.Generator.Busy, res.Generator.Lag,
		res.Lost, res.Duplicated, res.Reordered, refused)
}

func figure(v float64) string {
	if v >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

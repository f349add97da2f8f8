//go:build race

package cluster

func init() { crowdSize = 20_000 }

package cluster

import cmap "github.com/orcaman/concurrent-map"

// Protoactor keeps its actors in 1,024 maps of 32 parts each. A part with one
// actor takes the memory of eight, so the parts go: 1,024 locks are enough.
func init() { cmap.SHARD_COUNT = 1 }

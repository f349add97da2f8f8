package pebble

import (
	"hash/maphash"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/troupe-chat/troupe/messages"
)

// blockPairs remembers which pairs may have a block between them, so that the
// many that have none need no look-up. A pair stays when its block ends: to
// remember one too many costs a look-up.
type blockPairs struct {
	seed  maphash.Seed
	mu    sync.RWMutex
	pairs map[uint64]struct{} // hashes of direct conversations; guarded by mu
}

func (b *blockPairs) add(u, other messages.UserID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pairs[b.hash(messages.Direct(u, other))] = struct{}{}
}

func (b *blockPairs) hash(c messages.ConversationID) uint64 {
	return maphash.String(b.seed, string(c))
}

// loadBlocks reads which pairs have a block.
func (s *Store) loadBlocks() error {
	s.pairs = blockPairs{seed: maphash.MakeSeed(), pairs: map[uint64]struct{}{}}
	prefix := table(tableBlock)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: prefix.end()})
	if err != nil {
		return err
	}
	defer it.Close()
	for valid := it.First(); valid; valid = it.Next() {
		k := fieldsOf(it.Key())
		u := k.name()
		s.pairs.add(messages.UserID(u), messages.UserID(k.text()))
	}
	return it.Error()
}

// Unblocked implements persistence.Log.
func (s *Store) Unblocked(c messages.ConversationID) bool {
	s.pairs.mu.RLock()
	defer s.pairs.mu.RUnlock()
	_, maybe := s.pairs.pairs[s.pairs.hash(c)]
	return !maybe
}

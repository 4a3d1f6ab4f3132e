package tlog

import (
	"context"
	"fmt"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// beginWith stores the first entries of a log that the operator made elsewhere:
// those of a successor, with its predecessor in the genesis and the producers that
// it takes over.
func (l *Log) beginWith(ctx context.Context, entries [][]byte) error {
	var ring *record.Keyring
	tree := tiles.NewWriter()
	b := &storage.Batch{Entries: entries}
	for i, entry := range entries {
		e, err := record.Parse(entry)
		switch {
		case err != nil:
		case i == 0 && e.Genesis != nil:
			ring, err = l.checkGenesis(e.Genesis)
		case i > 0 && newChange(e) != nil:
			err = newChange(e).apply(ring, uint64(i))
		default:
			err = fmt.Errorf("a %s", e.Kind)
		}
		if err != nil {
			return fmt.Errorf("%w: what the log is to begin with cannot be its entry %d: %w", ErrConfig, i, err)
		}
		tree.Append(e.Leaf)
		b.KeyChanges = append(b.KeyChanges, uint64(i))
	}
	if ring == nil {
		return fmt.Errorf("%w: what the log is to begin with is empty", ErrConfig)
	}
	for _, t := range append(tree.Complete(), tree.Partial()...) {
		b.Tiles = append(b.Tiles, storage.Tile(t))
	}
	b.Root = tree.Root()
	return l.config.Storage.Commit(ctx, b)
}

// checkOpen returns an error if the operator has closed the log.
func (s *sequencer) checkOpen() error {
	if c := s.log.ring.Closed(); c != nil { // the writer alone changes it
		return &ClosedError{c.Successor}
	}
	return nil
}

// former says where the records before those of a stream that is not known may be.
func (s *sequencer) former(size uint64) string {
	if p, ok := s.log.ring.Genesis.PredecessorHead(); ok && size == 0 {
		return fmt.Sprintf(" (those before may be in %s, from which this log goes on: give the proxy a spool directory of its own)", p.Origin)
	}
	return ""
}

package tlog

// Waiting is how many submissions wait for a checkpoint.
func (l *Log) Waiting() int64 { return l.waiting.Load() }

// EdgeSize is the size of the tree whose right edge proofs share.
func (l *Log) EdgeSize() uint64 { return l.cache.EdgeSize() }

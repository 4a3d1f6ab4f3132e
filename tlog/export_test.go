package tlog

import "time"

// SetBodyPatience sets how long a body may take to come while there is no room.
func (l *Log) SetBodyPatience(d time.Duration) {
	l.bodies.mu.Lock()
	defer l.bodies.mu.Unlock()
	l.bodies.patience = d
}

// Waiting is how many submissions wait for a checkpoint.
func (l *Log) Waiting() int64 { return l.waiting.Load() }

// EdgeSize is the size of the tree whose right edge proofs share.
func (l *Log) EdgeSize() uint64 { return l.cache.EdgeSize() }

// SetLooked says when a log that follows has looked at the storage last.
func (l *Log) SetLooked(at time.Time) { l.looked.Store(at.UnixNano()) }

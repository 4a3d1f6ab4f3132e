package tlog

// Waiting is how many submissions wait for a checkpoint.
func (l *Log) Waiting() int64 { return l.waiting.Load() }

package tlog

// recentBytes bounds the entries of complete bundles that are kept in memory:
// whoever follows the log reads them from there, without storage and without
// decompression.
const recentBytes = 8 << 20

// recent is a complete bundle. It does not change.
type recent struct {
	n       uint64
	entries []byte
}

// complete makes the head a complete bundle and begins the next one.
func (s *sequencer) complete(n uint64) {
	r := recent{n, s.head}
	// Readers keep the list that they have: a new one is made.
	kept, bytes := s.recent, len(r.entries)
	for _, old := range kept {
		bytes += len(old.entries)
	}
	for len(kept) > 0 && bytes > recentBytes {
		bytes -= len(kept[0].entries)
		kept = kept[1:]
	}
	s.recent = append(append(make([]recent, 0, len(kept)+1), kept...), r)
	s.head = make([]byte, 0, len(s.head))
}

// recentBundle returns the bundle, if it is one of the newest.
func (s *snapshot) recentBundle(n uint64) (recent, bool) {
	if len(s.recent) == 0 || n < s.recent[0].n || n-s.recent[0].n >= uint64(len(s.recent)) {
		return recent{}, false
	}
	return s.recent[n-s.recent[0].n], true
}

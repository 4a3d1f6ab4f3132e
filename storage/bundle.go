package storage

import (
	"encoding/binary"
	"fmt"
	"iter"
)

// AppendEntry appends an entry to a bundle (tlog-tiles, "Log Entries").
func AppendEntry(bundle, entry []byte) []byte {
	bundle = binary.BigEndian.AppendUint16(bundle, uint16(len(entry)))
	return append(bundle, entry...)
}

// Entries goes through the entries of a bundle. What it yields is part of the
// bundle. The last pair has an error, which wraps ErrCorrupt, if the bundle ends
// within an entry.
func Entries(bundle []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for len(bundle) > 0 {
			if len(bundle) < 2 || len(bundle)-2 < int(binary.BigEndian.Uint16(bundle)) {
				yield(nil, fmt.Errorf("%w: an entry bundle ends within an entry", ErrCorrupt))
				return
			}
			n := 2 + int(binary.BigEndian.Uint16(bundle))
			if !yield(bundle[2:n:n], nil) {
				return
			}
			bundle = bundle[n:]
		}
	}
}

// Truncate returns the first n entries of a bundle.
func Truncate(bundle []byte, n int) ([]byte, error) {
	end, count := 0, 0
	if n <= 0 {
		return bundle[:0:0], nil
	}
	for entry, err := range Entries(bundle) {
		if err != nil {
			return nil, err
		}
		end += 2 + len(entry)
		if count++; count == n {
			return bundle[:end:end], nil
		}
	}
	return nil, fmt.Errorf("%w: an entry bundle has %d entries of %d", ErrCorrupt, count, n)
}

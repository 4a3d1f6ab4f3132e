package storage_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/sealtap/sealtap/storage"
)

func FuzzEntries(f *testing.F) {
	f.Add([]byte{}, 0)
	f.Add([]byte{0, 0}, 1)
	f.Add([]byte{0, 1, 'a', 0, 2, 'b', 'c'}, 1)
	f.Add([]byte{0, 1, 'a', 0, 2, 'b'}, 2)
	f.Add([]byte{0}, 1)
	f.Add([]byte("0"), 0)
	f.Fuzz(func(t *testing.T, bundle []byte, n int) {
		var again []byte
		count, whole := 0, true
		for entry, err := range storage.Entries(bundle) {
			if err != nil {
				if whole = false; !errors.Is(err, storage.ErrCorrupt) {
					t.Errorf("error %v", err)
				}
				continue
			}
			if !whole {
				t.Error("an entry after an error")
			}
			again = storage.AppendEntry(again, entry)
			count++
		}
		if !bytes.HasPrefix(bundle, again) || whole != (len(again) == len(bundle)) {
			t.Errorf("%x was read as %x, whole: %v", bundle, again, whole)
		}
		got, err := storage.Truncate(bundle, n)
		n = max(n, 0)
		if (err == nil) != (n <= count) || err == nil && !bytes.HasPrefix(again, got) {
			t.Errorf("truncated to %d of %d: %x, %v", n, count, got, err)
		}
	})
}

package sqlite_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/sealtap/sealtap/witness"
)

// The WAL of a witness does not grow with the first thousand heads, and what a crash
// leaves of it, zeros at its end and all, has every head.
func TestWitnessWALHasRoom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w.db")
	w := openWitness(t, path)
	size := func() int64 {
		t.Helper()
		info, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	before := size()
	const heads = 1000
	latest := make([]*witness.Head, 7)
	for i := range heads {
		n := i % len(latest)
		h := head(fmt.Sprint("log ", n), uint64(i))
		if err := w.Advance(t.Context(), latest[n], h); err != nil {
			t.Fatal(err)
		}
		latest[n] = &h
		if i != heads/3 && i != heads-1 {
			continue
		}
		crashed := filepath.Join(t.TempDir(), "w.db")
		for _, suffix := range []string{"", "-wal"} {
			b, err := os.ReadFile(path + suffix)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(crashed+suffix, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c := openWitness(t, crashed)
		for n, want := range latest {
			got, ok, err := c.Head(t.Context(), fmt.Sprint("log ", n))
			if err != nil || !ok || !reflect.DeepEqual(got, *want) {
				t.Errorf("after head %d: log %d is at %+v, %v, want %+v", i, n, got, err, want)
			}
		}
	}
	if after := size(); after != before {
		t.Errorf("the WAL grew from %d to %d bytes", before, after)
	}
}

package storage_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

func TestEdge(t *testing.T) {
	for _, edge := range [][]record.Hash{nil, {{1}}, {{1}, {2}, {3}}} {
		if got, err := storage.ParseEdge(storage.EdgeBytes(edge)); err != nil || !slices.Equal(got, edge) {
			t.Errorf("%x came back as %x, %v", edge, got, err)
		}
	}
	for _, n := range []int{1, 31, 33, 65} {
		if _, err := storage.ParseEdge(make([]byte, n)); !errors.Is(err, storage.ErrCorrupt) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

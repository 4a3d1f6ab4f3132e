package postgres_test

import (
	"context"
	"math"
	"testing"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/postgres/pgtest"
)

// What is imported again is as it is at the source by now: what was erased there since
// is erased here too, and what is not there any more goes. What was erased here stays
// erased.
func TestImportAgain(t *testing.T) {
	server := pgtest.Start(t)
	ctx := context.Background()
	db, closeIt := writer(t, server.Database(t))
	defer closeIt()
	o := db.Openings()
	leaf := func(b byte) []byte { return []byte{b, 1, 2, 3, 4, 5, 6, 7} }
	row := func(index uint64, b byte, box string) storage.OpeningRow {
		r := storage.OpeningRow{Index: index, Leaf: leaf(b)}
		if box != "" {
			r.Box = []byte(box)
		}
		return r
	}
	put := func(from, to uint64, rows ...storage.OpeningRow) {
		t.Helper()
		if err := o.Import(ctx, from, to, rows); err != nil {
			t.Fatal(err)
		}
	}
	key := func(b byte, wrapped string, last uint64) storage.KeyRow {
		k := storage.KeyRow{ID: record.KeyID{b}, Last: last}
		if wrapped != "" {
			k.Wrapped = []byte(wrapped)
		}
		return k
	}
	put(0, 10, row(1, 1, "one"), row(2, 2, "two"), row(3, 3, "three"), row(4, 4, ""), row(9, 9, "never stored"))
	put(10, math.MaxInt64, row(20, 20, "never stored"))
	if err := o.ImportKeys(ctx, []storage.KeyRow{key(1, "a", 5), key(2, "b", 5), key(3, "", 5)}); err != nil {
		t.Fatal(err)
	}
	put(0, 8, row(1, 1, "one"), row(2, 2, ""), row(3, 33, "another record"), row(4, 4, "erased here"))
	put(8, math.MaxInt64)
	if err := o.ImportKeys(ctx, []storage.KeyRow{key(1, "a", 255), key(2, "", 5), key(3, "erased here", 5)}); err != nil {
		t.Fatal(err)
	}
	want := []storage.OpeningRow{row(1, 1, "one"), row(2, 2, ""), row(3, 33, "another record"), row(4, 4, "")}
	got, err := o.RowsFrom(ctx, 0, 100)
	if err != nil || len(got) != len(want) {
		t.Fatalf("%+v, %v", got, err)
	}
	for i, w := range want {
		if g := got[i]; g.Index != w.Index || string(g.Leaf) != string(w.Leaf) || string(g.Box) != string(w.Box) || (g.Box == nil) != (w.Box == nil) {
			t.Errorf("row %+v, want %+v", g, w)
		}
	}
	for _, w := range []storage.KeyRow{key(1, "a", 255), key(2, "", 5), key(3, "", 5)} {
		if g, ok, err := o.Key(ctx, w.ID); err != nil || !ok || string(g.Wrapped) != string(w.Wrapped) || g.Last != w.Last {
			t.Errorf("key %+v, %v, %v; want %+v", g, ok, err, w)
		}
	}
	if _, ok, err := o.Key(ctx, record.KeyID{7}); ok || err != nil {
		t.Errorf("a key that is not there: %v, %v", ok, err)
	}
}

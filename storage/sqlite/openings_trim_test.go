package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage/sqlite"
)

// TestOpeningsOfTheFirstVersion: keys in a file from before they were deleted go
// with their openings as well, and no sooner.
func TestOpeningsOfTheFirstVersion(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "openings.db")
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec(`
CREATE TABLE opening (
	entry INTEGER PRIMARY KEY, -- index in the log
	leaf  BLOB NOT NULL,
	box   BLOB
) STRICT;
CREATE TABLE wrapped_key (
	id      BLOB PRIMARY KEY CHECK (length(id) = 16),
	wrapped BLOB
) STRICT, WITHOUT ROWID;
PRAGMA application_id = 0x53544f01;
PRAGMA user_version = 1`)
	if err != nil {
		t.Fatal(err)
	}
	box := func(key byte) []byte {
		b := make([]byte, 64)
		b[0], b[1] = 1, key
		return b
	}
	for entry, key := range map[int]byte{10: 1, 200: 1, 300: 2, 400: 1, 500: 3, 700: 2} {
		if _, err := db.Exec(`INSERT INTO opening VALUES (?, x'0102030405060708', ?)`, entry, box(key)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.Exec(`INSERT INTO opening VALUES (900, x'0102030405060708', NULL)`); err != nil { // erased
		t.Fatal(err)
	}
	for key := range byte(5) { // 0 and 4 have no openings
		if _, err := db.Exec(`INSERT INTO wrapped_key VALUES (?, x'01')`, box(key)[1:17]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.Exec(`INSERT INTO wrapped_key VALUES (?, NULL)`, box(9)[1:17]); err != nil { // erased
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	o, err := sqlite.OpenOpenings(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	kept := func(below uint64) (list []byte) {
		if more, err := o.Trim(ctx, below, 100); more || err != nil {
			t.Fatal(more, err)
		}
		for key := range byte(5) {
			if _, ok, err := o.WrappedKey(ctx, record.KeyID{key}); err != nil {
				t.Fatal(err)
			} else if ok {
				list = append(list, key)
			}
		}
		return list
	}
	for _, c := range []struct {
		below uint64
		want  string
	}{{256, "[1 2 3]"}, {512, "[2]"}, {768, "[]"}, {1024, "[]"}} {
		if got := fmt.Sprint(kept(c.below)); got != c.want {
			t.Errorf("below %d, keys %s are kept, want %s", c.below, got, c.want)
		}
	}
	if err := sqlite.CheckOpenings(ctx, path); err != nil {
		t.Error(err)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = sql.Open("sqlite3", path); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var erased int
	if err := db.QueryRow(`SELECT count(*) FROM wrapped_key WHERE wrapped IS NULL`).Scan(&erased); err != nil || erased != 1 {
		t.Errorf("%d keys are there that were erased, %v: somebody could bring one again", erased, err)
	}
}

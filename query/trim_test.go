package query

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

// TestTrimByIndex: what is deleted is found by index, however much stays.
func TestTrimByIndex(t *testing.T) {
	l := newMemLog(t)
	ix, stop := follow(t, indexFile(t), l, small())
	defer stop()
	for _, text := range append([]string{cutRun}, trims[:]...) {
		rows, err := ix.store().db.Reader.Query("EXPLAIN QUERY PLAN "+text, 1000, trimRows)
		if err != nil {
			rows, err = ix.store().db.Reader.Query("EXPLAIN QUERY PLAN "+text, 1000)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(detail, "SCAN") {
				t.Errorf("%s: %s", text, detail)
			}
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTrimManyRows: more goes than one transaction deletes, and the run that reaches
// beyond the floor is cut.
func TestTrimManyRows(t *testing.T) {
	l := newMemLog(t)
	ix, stop := follow(t, indexFile(t), l, small())
	defer stop()
	caughtUp(t, ix)
	st, ctx := ix.store(), context.Background()
	tx, err := st.db.Writer.Begin()
	if err != nil {
		t.Fatal(err)
	}
	const rows = 2*trimRows + 10
	for i := range rows {
		at := 1000 + 10*i // nine records and their seal
		for _, s := range []string{"INSERT INTO run VALUES (1, ?1, ?2, 9)", "INSERT INTO seal VALUES (1, ?1 + 9, ?2 + 9)",
			"INSERT INTO beacon VALUES (1, ?1, ?2)", "INSERT INTO orphan VALUES (CAST(?1 AS BLOB), ?2)"} {
			if _, err := tx.Exec(s, 9*i, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	floor := uint64(1000 + 10*(rows-2) + 4)
	if err := st.trimFacts(ctx, floor); err != nil {
		t.Fatal(err)
	}
	for table, want := range map[string]int{"run": 2, "seal": 2, "beacon": 1, "orphan": 1} {
		var n int
		if err := st.db.Reader.QueryRow("SELECT count(*) FROM " + table).Scan(&n); err != nil || n != want {
			t.Errorf("%d rows of %s are left, want %d: %v", n, table, want, err)
		}
	}
	if r, err := st.firstRun(1, floor); err != nil || r != (run{9*(rows-2) + 4, floor, 5}) {
		t.Errorf("the first run is %+v, %v", r, err)
	}
}

// locked is a buffer for many goroutines.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *locked) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// TestPrunedIndexIsKnownAgain: an index that was built from what was left of a log,
// and ends at an entry that is kept for a statement, is not thrown away when it is
// opened again.
func TestPrunedIndexIsKnownAgain(t *testing.T) {
	l := &prunedLog{memLog: newMemLog(t)}
	ps := l.enrol("edge-a")
	shop(l.memLog, ps, 200)
	late := l.enrol("edge-b") // holds its bundle
	at := l.Size() - 1
	shop(l.memLog, append(ps, late...), 20)
	for l.Size() < (at/256+1)*256+100 {
		shop(l.memLog, ps, 1)
	}
	l.publish()
	l.minimum.Store((at/256 + 1) * 256)
	// Nothing is written down but what was skipped: the log has no full segment above.
	path := indexFile(t)
	ix, stop := follow(t, path, l, small())
	caughtUp(t, ix)
	if ix.tail.first != l.Minimum() {
		t.Fatalf("the last segment begins at %d", ix.tail.first)
	}
	stop()
	said := new(locked)
	ix, stop = follow(t, path, l, Config{segment: 256, Logger: slog.New(slog.NewTextHandler(said, nil))})
	caughtUp(t, ix)
	stop()
	if strings.Contains(said.b.String(), "rebuilt") {
		t.Errorf("the index is made again: %s", &said.b)
	}
}

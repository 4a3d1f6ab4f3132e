package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// TestLogFile reads a log's files beside the log, while it grows, and after a
// bundle was taken out of them.
func TestLogFile(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "log.db")
	log, err := sqlite.OpenLog(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	tree, size := tiles.NewWriter(), uint64(0)
	grow := func(n int) {
		t.Helper()
		b := &storage.Batch{First: size}
		for range n {
			entry := fmt.Appendf(nil, "entry %d", size)
			b.Entries = append(b.Entries, entry)
			tree.Append(record.LeafHash(entry))
			size++
		}
		for _, x := range append(tree.Complete(), tree.Partial()...) {
			b.Tiles = append(b.Tiles, storage.Tile(x))
		}
		b.Root = tree.Root()
		if err := log.Commit(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	grow(600)
	f, err := sqlite.OpenLogFile(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	check := func(n uint64, width int) {
		t.Helper()
		bundle, err := f.Bundle(ctx, n, width)
		if err != nil {
			t.Fatal(err)
		}
		hashes, err := f.Tile(ctx, 0, n, width)
		if err != nil {
			t.Fatal(err)
		}
		i := n * storage.BundleWidth
		for entry, err := range storage.Entries(bundle) {
			leaf := record.LeafHash(entry)
			if err != nil || string(entry) != fmt.Sprintf("entry %d", i) || string(hashes[:32]) != string(leaf[:]) {
				t.Fatalf("entry %d reads %q, %v", i, entry, err)
			}
			i, hashes = i+1, hashes[32:]
		}
		if i != n*storage.BundleWidth+uint64(width) || len(hashes) != 0 {
			t.Errorf("bundle %d has entries up to %d, and %d bytes of hashes are left", n, i, len(hashes))
		}
	}
	check(1, 256)
	check(2, 88)
	grow(300) // the head of before is a bundle now, and there is another head
	check(2, 88)
	check(2, 256)
	check(3, 132)
	for _, bad := range []func() ([]byte, error){
		func() ([]byte, error) { return f.Bundle(ctx, 4, 1) },
		func() ([]byte, error) { return f.Bundle(ctx, 3, 133) },
		func() ([]byte, error) { return f.Tile(ctx, 0, 4, 1) },
		func() ([]byte, error) { return f.Tile(ctx, 0, 3, 133) },
	} {
		if _, err := bad(); !errors.Is(err, storage.ErrCorrupt) {
			t.Errorf("what is not there: %v", err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sqlite.Open(ctx, path, sqlite.Schema{Kind: "log", ApplicationID: 0x53544c01, Migrations: make([]string, 2)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Writer.Exec(`DELETE FROM bundle WHERE n = 1`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Bundle(ctx, 1, 132); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("a bundle that was taken out: %v", err)
	}
}

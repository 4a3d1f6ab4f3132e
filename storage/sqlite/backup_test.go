package sqlite_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/sqlite"
)

// TestSnapshot copies a log that is being written.
func TestSnapshot(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "log.db")
	l := openLog(t, path)
	defer closing(t, l.Close)()
	grow(t, l, 0, 600)
	if err := l.SetSigned(ctx, signed(t, 600, record.Hash{})); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for size := uint64(600); ; size += 7 {
			select {
			case <-stop:
				return
			default:
				grow(t, l, size, size+7)
			}
		}
	}()
	to := filepath.Join(t.TempDir(), "a copy?x.db")
	var done, total uint64
	err := sqlite.SnapshotLog(ctx, path, to, func(d, n uint64) { done, total = d, n })
	close(stop)
	<-stopped
	if err != nil || done != total || total == 0 {
		t.Fatalf("%v; told of %d of %d bytes", err, done, total)
	}
	if st, err := os.Stat(to); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	f, err := sqlite.OpenLogFile(ctx, to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	state, err := f.Load(ctx)
	if err != nil || state.Size < 600 || state.Size%7 != 600%7 || state.Signed == nil || state.Signed.Size != 600 {
		t.Fatalf("state %+v, %v", state, err)
	}
	for n := uint64(0); n*256 < state.Size; n++ {
		if _, err := f.Bundle(ctx, n, int(min(256, state.Size-n*256))); err != nil {
			t.Fatal(err)
		}
	}
	if err := sqlite.SnapshotLog(ctx, path, to, nil); !errors.Is(err, os.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
	if err := sqlite.SnapshotOpenings(ctx, path, to+"2", nil); !errors.Is(err, sqlite.ErrForeign) {
		t.Errorf("a log as openings: %v", err)
	}
	if err := sqlite.SnapshotLog(ctx, path+"x", to+"2", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
	for _, p := range []string{to + "2", path + "x"} {
		if _, err := os.Stat(p); err == nil {
			t.Errorf("%s is there", p)
		}
	}
}

// TestSnapshotLeavesErasedBehind: what was deleted is in the pages of a database
// for long, and not in a copy.
func TestSnapshotLeavesErasedBehind(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "openings.db")
	o, err := sqlite.OpenOpenings(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	secret := bytes.Repeat([]byte("erased"), 100)
	if err := o.Put(ctx, []storage.Opening{{Index: 1, Box: []byte("kept")}, {Index: 2, Leaf: record.Hash{2}, Box: secret}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := o.Discard(ctx, 2); err != nil {
		t.Fatal(err)
	}
	closing(t, o.Close)()
	to := filepath.Join(t.TempDir(), "copy.db")
	if err := sqlite.SnapshotOpenings(ctx, path, to, nil); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(to)
	if err != nil || bytes.Contains(b, secret) {
		t.Errorf("the copy has what was erased: %v", err)
	}
	f, err := sqlite.OpenOpeningsFile(ctx, to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := f.Count(ctx); err != nil || n != 1 {
		t.Errorf("%d openings, %v", n, err)
	}
	for _, c := range []struct {
		index uint64
		leaf  record.Hash
		want  bool
	}{{1, record.Hash{}, true}, {1, record.Hash{9}, false}, {2, record.Hash{2}, false}} {
		if known, err := f.Knows(ctx, c.index, c.leaf); err != nil || known != c.want {
			t.Errorf("knows openings of %d: %v, %v", c.index, known, err)
		}
	}
}

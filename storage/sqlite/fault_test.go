package sqlite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/sqlite/internal/faultvfs"
	"github.com/sealtap/sealtap/tlog/tiles"
)

func TestMain(m *testing.M) {
	if err := faultvfs.Register(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// writer does what the log's writer and publisher do, and knows what it was
// promised.
type writer struct {
	t      *testing.T
	path   string
	signer note.Signer
	log    *Log

	entries   [][]byte // stored, for all the writer knows
	made      int      // entries ever made, so that no two are the same
	acked     int      // of entries
	kept      map[uint64]record.Hash
	largest   uint64 // signed and kept
	published uint64
	drops     int
	about     string // what is made to fail
	end       func() // of the reader
}

func newWriter(t *testing.T) *writer {
	t.Helper()
	key, err := keys.Generate("log.example", keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := key.Signer()
	if err != nil {
		t.Fatal(err)
	}
	return &writer{t: t, path: filepath.Join(memoryDir(t), "log.db"), signer: signer, kept: make(map[uint64]record.Hash)}
}

// open opens the storage and takes what is there. It has SQLite move the WAL into
// the database far more often than usual.
func (w *writer) open() error {
	var err error
	if w.log, err = OpenLog(context.Background(), w.path); err != nil {
		w.log = nil
		return err
	}
	w.log.db.wal.every = 5 * commitBytes
	return w.load()
}

// memoryDir is a directory in memory where there is one: what the disk keeps is
// simulated, and it need not be asked hundreds of times.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sealtap-fault")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func treeOf(entries [][]byte) *tiles.Writer {
	tree := tiles.NewWriter()
	for _, e := range entries {
		tree.Append(record.LeafHash(e))
	}
	tree.Complete()
	return tree
}

// load takes what is stored as the truth, as the log does after a failure. What
// was acknowledged must be in it.
func (w *writer) load() error {
	ctx := context.Background()
	state, err := w.log.Load(ctx)
	if err != nil {
		return err
	}
	var stored [][]byte
	for n := uint64(0); n*storage.BundleWidth < state.Size; n++ {
		bundle, err := w.log.Bundle(ctx, n)
		if err != nil {
			return err
		}
		for e, err := range storage.Entries(bundle) {
			if err != nil {
				return err
			}
			stored = append(stored, e)
		}
	}
	if uint64(len(stored)) != state.Size || len(stored) < w.acked {
		w.t.Fatalf("%d entries are stored, the state says %d, and %d were acknowledged (%s)", len(stored), state.Size, w.acked, w.about)
	}
	for i := range w.acked {
		if !bytes.Equal(stored[i], w.entries[i]) {
			w.t.Fatalf("entry %d is not the one that was acknowledged", i)
		}
	}
	w.entries = stored
	if tree := treeOf(stored); state.Size > 0 && state.Root != tree.Root() {
		w.t.Fatalf("the entries give root %s, stored is %s", tree.Root(), state.Root)
	}
	if state.Size > 0 {
		if tree, err := tiles.RestoreWriter(ctx, w.log, state.Size); err != nil {
			return err
		} else if tree.Root() != state.Root {
			w.t.Fatalf("the tiles give root %s, stored is %s", tree.Root(), state.Root)
		}
	}
	w.checkHeads(state)
	return nil
}

func (w *writer) checkHeads(state *storage.State) {
	w.t.Helper()
	if state.Signed != nil && state.Signed.Size <= state.Size {
		if _, ok := w.kept[state.Signed.Size]; !ok {
			w.kept[state.Signed.Size] = state.Signed.Root // its keeping said that it failed
		}
	}
	if w.largest > 0 && (state.Signed == nil || state.Signed.Size < w.largest) {
		w.t.Fatalf("the signed checkpoint of size %d is forgotten: %+v", w.largest, state.Signed)
	}
	if w.published > 0 && (state.Published == nil || state.Published.Size < w.published) {
		w.t.Fatalf("the published checkpoint of size %d is forgotten: %+v", w.published, state.Published)
	}
	for size, root := range w.kept {
		if size > uint64(len(w.entries)) {
			w.t.Fatalf("size %d is signed, and %d entries are stored", size, len(w.entries))
		}
		if got := treeOf(w.entries[:size]).Root(); got != root {
			w.t.Fatalf("root %s is signed for size %d, the entries give %s", root, size, got)
		}
	}
}

// commit adds n new entries, and reports whether they were acknowledged.
func (w *writer) commit(n int) bool {
	b := &storage.Batch{First: uint64(len(w.entries))}
	for range n {
		w.made++
		b.Entries = append(b.Entries, fmt.Appendf(nil, "entry %d %s", w.made, bytes.Repeat([]byte{'x'}, w.made%200)))
	}
	tree := treeOf(w.entries)
	for _, e := range b.Entries {
		tree.Append(record.LeafHash(e))
	}
	for _, tile := range append(tree.Complete(), tree.Partial()...) {
		b.Tiles = append(b.Tiles, storage.Tile(tile))
	}
	b.Root = tree.Root()
	if err := w.log.Commit(context.Background(), b); err != nil {
		return false
	}
	w.entries = append(w.entries, b.Entries...)
	w.acked = len(w.entries)
	return true
}

// publish signs the newest head, keeps it and publishes it, and reports whether
// that worked.
func (w *writer) publish() bool {
	ctx := context.Background()
	h := storage.Head{Size: uint64(len(w.entries)), Root: treeOf(w.entries).Root()}
	body := checkpoint.Body{Origin: w.signer.Name(), Size: h.Size, Root: h.Root}
	var err error
	if h.Note, err = note.Sign(&note.Note{Text: string(body.Marshal())}, w.signer); err != nil {
		w.t.Fatal(err)
	}
	if err := w.log.SetSigned(ctx, h); err != nil {
		if errors.Is(err, storage.ErrConflict) {
			w.t.Fatal(err)
		}
		return false
	}
	w.kept[h.Size], w.largest = h.Root, max(w.largest, h.Size)
	if w.log.SetPublished(ctx, h) != nil {
		return false
	}
	w.published = h.Size
	return true
}

// reader begins to read, and goes on until endReader, or until the process ends.
func (w *writer) reader() {
	if w.log == nil {
		return
	}
	tx, err := w.log.db.Reader.Begin()
	if err != nil {
		return
	}
	var n int
	_ = tx.QueryRow(`SELECT count(*) FROM tree`).Scan(&n) // it reads what it can
	w.end = func() { _ = tx.Rollback() }
}

func (w *writer) endReader() {
	if w.end != nil {
		w.end()
	}
	w.end = nil
}

// script is a short life of a log: bundles are completed, one in the middle of a
// batch; a reader holds up the WAL for a while; the database is closed in between.
func (w *writer) script() {
	w.try(w.open)
	for _, n := range []int{1, 5, 200, 60, 3} {
		w.step(n)
	}
	w.reader()
	for _, n := range []int{2, 7, 300} {
		w.step(n)
	}
	w.endReader()
	w.step(1)
	w.step(4)
	w.drop()
	w.try(w.open)
	for _, n := range []int{9, 1, 2} {
		w.step(n)
	}
}

// try makes some attempts, which is what a service under supervision does.
func (w *writer) try(open func() error) {
	for range 5 {
		if open() == nil {
			return
		}
		w.drop()
	}
}

// drop lets go of the storage, as the end of the process does: every second time
// in good order, as far as that goes, and every other time by kill -9.
func (w *writer) drop() {
	if w.log == nil {
		return
	}
	w.endReader()
	w.drops++
	if w.drops%2 == 0 || errors.Is(w.log.Close(), ErrSync) {
		faultvfs.Kill(func() {
			w.log.db.wal.wg.Wait()
			w.log.db.wal.lost.Store(false)
			_ = w.log.Close()
		})
	}
	w.log = nil
}

// step commits and publishes. After a failure it goes on from what is stored; a
// storage that refuses to go on is opened again.
func (w *writer) step(n int) {
	for range 4 {
		if w.log == nil {
			w.try(w.open)
			if w.log == nil {
				return
			}
		}
		w.log.db.wal.wg.Wait() // so that every run makes the same calls
		if w.commit(n) {
			w.log.db.wal.wg.Wait()
			w.publish()
			return
		}
		if w.load() != nil {
			w.drop()
		}
	}
}

// Each change that SQLite makes to the disk fails, alone or with those that follow
// it, with or without half of it written; there is a kill -9 in between as well. Then the power goes, and whatever was
// on its way to the disk gets there or does not. The log is what was acknowledged,
// and a committed prefix of the rest; no head is signed over entries that are not
// there, nor a second one for one size; and the log goes on.
func TestDiskFailsAtEveryStep(t *testing.T) {
	w := newWriter(t)
	faultvfs.Reset(filepath.Dir(w.path))
	w.script()
	total := faultvfs.Ops()
	w.drop()
	if w.acked != 595 || total < 250 {
		t.Fatalf("without a failure %d entries were stored in %d changes", w.acked, total)
	}
	runs, hit := total/2, 0
	if testing.Short() {
		runs = 30
	}
	for i := range runs {
		at, count := 1+i*total/runs+rand.IntN(total/runs), []int{1, 1, 3, 40}[rand.IntN(4)]
		mode, survive := faultvfs.Mode(rand.IntN(2)), []int{0, 0, 50, 100}[rand.IntN(4)]
		if failAt(t, at, count, mode, survive) {
			hit++
		}
		if t.Failed() {
			t.Fatalf("with %d of %d changes failing from %d on, mode %d, and %d %% of what was not synced", count, total, at, mode, survive)
		}
	}
	if hit < runs*9/10 { // a key that is a few bytes shorter can save a page
		t.Errorf("in %d of %d runs something failed", hit, runs)
	}
}

// failAt reports whether anything failed.
func failAt(t *testing.T, at, count int, mode faultvfs.Mode, survive int) (failed bool) {
	t.Helper()
	w := newWriter(t)
	faultvfs.Reset(filepath.Dir(w.path))
	w.about = fmt.Sprintf("%d changes fail from %d on, mode %d, and %d %% survive of what was not synced", count, at, mode, survive)
	faultvfs.Arm(at, count, mode)
	w.script()
	hits := faultvfs.Hits()
	faultvfs.Cut()
	w.drop()
	if err := faultvfs.Boot(survive, rand.Uint32()); err != nil {
		t.Fatal(err)
	}
	if err := w.open(); err != nil {
		t.Errorf("opening after the loss of power: %v", err)
		return
	}
	if !w.commit(3) || !w.publish() {
		t.Error("after the loss of power the log does not go on")
	}
	w.drop()
	if err := w.open(); err != nil {
		t.Errorf("opening once more: %v", err)
	}
	w.drop()
	return hits > 0
}

// A part of the WAL is copied into the database, which is not synced yet; when the
// rest is copied, the sync fails. The first part must not be taken for kept, however
// often a sync succeeds afterwards.
func TestSyncFailsAfterPartOfACopy(t *testing.T) {
	told := false
	for ahead := 1; ahead <= 40; ahead++ {
		w := newWriter(t)
		faultvfs.Reset(filepath.Dir(w.path))
		if err := w.open(); err != nil {
			t.Fatal(err)
		}
		w.log.db.wal.every = 1 << 40 // copied by hand
		for range 6 {
			w.step(3)
		}
		w.reader()
		for range 6 {
			w.step(300)
		}
		_ = w.log.db.wal.copy(w.log.db.wal.own) // as far as the reader lets it
		w.endReader()
		faultvfs.Arm(faultvfs.Ops()+ahead, 1, faultvfs.Nothing)
		for range 3 {
			w.log.db.wal.every = 0
			w.step(2)
			w.log.db.wal.wg.Wait()
		}
		if w.log != nil && w.log.Health() != nil {
			told = true
		}
		faultvfs.Cut()
		w.drop()
		if err := faultvfs.Boot(0, 0); err != nil {
			t.Fatal(err)
		}
		if err := w.open(); err != nil {
			t.Errorf("after a failure of change %d, opening after the loss of power: %v", ahead, err)
			return
		}
		w.drop()
	}
	if !told {
		t.Error("no sync of a copy failed, or nobody is told")
	}
}

package tlog_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/storage/storagetest"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// pruning returns a fixture that looks at its policy all the time.
func pruning(t *testing.T) *fixture {
	f := newFixture(t)
	f.config = func(c *tlog.Config) { c.PruneInterval = 2 * time.Millisecond }
	return f.start()
}

// retain submits a statement about retention and returns its index.
func (f *fixture) retain(r record.Retention) uint64 {
	f.t.Helper()
	entry, err := record.NewRetention(f.key.Name, f.changes+1, r, f.operator)
	if err != nil {
		f.t.Fatal(err)
	}
	resp := f.mustSubmit(entry)
	f.changes++
	return resp.Runs[0].FirstIndex
}

// pruned waits until the minimum index is at least this one.
func (f *fixture) pruned(minimum uint64) {
	f.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); f.log.Minimum() < minimum; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("the minimum index is %d, waiting for %d", f.log.Minimum(), minimum)
		}
	}
	if got := f.log.Minimum(); got != minimum {
		f.t.Fatalf("the minimum index is %d, want %d", got, minimum)
	}
}

// swept waits until nothing is left of a bundle.
func (f *fixture) swept(n uint64) {
	f.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		_, err := f.storage.Bundle(context.Background(), n)
		_, err2 := f.storage.Tile(context.Background(), 0, n)
		if errors.Is(err, storage.ErrPruned) && errors.Is(err2, storage.ErrNotFound) {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("bundle %d is still there: %v, %v", n, err, err2)
		}
	}
}

// checkProofs proves everything that a pruned log must be able to prove, against
// a tree of somebody else's making.
func (f *fixture) checkProofs(tree *testonly.Tree, minimum uint64) {
	f.t.Helper()
	ctx := context.Background()
	size := f.log.Published()
	raw := func(path []record.Hash) [][]byte {
		list := make([][]byte, len(path))
		for i := range path {
			list[i] = path[i][:]
		}
		return list
	}
	for index := minimum; index < size; index++ {
		for end := index + 1; end <= size; end += 1 + (end-index)/3 {
			path, err := f.log.InclusionProof(ctx, index, end)
			if err == nil {
				err = proof.VerifyInclusion(rfc6962.DefaultHasher, index, end, tree.LeafHash(index), raw(path), tree.HashAt(end))
			}
			if err != nil {
				f.t.Fatalf("entry %d in the tree of %d, minimum %d: %v", index, end, minimum, err)
			}
		}
	}
	for from := minimum; from <= size; from++ {
		for to := from; to <= size; to += 1 + (to-from)/2 {
			path, err := f.log.ConsistencyProof(ctx, from, to)
			if err == nil {
				err = proof.VerifyConsistency(rfc6962.DefaultHasher, from, to, raw(path), tree.HashAt(from), tree.HashAt(to))
			}
			if err != nil {
				f.t.Fatalf("consistency from %d to %d, minimum %d: %v", from, to, minimum, err)
			}
		}
	}
	// Whole bundles below work too: their hashes are of level 1 and above.
	for from := uint64(256); from < minimum; from += 256 {
		path, err := f.log.ConsistencyProof(ctx, from, size)
		if err == nil {
			err = proof.VerifyConsistency(rfc6962.DefaultHasher, from, size, raw(path), tree.HashAt(from), tree.HashAt(size))
		}
		if err != nil {
			f.t.Fatalf("consistency from %d to %d, minimum %d: %v", from, size, minimum, err)
		}
	}
}

// model returns the log's tree as others compute it, from entries that are there.
func (f *fixture) model() *testonly.Tree {
	f.t.Helper()
	tree := testonly.New(rfc6962.DefaultHasher)
	for index := range f.log.Published() {
		entry, err := f.log.Entry(context.Background(), index)
		if err != nil {
			f.t.Fatal(err)
		}
		tree.AppendData(entry)
	}
	return tree
}

// rounds is time for the pruner to let go of what it may: ages are whole seconds.
const rounds = 1200 * time.Millisecond

func TestPrune(t *testing.T) {
	f := pruning(t)
	p, q := f.producer("proxy-1"), f.producer("proxy-2")
	for i := range 12 {
		f.mustSubmit(p.batch(40 + i)...)
		f.mustSubmit(q.batch(25)...)
	}
	r := f.producer("proxy-3") // its statement holds a bundle in the middle
	middle := f.log.Size() - 1
	for range 10 {
		f.mustSubmit(r.batch(60)...)
		f.mustSubmit(p.batch(30)...)
	}
	size := f.log.Size()
	f.published(size)
	tree := f.model()
	time.Sleep(rounds)
	f.pruned(0) // nobody has allowed it

	f.retain(record.Retention{Entries: 1 << 40})
	f.retain(record.Retention{Keep: 1000 * time.Hour, Entries: 1}) // both must allow it
	f.published(size + 2)
	time.Sleep(rounds)
	f.pruned(0)

	f.retain(record.Retention{Entries: size + 3 - 512})
	f.published(size + 3)
	for index := size; index < size+3; index++ {
		entry, err := f.log.Entry(context.Background(), index)
		if err != nil {
			t.Fatal(err)
		}
		tree.AppendData(entry)
	}
	f.pruned(512)
	f.swept(1)
	f.checkProofs(tree, 512)

	for i, minimum := range []uint64{768, 1280, 1536} {
		index := f.retain(record.Retention{Entries: size + 4 + uint64(i) - minimum - uint64(i)%2}) // not always on the edge
		f.published(index + 1)
		entry, err := f.log.Entry(context.Background(), index)
		if err != nil {
			t.Fatal(err)
		}
		tree.AppendData(entry)
		f.pruned(minimum)
		f.checkProofs(tree, minimum)
		if i == 1 {
			f.restart()
			f.pruned(minimum)
			f.published(index + 1)
			f.checkProofs(tree, minimum)
		}
	}
	f.swept(2)
	f.swept(5)

	// What proves keys stays: the genesis, the statement in the middle, and the
	// entries that share bundles with them.
	for _, index := range []uint64{0, 2, middle, middle - middle%256} {
		entry, err := f.log.Entry(context.Background(), index)
		if err != nil || record.LeafHash(entry) != record.Hash(tree.LeafHash(index)) {
			t.Errorf("entry %d, kept with a statement: %v", index, err)
		}
		if _, err := f.log.Proof(context.Background(), index); err != nil {
			t.Errorf("proving entry %d: %v", index, err)
		}
	}
	f.checkEdges(1536, map[record.Stream][][]byte{p.stream: nil, q.stream: nil, r.stream: nil}, tree)

	// The log goes on: what was pruned is not taken again, what is new is.
	again := newProducer(t, p.key)
	again.stream = p.stream
	if _, err := f.submit(again.batch(40)...); !errors.Is(err, storage.ErrPruned) {
		t.Errorf("records from below the minimum index again: %v", err)
	}
	for _, x := range []*producer{p, q, r} {
		f.mustSubmit(x.batch(100)...)
	}
	end := f.retain(record.Retention{Forever: true})
	f.mustSubmit(p.batch(1000)...)
	f.published(f.log.Size())
	time.Sleep(rounds)
	// What the policy before allowed until then may go, and no more.
	if entries := size + 6 - 1536; f.log.Minimum() > end+1-entries {
		t.Errorf("pruned to %d after entries were to stay for ever, from %d on", f.log.Minimum(), end+1-entries)
	}
}

// checkEdges compares the edges that are kept of streams with the records that
// were below the minimum, of which tree has the leaves.
func (f *fixture) checkEdges(minimum uint64, streams map[record.Stream][][]byte, tree *testonly.Tree) {
	f.t.Helper()
	ctx := context.Background()
	seen := 0
	err := f.log.StreamsAtMinimum(ctx, func(s record.Stream, size uint64, edge []record.Hash) error {
		seen++
		at, err := record.RestoreTree(size, edge)
		if err != nil {
			return err
		}
		if n, _, err := f.log.StreamAtMinimum(ctx, s); err != nil || n != size {
			f.t.Errorf("stream %s has %d records below the minimum, and %d: %v", s.Origin(), size, n, err)
		}
		// The next seal covers it.
		for index := minimum; index < f.log.Published(); index++ {
			entry, err := f.log.Entry(ctx, index)
			if err != nil {
				return err
			}
			e, err := record.Parse(entry)
			switch {
			case err != nil:
				return err
			case e.Record != nil && e.Record.Stream == s:
				if e.Record.GetSequence() != at.Size() {
					return fmt.Errorf("record %d follows %d below the minimum", e.Record.GetSequence(), at.Size())
				}
				at.Append(e.Leaf, nil)
			case e.Seal != nil && e.Seal.Stream == s:
				if e.Seal.Size != at.Size() || e.Seal.Root != at.Root() {
					return fmt.Errorf("the seal over %d records does not follow from the edge of %d", e.Seal.Size, size)
				}
				return nil
			}
		}
		return nil
	})
	if err != nil || seen != len(streams) {
		f.t.Errorf("edges of %d streams of %d: %v", seen, len(streams), err)
	}
}

func TestPruneByAge(t *testing.T) {
	f := pruning(t)
	p := f.producer("proxy-1")
	f.retain(record.Retention{Keep: 2 * time.Second})
	before := time.Now()
	f.mustSubmit(p.batch(300)...)
	for end := before.Add(30 * time.Second); f.log.Minimum() == 0 && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		f.mustSubmit(p.batch(60)...) // what is newer stays
	}
	if took := time.Since(before); f.log.Minimum() == 0 || took < time.Second {
		t.Errorf("pruned to %d after %s, the policy says 2s", f.log.Minimum(), took)
	}
	kept, err := f.storage.Pruned(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	at, err := f.policy.Verify(kept.At)
	if err != nil {
		t.Fatal(err)
	}
	old, err := f.policy.Verify(kept.Old)
	if err != nil || old.Size < kept.Minimum || old.Size >= at.Size {
		t.Errorf("pruned to %d at %d entries; what shows the age has %d: %v", kept.Minimum, at.Size, old.Size, err)
	}
}

func TestPruneFailures(t *testing.T) {
	f := pruning(t)
	p := f.producer("proxy-1")
	f.mustSubmit(p.batch(2000)...)
	f.published(f.log.Size())
	tree := f.model()
	// Whatever fails, and whether it was stored or not, it goes on.
	f.storage.Fail("SetPruned", storagetest.Failed, storagetest.Persisted)
	f.storage.Fail("Sweep", storagetest.Failed, storagetest.Persisted, storagetest.Cancelled)
	f.storage.Fail("Pruned", storagetest.Failed)
	f.storage.Fail("AddMark", storagetest.Failed)
	reached, release := f.storage.Hold("Sweep")
	f.retain(record.Retention{Entries: 100})
	<-reached
	// The index is durable before anything is gone, and denied from then on.
	if kept, err := f.storage.Pruner().Pruned(context.Background()); err != nil || kept.Minimum == 0 || f.log.Minimum() > kept.Minimum {
		t.Errorf("denied below %d, kept is %d, %v", f.log.Minimum(), kept.Minimum, err)
	}
	f.mustSubmit(p.batch(10)...) // and appending is not held up
	release()
	f.published(f.log.Size())
	f.swept(1)
	entries := f.log.Published()
	for index := tree.Size(); index < entries; index++ {
		entry, err := f.log.Entry(context.Background(), index)
		if err != nil {
			t.Fatal(err)
		}
		tree.AppendData(entry)
	}
	f.checkProofs(tree, f.log.Minimum())
}

func TestPruneOpenings(t *testing.T) {
	f := pruning(t)
	p := f.producer("proxy-1")
	box := make([]byte, 64)
	box[0] = 1
	batch := func(n int) *sealtapv1.SubmitRequest {
		req := new(sealtapv1.SubmitRequest)
		for range n {
			entry := p.encode(&sealtapv1.Record{Producer: p.stream.Producer[:], Incarnation: p.stream.Incarnation[:], Sequence: p.tree.Size(),
				Sealed: []*sealtapv1.SealedField{{Field: "path", Commitment: make([]byte, 32)}}})
			req.Items = append(req.Items, &sealtapv1.Item{Entry: entry, Openings: box})
		}
		req.Items = append(req.Items, &sealtapv1.Item{Entry: p.seal()})
		return req
	}
	// One run, which begins in the bundle of the genesis, which is kept.
	first := p.clone()
	some := first.tree
	all := batch(600)
	one := &sealtapv1.SubmitRequest{Items: all.Items[:100:100]}
	for _, it := range one.Items {
		some.Append(record.LeafHash(it.Entry), nil)
	}
	one.Items = append(one.Items, &sealtapv1.Item{Entry: p.sealOf(100, some.Root())})
	for _, req := range []*sealtapv1.SubmitRequest{all} {
		if _, err := f.log.Submit(context.Background(), req); err != nil {
			t.Fatal(err)
		}
	}
	has := func(index uint64) bool {
		_, ok, err := f.openings.Opening(context.Background(), index)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if !has(50) || !has(550) {
		t.Fatal("openings were not kept")
	}
	f.retain(record.Retention{Entries: 50})
	f.pruned(512)
	for deadline := time.Now().Add(20 * time.Second); has(50) || has(511); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("openings below the minimum index are still there")
		}
	}
	if !has(550) {
		t.Error("openings above the minimum index are gone")
	}
	if _, err := f.log.Submit(context.Background(), one); err != nil || has(50) {
		t.Errorf("a repeated submission: %v, or it brought pruned openings back", err)
	}
}

// TestRetentionRefused: only the operator's next statement counts.
func TestRetentionRefused(t *testing.T) {
	f := newFixture(t).start()
	stranger := newKey(t, "operator", keys.Ed25519)
	state := func(origin string, number uint64, key *keys.Private) error {
		entry, err := record.NewRetention(origin, number, record.Retention{Entries: 1}, key)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.submit(entry)
		return err
	}
	if err := state(f.key.Name, 1, stranger); !errors.Is(err, record.ErrStatement) {
		t.Errorf("by a stranger: %v", err)
	}
	if err := state("log.example/other", 1, f.operator); !errors.Is(err, record.ErrStatement) {
		t.Errorf("for another log: %v", err)
	}
	if err := state(f.key.Name, 2, f.operator); !expected(1)(err) {
		t.Errorf("out of turn: %v", err)
	}
	f.retain(record.Retention{Entries: 5})
	f.retain(record.Retention{Entries: 6})
	f.changes = 0
	f.retain(record.Retention{Entries: 5}) // repeated: the answer is where it stands
	if f.log.Size() != 3 {
		t.Errorf("size %d", f.log.Size())
	}
	f.changes = 0
	p := newProducer(t, newKey(t, "p", keys.Ed25519))
	entry, err := record.NewKeyChange(record.KeyChange{Origin: f.key.Name, Number: 1, Enrol: []keys.Public{p.key.Public}}, f.operator)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.submit(entry); !expected(3)(err) {
		t.Errorf("a key change with the number of a statement: %v", err)
	}
}

// TestPrunedTree: a log whose size is its minimum index opens.
func TestPrunedTree(t *testing.T) {
	f := pruning(t)
	p := f.producer("proxy-1")
	f.retain(record.Retention{Entries: 1})
	f.mustSubmit(p.batch(1024 - 3 - 1 + 1)...) // 1025 entries
	f.published(1025)
	f.pruned(1024)
	f.restart()
	f.pruned(1024)
	f.published(1025)
	f.mustSubmit(p.batch(10)...)
	root, err := tiles.Root(context.Background(), f.storage, f.log.Size())
	if err != nil || root == (record.Hash{}) {
		t.Errorf("root %s, %v", root, err)
	}
	db, err := sqlite.OpenLogFile(context.Background(), filepath.Join(f.dir, "log.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	kept, statements, err := db.Pruned(context.Background())
	if err != nil || kept.Minimum != 1024 || fmt.Sprint(statements) != "[0 1 2]" {
		t.Errorf("the file says %+v, %v, %v", kept, statements, err)
	}
}

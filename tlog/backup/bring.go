package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/durable"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

type (
	entries = iter.Seq2[[]byte, error]
	body    = checkpoint.Body
)

// chunk is how many entries are fetched at a time.
const chunk = 8 * storage.BundleWidth

func none(func([]byte, error) bool) {}

// placed is a record with sealed fields.
type placed struct {
	index uint64
	leaf  record.Hash
}

// bring brings in what the log lacks to the newest checkpoint, from one copy after
// the other.
func (r *restore) bring(ctx context.Context, log storage.Log) error {
	for i := range r.From {
		o := &r.outcome.Copies[i]
		if err := ctx.Err(); err != nil || r.outcome.Complete() {
			return err
		}
		before := r.outcome.Size
		if o.Err = r.beyond(i); o.Err == nil {
			o.Err = r.bringFrom(ctx, log, &r.From[i])
		}
		o.Brought = r.outcome.Size - before
		if err := ctx.Err(); err != nil {
			return err
		}
		// What is wrong with the copy is told with the outcome.
		if o.Err != nil && !ofCopy(o.Err) {
			return o.Err
		}
	}
	return nil
}

// ofCopy tells what is wrong with a copy from what is wrong with the log that is
// restored.
func ofCopy(err error) bool {
	return errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrVerification) || errors.Is(err, ErrOlder) || errors.Is(err, ErrOther)
}

// bringFrom brings in what one copy has. That is proven under the newest checkpoint;
// if the copy cannot give all the hashes for that, under a smaller one that the log has
// signed as well. A copy is held to its own head: what it lacks above is not wrong.
func (r *restore) bringFrom(ctx context.Context, log storage.Log, c *Copy) error {
	own, ownErr := r.copied(ctx, c)
	heads := slices.Clone(r.known)
	switch {
	case errors.Is(ownErr, ErrOther):
		return ownErr
	case ownErr == nil:
		heads = append(heads, own)
	}
	slices.SortStableFunc(heads, func(a, b sighting) int { return cmp.Compare(b.size, a.size) })
	for _, head := range slices.CompactFunc(heads, func(a, b sighting) bool { return a.size == b.size }) {
		if head.size <= r.outcome.Size {
			break
		}
		if head.size > r.newest.size {
			continue // the copy has grown meanwhile
		}
		err := r.bringUnder(ctx, log, c, head)
		if err == nil {
			break
		}
		switch {
		case !ofCopy(err) || ctx.Err() != nil:
			return err
		case errors.Is(ownErr, ErrDamaged):
			return fmt.Errorf("%w: %w", client.ErrVerification, ownErr)
		case ownErr != nil && !errors.Is(ownErr, sqlite.ErrNoPublished), ownErr == nil && own.size >= head.size:
			return err
		}
	}
	if r.outcome.Complete() {
		return nil
	}
	what := "it shows no head"
	if ownErr == nil {
		what = fmt.Sprintf("its newest head is of %d entries", own.size)
	}
	return fmt.Errorf("%w: %s, and what is missing is entries %d to %d", ErrOlder, what, r.outcome.Size, r.newest.size-1)
}

// bringUnder brings in the entries to a checkpoint.
func (r *restore) bringUnder(ctx context.Context, log storage.Log, c *Copy, head sighting) error {
	tree := client.NewTree(c.Reader, head.size, head.root)
	have, err := log.Load(ctx)
	if err != nil {
		return err
	}
	if err := tree.Consistent(ctx, body{Size: have.Size, Root: have.Root}); err != nil {
		return fmt.Errorf("%s: %w", c.Where, err)
	}
	got, err := r.replay(ctx, log, r.proven(ctx, tree, have.Size))
	if got.Size > 0 {
		r.outcome.Size = got.Size
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.Where, err)
	}
	if got.Size != head.size || got.Root != head.root {
		return fmt.Errorf("%s: %w: %d entries came out with root %x, signed for %d was %s", c.Where, ErrDamaged, got.Size, got.Root, head.size, head.root)
	}
	return nil
}

// publish makes the newest checkpoint the published one of a log that can start,
// if what was seen of it satisfies the policy. An older one is not shown again:
// those who have seen the newer one would have to take it for a rollback.
// It reports whether it has.
func (r *restore) publish(ctx context.Context, log *sqlite.Log) (published bool, err error) {
	if r.newest == nil {
		return false, nil
	}
	if err := log.Unpublish(ctx); err != nil || !r.outcome.Complete() {
		return false, err
	}
	head := storage.Head{Size: r.newest.size, Root: r.newest.root, Note: r.newest.signed()}
	if err := log.SetSigned(ctx, head); err != nil {
		return false, err
	}
	var cosignatures []policy.Cosignature
	for _, s := range r.known {
		if s.size == head.Size {
			cosignatures = append(cosignatures, s.cp.Cosignatures...)
		}
	}
	cp, err := r.Policy.Verify(r.newest.cp.Cosign(cosignatures...))
	if err != nil {
		return false, nil // the witnesses are asked again when the log starts
	}
	head.Note = cp.Note
	return true, log.SetPublished(ctx, head)
}

// proven yields the entries of a tree from an index on, each once it is proven.
func (r *restore) proven(ctx context.Context, tree *client.Tree, from uint64) entries {
	progress := r.Progress.of("bringing in entries")
	return func(yield func([]byte, error) bool) {
		for from < tree.Size() {
			// Whole bundles, but for the ends.
			end := min(tree.Size(), from-from%storage.BundleWidth+chunk)
			indices := make([]uint64, 0, chunk)
			for i := from; i < end; i++ {
				indices = append(indices, i)
			}
			list, err := tree.Entries(ctx, indices...)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, entry := range list {
				r.note(from, entry)
				if !yield(entry, nil) {
					return
				}
				from++
			}
			if progress != nil {
				progress(from, tree.Size())
			}
		}
	}
}

// note remembers a record that has openings.
func (r *restore) note(index uint64, entry []byte) {
	if e, err := record.Parse(entry); err == nil && e.Record != nil && len(e.Record.GetSealed()) > 0 {
		r.brought = append(r.brought, placed{index, e.Leaf})
	}
}

// settleOpenings counts the openings that are gone, and forgets those of entries
// that a log which can start does not have: others will come to stand there.
func (r *restore) settleOpenings(ctx context.Context, path string) (err error) {
	db, err := sqlite.OpenOpenings(ctx, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if r.outcome.Complete() {
		if err := db.Discard(ctx, r.outcome.Size); err != nil {
			return err
		}
	}
	f, err := sqlite.OpenOpeningsFile(ctx, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	seen := make(map[uint64]bool) // one may have been fetched twice
	for _, p := range r.brought {
		if p.index >= r.outcome.Size || seen[p.index] {
			continue
		}
		seen[p.index] = true
		known, err := f.Knows(ctx, p.index, p.leaf)
		if err != nil {
			return err
		}
		if !known {
			r.outcome.Lost++
		}
	}
	return nil
}

// place puts what was staged in place: the signed checkpoint first, so that a
// crash can only leave a log that does not start.
func (r *restore) place(ctx context.Context) error {
	stage := filepath.Dir(r.path)
	openings := r.Database + ".openings"
	if r.newest != nil {
		if err := sqlite.WriteSigned(r.Database, r.newest.signed()); err != nil {
			return err
		}
	}
	if err := r.placeOpenings(ctx, filepath.Join(stage, openingsFile), openings); err != nil {
		return err
	}
	if err := closed(r.path); err != nil {
		return err
	}
	// The index is a cache of the log that is gone; it is made again from what is
	// restored. A database that is there has no entries.
	if err := errors.Join(sqlite.Remove(r.Database+".index"), sqlite.Remove(r.Database)); err != nil {
		return err
	}
	if err := os.Rename(r.path, r.Database); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(r.Database))
}

// closed reports whether all of a database is in its one file.
func closed(path string) error {
	for _, suffix := range []string{"-wal", "-journal"} {
		if _, err := os.Stat(path + suffix); err == nil {
			return fmt.Errorf("closing %s left %s behind", path, path+suffix)
		}
	}
	return nil
}

// placeOpenings puts the openings of the backup in place. Where the log's own are
// still there those are the newer ones, and nothing was erased from the backup that
// is not erased there.
func (r *restore) placeOpenings(ctx context.Context, staged, path string) error {
	kept, err := sqlite.HasOpenings(ctx, path)
	if err != nil {
		return err
	}
	if kept {
		r.outcome.Openings = OpeningsKept
		return r.settleOpenings(ctx, path)
	}
	had, err := sqlite.HasOpenings(ctx, staged)
	if err != nil {
		return err
	}
	r.outcome.Openings = OpeningsRestored
	if !had {
		r.noOpenings()
	}
	if err := r.settleOpenings(ctx, staged); err != nil { // makes an empty one where there is none
		return err
	}
	if err := closed(staged); err != nil {
		return err
	}
	// One without openings, as a log makes that is started without its files.
	if err := sqlite.Remove(path); err != nil {
		return err
	}
	if err := os.Rename(staged, path); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// noOpenings says that there are none: those of the records that were stored are gone
// as well as those of the records that are brought in.
func (r *restore) noOpenings() {
	r.outcome.Openings = OpeningsEmpty
	r.outcome.Lost += r.sealed
}

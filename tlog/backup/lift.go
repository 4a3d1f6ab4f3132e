package backup

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// A backup of a pruned log has the minimum index of its time. Copies that were pruned
// since show another one, and why they could be.

// pruned is a copy that can say what it keeps.
type pruned interface {
	Retention(ctx context.Context) (*client.Retention, error)
}

// askRetention asks the copies from where on they have entries. One that cannot say
// is taken to have all.
func (r *restore) askRetention(ctx context.Context) {
	r.kept = make([]client.Retention, len(r.From))
	for i, c := range r.From {
		if errors.Is(r.outcome.Copies[i].Err, client.ErrUnavailable) {
			continue
		}
		if p, ok := c.Reader.(pruned); ok {
			if k, err := p.Retention(ctx); err == nil {
				r.kept[i] = *k
			}
		}
	}
}

// beyond reports whether a copy no longer has the first entry that is missing.
func (r *restore) beyond(i int) error {
	if r.kept[i].Minimum <= r.outcome.Size {
		return nil
	}
	return fmt.Errorf("%w: %w: it has entries from %d on, and what is missing begins at %d", client.ErrUnavailable, client.ErrPruned, r.kept[i].Minimum, r.outcome.Size)
}

// checkGap returns an error that wraps [ErrGone] if the copies are known to lack
// what comes right after a backup: nothing that is put in place then could start.
func (r *restore) checkGap() error {
	if r.newest == nil || r.newest.size <= r.outcome.Size {
		return nil
	}
	gone := -1
	for i := range r.From {
		switch {
		case r.beyond(i) != nil:
			gone = i
		case r.outcome.Copies[i].Size > r.outcome.Size, r.outcome.Copies[i].Err != nil:
			return nil
		}
	}
	if gone < 0 {
		return nil
	}
	return fmt.Errorf("%w: the backup ends before entry %d, %s was pruned and begins at entry %d, and the log has signed %d; "+
		"say a newer backup, or --from a copy that still has them", ErrGone, r.outcome.Size, r.From[gone].Where, r.kept[gone].Minimum, r.newest.size)
}

// lift takes over the largest minimum index that a copy shows, once what is published
// reaches so far and the operator's statements allow it. Otherwise the log prunes by
// itself again when it runs.
func (r *restore) lift(ctx context.Context, log *sqlite.Log, published bool) error {
	have, err := log.Pruned(ctx)
	if err != nil {
		return err
	}
	r.outcome.Minimum = have.Minimum
	best := -1
	for i, k := range r.kept {
		if k.Minimum > have.Minimum && k.Minimum <= r.outcome.Size && (best < 0 || k.Minimum > r.kept[best].Minimum) {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	to := storage.Pruned{Minimum: r.kept[best].Minimum, At: r.kept[best].At, Old: r.kept[best].Old}
	r.outcome.Before = to.Minimum
	if !published {
		return nil
	}
	err = tlog.Lift(ctx, tlog.Config{Key: r.Key, Policy: r.Policy, Storage: log, Logger: r.Logger}, to, func(ring *record.Keyring) error {
		d := client.Decision{Minimum: to.Minimum, At: to.At, Old: to.Old, Origin: r.Key.Name, Size: r.outcome.Size, Policy: r.Policy, Ring: ring,
			IsPrefix: func(ctx context.Context, head checkpoint.Body) (bool, error) {
				root, err := tiles.Root(ctx, log, head.Size)
				return root == record.Hash(head.Root), err
			}}
		_, err := d.Check(ctx)
		return err
	})
	switch {
	case errors.Is(err, client.ErrNotAllowed), errors.Is(err, client.ErrUnavailable):
		return nil // the copy has let go of what we have, for reasons of its own
	case err != nil:
		return fmt.Errorf("lifting the minimum index to %d: %w", to.Minimum, err)
	}
	r.outcome.Minimum = to.Minimum
	return nil
}

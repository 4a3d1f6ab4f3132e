package tlog

import (
	"context"
	"fmt"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// Lift moves the minimum index of a log that was put back from an older copy of its
// storage to where it had been before. The checkpoints that allowed it come along;
// whether they do is for the caller to check, who is given the operator's statements.
// Nothing is deleted yet: a log does that when it runs. Openings, Operator and Cosigner
// of the configuration are not used.
func Lift(ctx context.Context, c Config, to storage.Pruned, allowed func(*record.Keyring) error) error {
	c.Operator, c.Openings, c.Cosigner = nil, nil, nil
	l, err := Open(ctx, c)
	if err != nil {
		return err
	}
	if l.pruner == nil || to.Minimum > l.Size() {
		return fmt.Errorf("%w: the minimum index cannot be %d", storage.ErrMoved, to.Minimum)
	}
	if err := allowed(l.ring); err != nil {
		return err
	}
	for l.Minimum() < to.Minimum {
		step := storage.Pruned{Minimum: min(to.Minimum, l.Minimum()+pruneStep*tiles.Width), At: to.At, Old: to.Old}
		edges, err := l.edgesAt(ctx, step.Minimum)
		if err != nil {
			return err
		}
		if err := l.pruner.SetPruned(ctx, step, edges); err != nil {
			return err
		}
		if err := l.restorePruned(ctx); err != nil {
			return err
		}
	}
	return nil
}

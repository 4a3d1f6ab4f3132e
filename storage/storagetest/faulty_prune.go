package storagetest

import (
	"context"
	"time"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

// A Faulty storage can be pruned if the one underneath can: its methods panic
// where that one cannot.
var _ storage.Pruner = (*Faulty)(nil)

// Pruner is the storage underneath, without faults.
func (f *Faulty) Pruner() storage.Pruner { return f.Log.(storage.Pruner) }

// Pruned implements [storage.Pruner].
func (f *Faulty) Pruned(ctx context.Context) (p storage.Pruned, err error) {
	err = f.call(ctx, "Pruned", func(ctx context.Context) error {
		p, err = f.Pruner().Pruned(ctx)
		return err
	})
	return p, err
}

// SetPruned implements [storage.Pruner].
func (f *Faulty) SetPruned(ctx context.Context, p storage.Pruned, edges []storage.Stream) error {
	return f.call(ctx, "SetPruned", func(ctx context.Context) error { return f.Pruner().SetPruned(ctx, p, edges) })
}

// Sweep implements [storage.Pruner].
func (f *Faulty) Sweep(ctx context.Context, bundles int) (more bool, err error) {
	more = true
	err = f.call(ctx, "Sweep", func(ctx context.Context) error {
		more, err = f.Pruner().Sweep(ctx, bundles)
		return err
	})
	return more, err
}

// StreamNames implements [storage.Pruner].
func (f *Faulty) StreamNames(ctx context.Context) ([]record.Stream, error) {
	return f.Pruner().StreamNames(ctx)
}

// PrunedStream implements [storage.Pruner].
func (f *Faulty) PrunedStream(ctx context.Context, s record.Stream) (storage.Stream, bool, error) {
	return f.Pruner().PrunedStream(ctx, s)
}

// PrunedStreams implements [storage.Pruner].
func (f *Faulty) PrunedStreams(ctx context.Context, place uint64, limit int) ([]storage.Stream, uint64, error) {
	return f.Pruner().PrunedStreams(ctx, place, limit)
}

// AddMark implements [storage.Pruner].
func (f *Faulty) AddMark(ctx context.Context, m storage.Mark) error {
	return f.call(ctx, "AddMark", func(ctx context.Context) error { return f.Pruner().AddMark(ctx, m) })
}

// MarkBefore implements [storage.Pruner].
func (f *Faulty) MarkBefore(ctx context.Context, t time.Time) (storage.Mark, bool, error) {
	return f.Pruner().MarkBefore(ctx, t)
}

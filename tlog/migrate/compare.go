package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/tlog"
)

// compare holds everything that readers can ask for against the file, but for openings
// and the times of checkpoints, which were compared as they were copied.
func (m *migration) compare(ctx context.Context) error {
	if err := m.compareState(ctx); err != nil {
		return err
	}
	if err := m.compareForks(ctx); err != nil {
		return err
	}
	size := m.state.Size
	for n := uint64(0); n*storage.BundleWidth < size; n++ {
		if err := m.same(ctx, fmt.Sprintf("bundle %d", n), func(s storage.Log) ([]byte, error) { return s.Bundle(ctx, n) }); err != nil {
			return err
		}
		m.Progress("comparing", min(size, (n+1)*storage.BundleWidth), size)
	}
	const hash = len(record.Hash{})
	for level, nodes := uint(0), size; nodes > 0; level, nodes = level+1, nodes/storage.BundleWidth {
		for n := uint64(0); n*storage.BundleWidth < nodes; n++ {
			width := int(min(nodes-n*storage.BundleWidth, storage.BundleWidth)) * hash
			if err := m.same(ctx, fmt.Sprintf("tile %d/%d", level, n), func(s storage.Log) ([]byte, error) {
				t, err := s.Tile(ctx, level, n)
				if err == nil && len(t) < width {
					err = fmt.Errorf("%w: it is short", storage.ErrCorrupt)
				}
				return t[:min(width, len(t))], err
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// compareForks compares the evidence against producers.
func (m *migration) compareForks(ctx context.Context) error {
	want, err1 := m.from.Forks(ctx)
	got, err2 := m.Log.Forks(ctx)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if !slices.EqualFunc(got, want, func(a, b storage.Fork) bool {
		return a.Stream == b.Stream && a.Sequence == b.Sequence && a.Index == b.Index && bytes.Equal(a.Entry, b.Entry) && bytes.Equal(a.Seal, b.Seal) && a.Seen.Equal(b.Seen)
	}) {
		return fmt.Errorf("%w: its %d forks are not the %d of the file", ErrTarget, len(got), len(want))
	}
	return nil
}

// compareHeads compares the checkpoints, cosignatures and all, and opens the log as its
// server will.
func (m *migration) compareHeads(ctx context.Context) error {
	got, err := m.Log.Load(ctx)
	if err != nil {
		return err
	}
	for what, pair := range map[string][2]*storage.Head{"signed": {got.Signed, m.state.Signed}, "published": {got.Published, m.state.Published}} {
		g, w := pair[0], pair[1]
		if (g == nil) != (w == nil) || w != nil && (g.Size != w.Size || g.Root != w.Root || !bytes.Equal(g.Note, w.Note)) {
			return fmt.Errorf("%w: its %s checkpoint is not that of the file", ErrTarget, what)
		}
	}
	_, err = tlog.Open(ctx, tlog.Config{Key: m.Key, Policy: m.Policy, Storage: m.Log, Follow: true})
	return err
}

func (m *migration) same(ctx context.Context, what string, read func(storage.Log) ([]byte, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	want, err1 := read(m.from)
	got, err2 := read(m.Log)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("comparing %s: %w", what, err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%w: %s is not that of the file", ErrTarget, what)
	}
	return nil
}

// compareState compares sizes, roots, streams and statements, and where each stream's
// records stand.
func (m *migration) compareState(ctx context.Context) error {
	got, err := m.Log.Load(ctx)
	if err != nil {
		return err
	}
	want := m.state
	if got.Size != want.Size || got.Root != want.Root || !bytes.Equal(got.Head, want.Head) || !slices.Equal(got.KeyChanges, want.KeyChanges) {
		return fmt.Errorf("%w: its state is not that of the file", ErrTarget)
	}
	streams := make(map[record.Stream]storage.Stream)
	for _, s := range got.Streams {
		streams[s.Stream] = s
	}
	if len(got.Streams) != len(want.Streams) {
		return fmt.Errorf("%w: it has %d streams, the file %d", ErrTarget, len(got.Streams), len(want.Streams))
	}
	for _, s := range want.Streams {
		if g := streams[s.Stream]; g.Size != s.Size || !slices.Equal(g.Edge, s.Edge) {
			return fmt.Errorf("%w: stream %s is not that of the file", ErrTarget, s.Stream.Origin())
		}
		for sequence := uint64(0); sequence < s.Size; {
			r1, ok1, err1 := m.from.Run(ctx, s.Stream, sequence)
			r2, ok2, err2 := m.Log.Run(ctx, s.Stream, sequence)
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
			if r1 != r2 || !ok1 || !ok2 {
				return fmt.Errorf("%w: record %d of stream %s stands elsewhere", ErrTarget, sequence, s.Stream.Origin())
			}
			sequence = r1.Sequence + r1.Count
		}
	}
	return nil
}

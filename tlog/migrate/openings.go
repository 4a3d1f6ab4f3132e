package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/sqlite"
)

// page is how many rows are read at a time.
const page = 1000

// openings copies openings and keys, and compares them.
func (m *migration) openings(ctx context.Context) (err error) {
	if m.Openings == nil {
		return nil
	}
	if _, err := os.Stat(m.Database + ".openings"); errors.Is(err, os.ErrNotExist) {
		return m.Openings.Import(ctx, 0, math.MaxInt64, nil)
	}
	// A file of an earlier version is brought up to date.
	o, err := sqlite.OpenOpenings(ctx, m.Database+".openings")
	if err == nil {
		err = o.Close()
	}
	if err != nil {
		return err
	}
	f, err := sqlite.OpenOpeningsFile(ctx, m.Database+".openings")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := m.copyOpenings(ctx, f); err != nil {
		return err
	}
	return m.copyKeys(ctx, f)
}

// stored leaves out what was put for a batch that was never stored.
func (m *migration) stored(rows []storage.OpeningRow) []storage.OpeningRow {
	for i, r := range rows {
		if r.Index >= m.state.Size {
			return rows[:i]
		}
	}
	return rows
}

func (m *migration) copyOpenings(ctx context.Context, f *sqlite.OpeningsFile) error {
	for next := uint64(0); ; {
		rows, err := f.RowsFrom(ctx, next, page)
		if err != nil {
			return err
		}
		if rows = m.stored(rows); len(rows) == 0 {
			return m.Openings.Import(ctx, next, math.MaxInt64, nil)
		}
		end := rows[len(rows)-1].Index + 1
		if err := m.Openings.Import(ctx, next, end, rows); err != nil {
			return err
		}
		got, err := m.Openings.RowsFrom(ctx, next, len(rows))
		if err != nil {
			return err
		}
		if err := sameOpenings(rows, got); err != nil {
			return err
		}
		m.outcome.Openings += uint64(len(rows))
		next = end
		m.Progress("copying openings", min(next, m.state.Size), m.state.Size)
	}
}

func sameOpenings(want, got []storage.OpeningRow) error {
	if len(got) != len(want) {
		return fmt.Errorf("%w: of %d openings from entry %d on it has %d", ErrTarget, len(want), want[0].Index, len(got))
	}
	for i, w := range want {
		// They may have been erased there.
		if g := got[i]; g.Index != w.Index || !bytes.Equal(g.Leaf, w.Leaf) || g.Box != nil && !bytes.Equal(g.Box, w.Box) {
			return fmt.Errorf("%w: the openings of entry %d are not those of the file", ErrTarget, w.Index)
		}
	}
	return nil
}

func (m *migration) copyKeys(ctx context.Context, f *sqlite.OpeningsFile) error {
	var after record.KeyID
	for first := true; ; first = false {
		list, err := f.KeysFrom(ctx, after, first, page)
		if err != nil || len(list) == 0 {
			return err
		}
		if err := m.Openings.ImportKeys(ctx, list); err != nil {
			return err
		}
		for _, k := range list {
			if err := m.sameKey(ctx, k); err != nil {
				return err
			}
		}
		after = list[len(list)-1].ID
	}
}

func (m *migration) sameKey(ctx context.Context, want storage.KeyRow) error {
	got, ok, err := m.Openings.Key(ctx, want.ID)
	if err != nil {
		return err
	}
	if !ok || got.Last != want.Last || got.Wrapped != nil && !bytes.Equal(got.Wrapped, want.Wrapped) {
		return fmt.Errorf("%w: the data key %x is not that of the file", ErrTarget, want.ID)
	}
	return nil
}

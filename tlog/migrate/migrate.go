// Package migrate takes a log from its SQLite file to another storage, without
// changing its origin, key, order or proofs.
//
// The log is stopped meanwhile. Entries take the way that they took the first time:
// each run is verified under the keys of its time and comes to stand where it stood.
// After a failure [Run] goes on from what it has stored. At the end everything that
// readers can ask for is compared, and the file gets another name, so that nobody
// starts the log from it again: it would be a second history.
package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"

	"github.com/sealtap/sealtap/durable"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/tlog/tiles"
	"github.com/sealtap/sealtap/witness/policy"
)

var (
	// ErrSource is wrapped where a log cannot be taken elsewhere.
	ErrSource = errors.New("this log cannot be migrated")
	// ErrTarget is wrapped where the storage holds something else.
	ErrTarget = errors.New("the storage holds another log")
)

// Moved is what stands behind the name of a database whose log is elsewhere.
const Moved = ".migrated"

// Openings is where openings go.
type Openings interface {
	// Import keeps openings and keys as they are, erased ones included.
	Import(ctx context.Context, rows []storage.OpeningRow, keys []storage.KeyRow) error
}

// Config says what goes where.
type Config struct {
	// Database is the path of the log's SQLite file. Required.
	Database string
	// Key, PostQuantumKey and Policy are those of the log.
	Key, PostQuantumKey *keys.Private
	Policy              *policy.Policy
	// Log and Openings are where it goes: empty, or what an earlier attempt has left.
	Log      storage.Log
	Openings Openings
	// Progress may be nil.
	Progress func(what string, done, total uint64)
}

// Outcome is what became of the log.
type Outcome struct {
	Origin   string
	Size     uint64
	Root     record.Hash
	Before   uint64 // entries that an earlier attempt had stored
	Openings uint64
}

// Run takes the log over.
func Run(ctx context.Context, c Config) (_ *Outcome, err error) {
	if c.Progress == nil {
		c.Progress = func(string, uint64, uint64) {}
	}
	if _, err := os.Stat(c.Database); err != nil {
		return nil, fmt.Errorf("migrating: %w", err)
	}
	from, err := sqlite.OpenLog(ctx, c.Database)
	if err != nil {
		return nil, fmt.Errorf("migrating: %w", err)
	}
	m := &migration{Config: c, from: from}
	err = m.run(ctx)
	if err = errors.Join(err, from.Close()); err != nil {
		return nil, fmt.Errorf("migrating: %w", err)
	}
	for _, path := range []string{c.Database, c.Database + ".openings"} {
		if err := putAway(path); err != nil {
			return nil, fmt.Errorf("the log is migrated, but its file could not be renamed; do it by hand, since a log that is started from it forks: %w", err)
		}
	}
	return &m.outcome, nil
}

func putAway(path string) error {
	if _, err := os.Stat(path + Moved); err == nil {
		return fmt.Errorf("%s is there already", path+Moved)
	}
	err := os.Rename(path, path+Moved)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return errors.Join(err, durable.SyncDir(filepath.Dir(path)))
}

type migration struct {
	Config
	from    *sqlite.Log
	state   *storage.State // of from
	outcome Outcome
}

func (m *migration) run(ctx context.Context) error {
	if err := m.checkSource(ctx); err != nil {
		return err
	}
	if err := m.checkTarget(ctx); err != nil {
		return err
	}
	if err := m.entries(ctx); err != nil {
		return err
	}
	if err := m.forks(ctx); err != nil {
		return err
	}
	if err := m.openings(ctx); err != nil {
		return err
	}
	if err := m.compare(ctx); err != nil {
		return err
	}
	return m.heads(ctx)
}

func (m *migration) checkSource(ctx context.Context) (err error) {
	if m.state, err = m.from.Load(ctx); err != nil {
		return err
	}
	pruned, err := m.from.Pruned(ctx)
	switch {
	case err != nil:
		return err
	case m.state.Size == 0:
		return fmt.Errorf("%w: it is empty; start a new one in its place", ErrSource)
	case pruned.Minimum > 0:
		return fmt.Errorf("%w: entries below %d are no longer kept, and another engine needs every entry to compute the tree; "+
			"begin a successor there (sealtap log successor)", ErrSource, pruned.Minimum)
	case m.state.Signed != nil && m.state.Signed.Size > m.state.Size:
		return fmt.Errorf("%w: it has %d entries and has signed for %d: it is an older copy", ErrSource, m.state.Size, m.state.Signed.Size)
	}
	m.outcome = Outcome{Origin: m.Key.Name, Size: m.state.Size, Root: m.state.Root}
	return nil
}

// checkTarget refuses a storage that holds anything but the beginning of this log.
func (m *migration) checkTarget(ctx context.Context) error {
	state, err := m.Log.Load(ctx)
	if err != nil || state.Size == 0 {
		return err
	}
	if state.Size > m.state.Size {
		return fmt.Errorf("%w: it has %d entries, the file %d", ErrTarget, state.Size, m.state.Size)
	}
	root, err := tiles.Root(ctx, m.from, state.Size)
	if err != nil {
		return err
	}
	if root != state.Root {
		return fmt.Errorf("%w: its %d entries have root %s, those of the file %s", ErrTarget, state.Size, state.Root, root)
	}
	m.outcome.Before = state.Size
	return nil
}

// entries stores the entries that are not there yet.
func (m *migration) entries(ctx context.Context) error {
	first, next := m.outcome.Before, m.outcome.Before
	var begin [][]byte
	if next == 0 {
		for entry, err := range m.read(ctx, 0) {
			if err != nil {
				return err
			}
			begin = [][]byte{bytes.Clone(entry)}
			break
		}
		next = 1
	}
	end, err := tlog.Replay(ctx, tlog.Config{Key: m.Key, PostQuantumKey: m.PostQuantumKey, Policy: m.Policy, Storage: m.Log, Begin: begin}, m.read(ctx, next))
	if err != nil {
		return fmt.Errorf("after entry %d: %w", max(end.Size, first), err)
	}
	if end.Size != m.state.Size || record.Hash(end.Root) != m.state.Root {
		return fmt.Errorf("%w: %d entries have root %s there, %d have %s in the file", ErrTarget, end.Size, record.Hash(end.Root), m.state.Size, m.state.Root)
	}
	return nil
}

// read yields the entries of the file from an index on.
func (m *migration) read(ctx context.Context, first uint64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for n := first / storage.BundleWidth; n*storage.BundleWidth < m.state.Size; n++ {
			bundle, err := m.from.Bundle(ctx, n)
			if err != nil {
				yield(nil, err)
				return
			}
			index := n * storage.BundleWidth
			for entry, err := range storage.Entries(bundle) {
				if err != nil {
					yield(nil, err)
					return
				}
				if index >= first && index < m.state.Size && !yield(entry, nil) {
					return
				}
				index++
			}
			m.Progress("storing entries", min(index, m.state.Size), m.state.Size)
		}
	}
}

func (m *migration) forks(ctx context.Context) error {
	list, err := m.from.Forks(ctx)
	if err != nil {
		return err
	}
	for _, f := range list {
		if _, err := m.Log.AddFork(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// openings copies openings and keys.
func (m *migration) openings(ctx context.Context) (err error) {
	if m.Openings == nil {
		return nil
	}
	if _, err := os.Stat(m.Database + ".openings"); errors.Is(err, os.ErrNotExist) {
		return nil
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
	const page = 1000
	for next := uint64(0); ; {
		rows, err := f.Rows(ctx, next, page)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			break
		}
		if err := m.Openings.Import(ctx, rows, nil); err != nil {
			return err
		}
		m.outcome.Openings += uint64(len(rows))
		next = rows[len(rows)-1].Index + 1
		m.Progress("copying openings", min(next, m.state.Size), m.state.Size)
	}
	var after record.KeyID
	for first := true; ; first = false {
		list, err := f.Keys(ctx, after, first, page)
		if err != nil || len(list) == 0 {
			return err
		}
		if err := m.Openings.Import(ctx, nil, list); err != nil {
			return err
		}
		after = list[len(list)-1].ID
	}
}

// heads keeps the signed and the published checkpoint, as they are.
func (m *migration) heads(ctx context.Context) error {
	if m.state.Signed != nil {
		if err := m.setSigned(ctx, *m.state.Signed); err != nil {
			return err
		}
	}
	if m.state.Published != nil {
		return m.Log.SetPublished(ctx, *m.state.Published)
	}
	return nil
}

// lagging is a storage that says how far it is behind itself.
type lagging interface{ Taken() uint64 }

// setSigned waits for as long as the storage gets on.
func (m *migration) setSigned(ctx context.Context, h storage.Head) error {
	l, lags := m.Log.(lagging)
	for before := uint64(0); ; {
		err := m.Log.SetSigned(ctx, h)
		if err == nil || !lags || ctx.Err() != nil || l.Taken() <= before {
			return err
		}
		before = l.Taken()
		m.Progress("waiting for Trillian", before, h.Size)
	}
}

// Package migrate takes a log from its SQLite file to another storage, without
// changing its origin, key, order or proofs.
//
// The log is stopped meanwhile. Entries take the way that they took the first time:
// each run is verified under the keys of its time and comes to stand where it stood.
// After a failure [Run] goes on from what it has stored, and copies what has changed in
// the file. Meanwhile no log can be started from what is there: a storage that can,
// expects the signed head of the file. At the end everything that readers can ask for is
// compared, and the file gets another name, so that nobody starts the log from it again:
// it would be a second history.
package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
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

// Openings is where openings go. What was erased there stays erased.
type Openings interface {
	// Import makes the openings of the entries from one index to before another those
	// that are given, erased ones included.
	Import(ctx context.Context, from, to uint64, rows []storage.OpeningRow) error
	// ImportKeys keeps data keys as they are, erased ones included.
	ImportKeys(ctx context.Context, keys []storage.KeyRow) error

	// RowsFrom returns openings from an entry on, in order, so many at most.
	RowsFrom(ctx context.Context, from uint64, limit int) ([]storage.OpeningRow, error)
	// Key returns a data key, erased or not, and reports whether it is there.
	Key(ctx context.Context, id record.KeyID) (storage.KeyRow, bool, error)
}

// expecter is a storage that can keep a signed checkpoint of entries that are still to
// come: until they are there no log goes on from it.
type expecter interface {
	Expect(ctx context.Context, h storage.Head) error
}

// Config says what goes where.
type Config struct {
	// Database is the path of the log's SQLite file. Required.
	Database string
	// Key and Policy are those of the log.
	Key    *keys.Private
	Policy *policy.Policy
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
	paths := []string{c.Database, c.Database + ".openings"}
	if err := free(paths); err != nil {
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
	for _, path := range paths {
		if err := putAway(path); err != nil {
			return nil, fmt.Errorf("the log is migrated, but its file could not be renamed; do it by hand, since a log that is started from it forks: %w", err)
		}
	}
	return &m.outcome, nil
}

// free returns an error if there is no file, or the names are taken that it and the one
// with the openings get at the end.
func free(paths []string) error {
	_, err := os.Stat(paths[0])
	for _, path := range paths {
		if _, taken := os.Lstat(path + Moved); taken == nil {
			if errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("%w: it was already, and is %s now", ErrSource, path+Moved)
			}
			return fmt.Errorf("%w: %s is there, from an earlier one; give it another name", ErrSource, path+Moved)
		}
	}
	return err
}

// putAway renames a database that nobody has open.
func putAway(path string) error {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	lock, err := durable.Lock(path + ".lock")
	if err != nil {
		return fmt.Errorf("%s was opened by another process since: %w", path, err)
	}
	defer lock.Close()
	// Where somebody reads the file the last changes are still in the WAL.
	for _, suffix := range []string{"-wal", ""} {
		if err := os.Rename(path+suffix, path+Moved+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return durable.SyncDir(filepath.Dir(path))
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
	for _, step := range []func(context.Context) error{m.expect, m.entries, m.forks, m.marks, m.openings, m.compare, m.heads, m.compareHeads} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
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
	if err := m.checkSigned(ctx); err != nil {
		return err
	}
	m.outcome = Outcome{Origin: m.Key.Name, Size: m.state.Size, Root: m.state.Root}
	return nil
}

// checkSigned holds the signed checkpoint against the entries.
func (m *migration) checkSigned(ctx context.Context) error {
	if m.state.Signed == nil {
		return nil
	}
	v, err := m.Key.Verifier()
	if err != nil {
		return err
	}
	body, _, err := checkpoint.Open(m.state.Signed.Note, note.VerifierList(v))
	if err != nil {
		return fmt.Errorf("%w: its last signed checkpoint is not by the key %s: %w", ErrSource, m.Key.Public, err)
	}
	root, err := tiles.Root(ctx, m.from, m.state.Signed.Size)
	if err != nil {
		return err
	}
	if body != (checkpoint.Body{Origin: m.Key.Name, Size: m.state.Signed.Size, Root: root}) {
		return fmt.Errorf("%w: its entries do not give the root that was signed for %d; run an audit", ErrSource, m.state.Signed.Size)
	}
	return nil
}

// checkTarget refuses a storage that holds anything but the beginning of this log.
func (m *migration) checkTarget(ctx context.Context) error {
	state, err := m.Log.Load(ctx)
	if err != nil || state.Size == 0 {
		return err
	}
	if state.Size > m.state.Size {
		return fmt.Errorf("%w: it has %d entries, the file %d; if the log runs there already, the file is done with", ErrTarget, state.Size, m.state.Size)
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

// expect has nobody start a log before all its entries are there.
func (m *migration) expect(ctx context.Context) error {
	e, ok := m.Log.(expecter)
	if !ok || m.state.Signed == nil {
		return nil
	}
	return e.Expect(ctx, *m.state.Signed)
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
	// Nothing is signed: a post-quantum key may be named by a later entry only.
	end, err := tlog.Replay(ctx, tlog.Config{Key: m.Key, Policy: m.Policy, Storage: m.Log, Begin: begin}, m.read(ctx, next))
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

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"filippo.io/age"

	"github.com/sealtap/sealtap/audit"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog/backup"
	"github.com/sealtap/sealtap/tlog/client"
)

// source is what an audit reads.
type source struct {
	audit.Source
	openings func(index uint64, leaf record.Hash) ([]*sealtapv1.Opening, error) // nil if none are at hand
	checks   []func(size uint64) ([]audit.Finding, error)                       // of what else is there, once an audit has passed
	closers  closers
}

func (s *source) close() { _ = s.closers.close() }

// openSource opens what is to be audited. A data directory is read as it lies on
// disk, without the log server.
func (r *reading) openSource(ctx context.Context, location string) (*source, error) {
	if _, err := os.Stat(filepath.Join(location, "log.db")); err == nil && !strings.Contains(location, "://") {
		s, err := openData(ctx, location)
		if err == nil && backup.Is(location) {
			s.checks = append(s.checks, func(uint64) ([]audit.Finding, error) { return checkBackup(ctx, location) })
		}
		return s, err
	}
	opts, err := r.options()
	if err != nil {
		return nil, err
	}
	src, err := client.Open(location, opts...)
	return &source{Source: src}, err
}

// openData opens a data directory. Where the key of openings is there too, those
// are audited with it.
func openData(ctx context.Context, dir string) (*source, error) {
	db, err := sqlite.OpenLogFile(ctx, filepath.Join(dir, "log.db"))
	if err != nil {
		return nil, corrupt(err)
	}
	s := &source{Source: dataSource{db}, closers: closers{db.Close}}
	key, err := os.Open(filepath.Join(dir, "keys", "openings.key"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return s, nil
	}
	var identities []age.Identity
	if err == nil {
		identities, err = age.ParseIdentities(key)
		err = errors.Join(err, key.Close())
	}
	if err != nil {
		s.close()
		return nil, usagef("reading %s: %w", key.Name(), err)
	}
	path := filepath.Join(dir, "log.db.openings")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	openings, err := sqlite.OpenOpeningsFile(ctx, path)
	if err != nil {
		s.close()
		return nil, corrupt(err)
	}
	s.closers = append(s.closers, openings.Close)
	d := &discloser{file: openings, identities: identities, keys: make(map[record.KeyID][]byte)}
	s.openings = func(index uint64, leaf record.Hash) ([]*sealtapv1.Opening, error) {
		return d.openings(ctx, index, leaf)
	}
	s.checks = append(s.checks, func(size uint64) ([]audit.Finding, error) { return d.misplaced(ctx, s, size) }, d.unopened)
	return s, nil
}

// checkBackup compares a backup with its manifest: an audit reads less of it than a
// log that is restored from it.
func checkBackup(ctx context.Context, dir string) ([]audit.Finding, error) {
	err := backup.Check(ctx, dir)
	if errors.Is(err, backup.ErrDamaged) {
		return []audit.Finding{{Code: audit.BackupAltered, Severity: audit.Finds, Detail: err.Error()}}, nil
	}
	return nil, err
}

// extra adds to the report of an audit that passed what else is wrong with its source.
func (s *source) extra(r *audit.Report) error {
	if r.Verdict != audit.Pass {
		return nil // what could be added would follow from what was found
	}
	for _, check := range s.checks {
		list, err := check(r.Size)
		if err != nil {
			return err
		}
		for _, x := range list {
			r.Add(x)
		}
	}
	return nil
}

// discloser decrypts openings. It can be used by many goroutines.
type discloser struct {
	file       *sqlite.OpeningsFile
	identities []age.Identity

	mu     sync.Mutex
	keys   map[record.KeyID][]byte // nil for one that only somebody else can unwrap
	closed uint64                  // records whose openings are under such a key
	shut   uint64                  // one of them
	asked  bool                    // for openings of any record
	first  uint64                  // of the records that were asked for
	last   uint64
}

// openings returns the openings of a record, unless they were erased or are for
// somebody else.
func (d *discloser) openings(ctx context.Context, index uint64, leaf record.Hash) ([]*sealtapv1.Opening, error) {
	row, there, err := d.file.Row(ctx, index)
	d.mark(index)
	if err != nil || !there {
		return nil, err
	}
	if !bytes.Equal(row.Leaf, leaf[:len(row.Leaf)]) {
		return nil, fmt.Errorf("the openings kept for entry %d are those of another record: %w", index, storage.ErrCorrupt)
	}
	if row.Box == nil {
		return nil, nil // erased
	}
	id, err := record.BoxKey(row.Box)
	if err != nil {
		return nil, err
	}
	key, err := d.key(ctx, id)
	if err != nil || key == nil {
		if err == nil {
			d.mu.Lock()
			d.closed, d.shut = d.closed+1, index
			d.mu.Unlock()
		}
		return nil, err
	}
	return record.OpenBox(row.Box, leaf, key)
}

// unopened says that openings were not looked at: whether their data key was encrypted
// to somebody else from the start, or was altered since, cannot be told.
func (d *discloser) unopened(uint64) ([]audit.Finding, error) {
	if d.closed == 0 {
		return nil, nil
	}
	return []audit.Finding{{Code: audit.OpeningClosed, Severity: audit.Notes, Index: &d.shut, Detail: fmt.Sprintf(
		"openings.key does not open the openings of %d records, this one among them: they are for somebody else, or their data key was altered", d.closed)}}, nil
}

// mark remembers for which records openings were asked.
func (d *discloser) mark(index uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.asked {
		d.asked, d.first, d.last = true, index, index
	}
	d.first, d.last = min(d.first, index), max(d.last, index)
}

// mostMisplaced is how many openings out of place are named.
const mostMisplaced = 100

// misplaced finds openings that stand where their record does not, so that nobody
// asked for them: one that was erased leaves its row, and none is lost unseen.
func (d *discloser) misplaced(ctx context.Context, src audit.Source, size uint64) ([]audit.Finding, error) {
	if !d.asked {
		return nil, nil
	}
	var list []audit.Finding
	find := func(index uint64, format string, args ...any) error {
		if len(list) == mostMisplaced {
			return nil
		}
		list = append(list, audit.Finding{Code: audit.OpeningMismatch, Severity: audit.Finds, Index: &index, Detail: fmt.Sprintf(format, args...)})
		return nil
	}
	var tile []byte
	first := d.first - d.first%client.TileWidth // what was not asked for there is no record
	have, before := uint64(math.MaxUint64), int64(-1)
	if err := d.file.Whole(ctx); errors.Is(err, storage.ErrCorrupt) {
		return []audit.Finding{{Code: audit.OpeningMismatch, Severity: audit.Finds, Detail: "openings may be lost, their database is damaged: " + err.Error()}}, nil
	} else if err != nil {
		return nil, err
	}
	err := d.file.Rows(ctx, func(entry int64, leaf []byte) error {
		index := uint64(entry)
		switch ordered := entry > before; {
		case !ordered:
			return find(uint64(before), "the openings kept for entry %d stand before those of entry %d: they have been moved away from their record", before, index)
		case entry < 0 || index < first || index > d.last:
			before = entry
			return nil
		}
		before = entry
		n := index / client.TileWidth
		if n != have {
			var err error
			if tile, err = src.Tile(ctx, 0, n, int(min(client.TileWidth, size-n*client.TileWidth))); err != nil {
				return err
			}
			have = n
		}
		if want := tile[index%client.TileWidth*uint64(len(record.Hash{})):]; !bytes.Equal(leaf, want[:min(len(leaf), len(want))]) {
			return find(index, "the openings kept for entry %d are not of the record that stands there", index)
		}
		return nil
	})
	return list, err
}

// key returns a data key; nil if it is not at hand.
func (d *discloser) key(ctx context.Context, id record.KeyID) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if key, ok := d.keys[id]; ok {
		return key, nil
	}
	wrapped, there, err := d.file.KeyRow(ctx, id)
	if err == nil && !there {
		err = fmt.Errorf("the data key %x of openings is gone: %w", id[:], storage.ErrCorrupt)
	}
	if err != nil || wrapped == nil {
		return nil, err
	}
	key, err := record.UnwrapKey(&sealtapv1.WrappedKey{Id: id[:], Wrapped: wrapped}, d.identities...)
	if errors.Is(err, record.ErrNoDataKey) {
		key, err = nil, nil
	}
	if err == nil {
		d.keys[id] = key
	}
	return key, err
}

func corrupt(err error) error {
	if errors.Is(err, storage.ErrCorrupt) {
		return failure{err}
	}
	return err
}

// dataSource audits the files of a log. What is damaged or gone there was had and
// is not what was promised: there is nobody who could not be reached.
type dataSource struct{ *sqlite.LogFile }

func (d dataSource) Checkpoint(ctx context.Context) ([]byte, error) {
	b, err := d.LogFile.Checkpoint(ctx)
	return b, unfit(err)
}

func (d dataSource) Tile(ctx context.Context, level uint, n uint64, width int) ([]byte, error) {
	b, err := d.LogFile.Tile(ctx, level, n, width)
	if level == 0 {
		return b, d.gone(ctx, n, err)
	}
	return b, unfit(err)
}

func (d dataSource) Bundle(ctx context.Context, n uint64, width int) ([]byte, error) {
	b, err := d.LogFile.Bundle(ctx, n, width)
	return b, d.gone(ctx, n, err)
}

func unfit(err error) error {
	if errors.Is(err, storage.ErrCorrupt) {
		return fmt.Errorf("%w: %w", client.ErrVerification, err)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", client.ErrUnavailable, err)
	}
	return nil
}

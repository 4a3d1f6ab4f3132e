package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	"github.com/sealtap/sealtap/tlog/client"
)

// source is what an audit reads.
type source struct {
	audit.Source
	openings func(index uint64, leaf record.Hash) ([]*sealtapv1.Opening, error) // nil if none are at hand
	closers  closers
}

func (s *source) close() { _ = s.closers.close() }

// openSource opens what is to be audited. A data directory is read as it lies on
// disk, without the log server.
func (r *reading) openSource(ctx context.Context, location string) (*source, error) {
	if _, err := os.Stat(filepath.Join(location, "log.db")); err == nil && !strings.Contains(location, "://") {
		return openData(ctx, location)
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
	return s, nil
}

// discloser decrypts openings. It can be used by many goroutines.
type discloser struct {
	file       *sqlite.OpeningsFile
	identities []age.Identity

	mu   sync.Mutex
	keys map[record.KeyID][]byte // nil for one that only somebody else can unwrap
}

// openings returns the openings of a record, unless they were erased or are for
// somebody else.
func (d *discloser) openings(ctx context.Context, index uint64, leaf record.Hash) ([]*sealtapv1.Opening, error) {
	box, err := d.file.Opening(ctx, index)
	if err != nil || box == nil {
		return nil, err
	}
	id, err := record.BoxKey(box)
	if err != nil {
		return nil, err
	}
	key, err := d.key(ctx, id)
	if err != nil || key == nil {
		return nil, err
	}
	return record.OpenBox(box, leaf, key)
}

// key returns a data key; nil if it is not at hand.
func (d *discloser) key(ctx context.Context, id record.KeyID) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if key, ok := d.keys[id]; ok {
		return key, nil
	}
	wrapped, err := d.file.WrappedKey(ctx, id)
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

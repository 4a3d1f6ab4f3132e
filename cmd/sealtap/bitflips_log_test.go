package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/bundle"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/witness/policy"
)

// bundleFlips flips bits of an archive with the records of an exchange.
func bundleFlips(t *testing.T, s *stopped, name string, args ...string) *flipping {
	path := s.at(name + ".tar")
	s.must(t, append([]string{"bundle", s.at("mirror"), "--path", "/item/77", "--out", path}, args...)...)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(path string) error {
		r, err := bundle.Verify(path, bundle.VerifyOptions{Policy: s.policy})
		if err == nil && r.Verdict != audit.Pass {
			err = fmt.Errorf("%s: %v", r.Verdict, r.Findings)
		}
		return err
	}
	if err := verify(path); err != nil {
		t.Fatal(err)
	}
	return &flipping{name, 0, map[string][]byte{filepath.Base(path): text}, func(t *testing.T) flipper {
		scratch := filepath.Join(t.TempDir(), filepath.Base(path))
		return func(_ string, bit int) (string, error) {
			if err := os.WriteFile(scratch, flipped(text, bit), 0o600); err != nil {
				return "", err
			}
			if verify(scratch) == nil {
				return "", errors.New("it verifies")
			}
			return "", nil
		}
	}}
}

// liveCopy returns the databases of a log that runs, with what their write-ahead logs
// hold: as of one moment, in which nothing was written to them.
func liveCopy(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	read := func() map[string][]byte {
		files := make(map[string][]byte)
		for _, name := range []string{"log.db", "log.db-wal", "log.db.openings", "log.db.openings-wal"} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			if err == nil {
				files[name] = b
			}
		}
		return files
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		before := read()
		time.Sleep(50 * time.Millisecond)
		if after := read(); maps.EqualFunc(before, after, bytes.Equal) && len(after["log.db-wal"]) > 0 {
			return after
		}
		if time.Now().After(end) {
			t.Fatal("the log does not come to rest with a write-ahead log")
		}
	}
}

// walFlips flips bits of the write-ahead log of a log that was killed. Where a bit is
// wrong SQLite leaves out what follows, so it is the state file that tells.
func walFlips(t *testing.T, s *stopped) *flipping {
	const wal = "log.db-wal"
	key, err := os.ReadFile(filepath.Join(s.dir, "keys", "openings.key"))
	if err != nil {
		t.Fatal(err)
	}
	killed := func(t *testing.T) string {
		dir := copyFiles(t, s.live)
		if err := errors.Join(os.Mkdir(filepath.Join(dir, "keys"), 0o700), os.WriteFile(filepath.Join(dir, "keys", "openings.key"), key, 0o600)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	run := func(dir, state string) (*audit.Report, error) {
		src, err := openData(context.Background(), dir)
		if err != nil {
			return nil, err
		}
		defer src.close()
		r, err := audit.Run(context.Background(), src.Source, audit.Options{Policy: s.policy, Openings: src.openings, State: state, Parallel: 1})
		if err == nil {
			err = src.extra(r)
		}
		return r, err
	}
	return &flipping{"wal", 0, map[string][]byte{wal: s.live[wal]}, func(t *testing.T) flipper {
		dir, state := killed(t), filepath.Join(t.TempDir(), "state")
		if r, err := run(dir, state); err != nil || !passes(r) {
			t.Fatalf("what was copied does not pass: %v, %+v", err, r)
		}
		want, err := contents(dir, s.policy)
		if err != nil {
			t.Fatal(err)
		}
		return func(path string, bit int) (class string, err error) {
			_ = os.Remove(filepath.Join(dir, "log.db-shm")) // which would tell what the file no longer does
			err = errors.Join(flipOnDisk(filepath.Join(dir, path), bit, s.live[wal], func() {
				r, e := run(dir, state)
				if e != nil || !passes(r) {
					return
				}
				class = endOfWAL
				if have, e := contents(dir, s.policy); e != nil {
					err = fmt.Errorf("it passes, and cannot be read: %w", e)
				} else if !bytes.Equal(have, want) {
					err = errors.New("it passes, and has other contents")
				}
			}), err)
			if now, e := os.ReadFile(filepath.Join(dir, path)); e != nil || !bytes.Equal(now, s.live[wal]) {
				err = errors.Join(err, e, errors.New("reading it has changed it"))
			}
			return class, err
		}
	}}
}

// signedFlips flips bits of the file with the last signed checkpoint, which the log
// looks at when it starts.
func signedFlips(t *testing.T, s *stopped) *flipping {
	const name = "log.db.signed"
	files := make(map[string][]byte)
	for path, b := range readAll(t, s.dir) {
		if path == "log.db" || path == name {
			files[path] = b
		}
	}
	key, err := keys.Load(filepath.Join(s.dir, "keys", "log.key"))
	if err != nil {
		t.Fatal(err)
	}
	good, err := sqlite.ReadSigned(filepath.Join(s.dir, "log.db"))
	if err != nil {
		t.Fatal(err)
	}
	return &flipping{"signed", 64 << 10, map[string][]byte{name: files[name]}, func(t *testing.T) flipper {
		dir := copyFiles(t, files)
		db := filepath.Join(dir, "log.db")
		if err := starts(db, key, s.policy); err != nil {
			t.Fatal(err)
		}
		return func(path string, bit int) (class string, err error) {
			err = errors.Join(flipOnDisk(filepath.Join(dir, path), bit, files[name], func() {
				if starts(db, key, s.policy) != nil {
					return
				}
				class = olderSigned
				if have, e := sqlite.ReadSigned(db); e != nil || have.Size >= good.Size {
					err = errors.Join(errors.New("the log starts"), e)
				}
			}), err)
			return class, err
		}
	}}
}

// starts opens a log as its server does, and closes it.
func starts(db string, key *keys.Private, p *policy.Policy) error {
	ctx := context.Background()
	store, err := sqlite.OpenLog(ctx, db)
	if err != nil {
		return err
	}
	_, err = tlog.Open(ctx, tlog.Config{Key: key, Storage: store, Policy: p})
	return errors.Join(err, store.Close())
}

// TestBitFlipKinds: each kind can be named alone, and no other.
func TestBitFlipKinds(t *testing.T) {
	for _, k := range kindsOfFlips() {
		t.Setenv("SEALTAP_BITFLIPS_KIND", k.name)
		if list := chosenFlips(t); len(list) != 1 || list[0].name != k.name {
			t.Errorf("%s: %d kinds", k.name, len(list))
		}
	}
	t.Setenv("SEALTAP_BITFLIPS_KIND", "wal  signed")
	if list := chosenFlips(t); len(list) != 2 || strings.Join([]string{list[0].name, list[1].name}, " ") != "wal signed" {
		t.Errorf("%d kinds", len(list))
	}
}

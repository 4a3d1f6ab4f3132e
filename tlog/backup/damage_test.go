package backup_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/tlog/backup"
	"github.com/sealtap/sealtap/tlog/client"
)

// TestDamagedLog damages a log: it is not backed up, and the older backup stays.
func TestDamagedLog(t *testing.T) {
	w := newWorld(t)
	w.grow(300)
	w.grow(300)
	w.settle()
	dir := filepath.Join(t.TempDir(), "bk")
	w.backup(dir)
	before, err := os.ReadFile(filepath.Join(dir, "backup.json"))
	w.check(err)
	w.stop()
	good, err := os.ReadFile(w.db)
	w.check(err)
	for _, c := range []struct{ name, change, want string }{
		{"the newest entry", `UPDATE head SET data = CAST(substr(data, 1, length(data) - 1) || iif(substr(data, length(data)) = x'00', x'01', x'00') AS BLOB) WHERE first = (SELECT max(first) FROM head)`, "has been altered"},
		{"an entry gone", `DELETE FROM head WHERE first = (SELECT max(first) FROM head)`, "bundle"},
		{"a bundle", `UPDATE bundle SET data = CAST(substr(data, 1, length(data) - 5) || x'0000000000' AS BLOB) WHERE n = 1`, "reading bundle 1"},
		{"a bundle gone", `DELETE FROM bundle WHERE n = 0`, "bundle 0"},
		{"leaf hashes", `UPDATE tile SET hashes = zeroblob(length(hashes)) WHERE id = 1`, "entry 256 has been altered"},
		{"a tile", `UPDATE tile SET hashes = zeroblob(length(hashes)) WHERE id = 1 << 56`, "tile 1/0 is not what the entries give"},
		{"the root", `UPDATE tree SET root = zeroblob(32)`, "entries have root"},
		{"the size", `UPDATE tree SET size = size - 1`, "entries have root"},
		{"a stream", `UPDATE stream SET edge = zeroblob(length(edge))`, "is not stored as its records give it"},
		{"a stream's size", `UPDATE stream SET size = size - 1`, "is not stored as its records give it"},
		{"a run", `UPDATE run SET first = first + 1 WHERE sequence = 300`, "run"},
		{"a run gone", `DELETE FROM run WHERE sequence = 0`, "run"},
		{"the operator's statements", `DELETE FROM key_change WHERE entry = 1`, "the operator's statements"},
		{"the signed root", `UPDATE checkpoint SET root = zeroblob(32) WHERE kind = 'signed'`, "checkpoint"},
		{"a trigger", `CREATE TRIGGER evil AFTER INSERT ON tile BEGIN DELETE FROM head; END`, "its tables are not those of a log database"},
		{"the published note", `UPDATE checkpoint SET note = CAST(replace(note, 'log.example', 'log.exampl3') AS BLOB) WHERE kind = 'published'`, "checkpoint"},
	} {
		t.Run(c.name, func(t *testing.T) {
			db, err := sql.Open("sqlite3", w.db)
			if err == nil {
				_, err = db.Exec(c.change)
				err = errors.Join(err, db.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err = backup.Write(context.Background(), backup.WriteConfig{Database: w.db, Policy: w.policy}, dir)
			if !errors.Is(err, backup.ErrDamaged) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("backed up with %v, want %q", err, c.want)
			}
			after, err := os.ReadFile(filepath.Join(dir, "backup.json"))
			if err != nil || !bytes.Equal(before, after) {
				t.Errorf("the older backup is not what it was: %v", err)
			}
			if _, err := os.Stat(dir + ".partial"); err == nil {
				t.Error("something is left beside the backup")
			}
			// Nor is it taken for a log that could go on.
			if _, err := backup.CatchUp(context.Background(), w.config()); err == nil {
				t.Error("caught up")
			}
			if err := os.WriteFile(w.db, good, 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
	w.backup(dir)
}

// TestUpperTile damages a complete tile above the leaves.
func TestUpperTile(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 65,536 entries")
	}
	w := newWorld(t)
	for w.log.Size() < 1<<16 {
		w.grow(4000)
	}
	dir := filepath.Join(t.TempDir(), "bk")
	w.backup(dir)
	w.stop()
	db, err := sql.Open("sqlite3", w.db)
	w.check(err)
	_, err = db.Exec(`UPDATE tile SET hashes = CAST(substr(hashes, 1, 8191) || iif(substr(hashes, 8192) = x'00', x'01', x'00') AS BLOB) WHERE id = 1 << 56`)
	w.check(errors.Join(err, db.Close()))
	_, err = backup.Write(context.Background(), backup.WriteConfig{Database: w.db, Policy: w.policy}, dir)
	if !errors.Is(err, backup.ErrDamaged) || !strings.Contains(err.Error(), "tile 1/0") {
		t.Errorf("backed up with %v", err)
	}
}

// TestSignedInTheFileOnly is about a log that was stopped between the two places
// where it keeps what it signs.
func TestSignedInTheFileOnly(t *testing.T) {
	w := newWorld(t)
	w.grow(20)
	size := w.settle()
	w.stop()
	db, err := sql.Open("sqlite3", w.db)
	w.check(err)
	_, err = db.Exec(`DELETE FROM checkpoint`)
	w.check(errors.Join(err, db.Close()))
	dir := filepath.Join(t.TempDir(), "bk")
	if m := w.backup(dir); m.Signed != size || m.Published != 0 {
		t.Fatalf("the log has signed %d entries, its backup says %d", size, m.Signed)
	}
	w.lose()
	c := w.config()
	c.Witnesses, c.WithoutWitnesses = nil, true
	if o, err := backup.Restore(context.Background(), c, dir); err != nil || o.Newest != size {
		t.Fatalf("outcome %+v, %v", o, err)
	}
}

// TestLyingCopy brings entries in from a copy that was altered.
func TestLyingCopy(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.grow(300)
	w.settle()
	dir := filepath.Join(t.TempDir(), "bk")
	m := w.backup(dir)
	w.grow(3000)
	size := w.settle()
	good := w.mirror()
	lying := make(cached)
	for k, v := range good.Reader.(cached) {
		lying[k] = bytes.Clone(v)
	}
	lying["entries 10 256"] = nil
	for k, v := range lying {
		if strings.HasPrefix(k, "entries") && strings.Contains(k, "10") && len(v) > 0 {
			v[len(v)/2] ^= 1
		}
	}
	w.lose()
	o, err := backup.Restore(ctx, w.config(backup.Copy{Where: "liar", Reader: lying}), dir)
	w.check(err)
	if o.Complete() || o.Size > 10*256 || !errors.Is(o.Copies[0].Err, client.ErrVerification) {
		t.Fatalf("from a copy that was altered at entry 2560: %+v; the backup has %d", o, m.Size)
	}
	if o, err = backup.CatchUp(ctx, w.config(backup.Copy{Where: "liar", Reader: lying}, good)); err != nil || !o.Complete() {
		t.Fatalf("with another copy: %+v, %v", o, err)
	}
	w.start()
	w.audit(size)
}

// TestOtherHistory restores a backup of a history that is not the witnessed one:
// whoever has the log's key can make one.
func TestOtherHistory(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.grow(20)
	w.settle()
	dir := filepath.Join(t.TempDir(), "bk")
	w.backup(dir)
	w.grow(20)
	size := w.settle()
	mirror := w.mirror()
	mirrored := mirror.Reader.(cached)["checkpoint"]
	policyOfAll := w.policy
	w.lose()

	// The same log goes on from the backup without its witnesses, and says something
	// else.
	c := w.config()
	c.Witnesses, c.WithoutWitnesses = nil, true
	if o, err := backup.Restore(ctx, c, dir); err != nil || !o.Complete() {
		t.Fatal(o, err)
	}
	w.policy = w.alone()
	w.start()
	w.stream, w.tree = record.NewStream(w.producer.ID()), record.NewTree()
	w.grow(2)
	w.settle()
	short := filepath.Join(t.TempDir(), "short")
	w.backup(short)
	w.grow(30)
	w.settle()
	other := filepath.Join(t.TempDir(), "other")
	w.backup(other)
	before := w.lose()
	w.policy = policyOfAll
	if _, err := backup.Restore(ctx, w.config(), other); !errors.Is(err, backup.ErrForked) {
		t.Fatalf("restored a history that the witnesses have not seen (they have %d entries): %v", size, err)
	}
	w.nothing()
	// Where the witnesses have seen more than the backup has, a mirror shows it.
	c = w.config(mirror)
	c.Witnesses, c.WithoutWitnesses, c.Checkpoints = nil, true, []backup.Seen{{Where: "file", Note: mirrored}}
	if o, err := backup.Restore(ctx, c, short); err != nil || o.Complete() || o.Copies[0].Brought > 0 || !errors.Is(o.Copies[0].Err, client.ErrVerification) {
		t.Fatalf("brought entries of one history into another: %+v, %v", o, err)
	}
	w.lose()
	// Nor is the signed head that one history left behind passed over.
	w.check(os.Rename(before+".signed", w.db+".signed"))
	if o, err := backup.Restore(ctx, w.config(), dir); err == nil && o.Complete() {
		t.Fatalf("passed over a head that the log had signed: %+v", o)
	}
}

// TestRefuses is about what is not a backup, or not of this log, or in use.
func TestRefuses(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.grow(20)
	w.settle()
	dir := filepath.Join(t.TempDir(), "bk")
	w.backup(dir)
	write := backup.WriteConfig{Database: w.db, Policy: w.policy}
	if _, err := backup.Restore(ctx, w.config(), dir); !errors.Is(err, sqlite.ErrLocked) {
		t.Errorf("while the log runs: %v", err)
	}
	if _, err := backup.CatchUp(ctx, w.config()); !errors.Is(err, sqlite.ErrLocked) {
		t.Errorf("while the log runs: %v", err)
	}
	foreign := t.TempDir()
	w.check(os.WriteFile(filepath.Join(foreign, "thesis.txt"), nil, 0o600))
	// What else lies in the directory of a backup would go with it.
	mixed := filepath.Join(t.TempDir(), "mixed")
	if _, err := backup.Write(ctx, write, mixed); err != nil {
		t.Fatal(err)
	}
	notes := filepath.Join(mixed, "notes.txt")
	if err := os.WriteFile(notes, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Write(ctx, write, mixed); !errors.Is(err, backup.ErrNotBackup) || !strings.Contains(err.Error(), "notes.txt") {
		t.Errorf("replacing a backup with somebody's notes beside it: %v", err)
	}
	if b, err := os.ReadFile(notes); string(b) != "mine" {
		t.Errorf("the notes hold %q, %v", b, err)
	}
	if _, err := backup.Write(ctx, write, foreign); !errors.Is(err, backup.ErrNotBackup) {
		t.Errorf("into somebody's directory: %v", err)
	}
	if _, err := backup.Write(ctx, write, t.TempDir()); err != nil {
		t.Errorf("into an empty directory: %v", err)
	}
	if _, err := backup.Write(ctx, write, "/proc"); !errors.Is(err, backup.ErrNotBackup) || !strings.Contains(err.Error(), "mount point") {
		t.Errorf("into a mount point: %v", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	w.check(os.Symlink(dir, link))
	if _, err := backup.Write(ctx, write, link); err != nil {
		t.Errorf("through a link: %v", err)
	}
	if to, err := os.Readlink(link); err != nil || to != dir {
		t.Errorf("the link is gone: %v", err)
	}
	another := newWorld(t)
	another.grow(50)
	if _, err := backup.Write(ctx, backup.WriteConfig{Database: another.db, Policy: w.policy}, dir); !errors.Is(err, backup.ErrOther) {
		t.Errorf("a log that the policy does not name: %v", err)
	}
	// That one has the same origin and another key.
	if _, err := backup.Write(ctx, backup.WriteConfig{Database: another.db, Policy: another.policy}, dir); !errors.Is(err, backup.ErrForked) {
		t.Errorf("over the backup of another log: %v", err)
	}
	another.lose()
	if _, err := backup.Restore(ctx, another.config(), dir); !errors.Is(err, backup.ErrOther) {
		t.Errorf("with the key of another log: %v", err)
	}
	another.nothing()
	// Over a newer backup.
	old := w.lose()
	w.check(os.Rename(old, w.db))
	w.check(os.Rename(old+".signed", w.db+".signed"))
	w.check(os.Rename(old+".openings", w.db+".openings"))
	w.start()
	w.grow(20)
	newer := filepath.Join(t.TempDir(), "newer")
	w.backup(newer)
	w.lose()
	c := w.config()
	c.Witnesses, c.WithoutWitnesses = nil, true
	_, err := backup.Restore(ctx, c, dir)
	w.check(err)
	if _, err := backup.Write(ctx, write, newer); !errors.Is(err, tlog.ErrBehind) {
		t.Errorf("over a newer backup: %v", err)
	}
	if _, err := backup.Restore(ctx, c, t.TempDir()); !errors.Is(err, backup.ErrExists) {
		t.Errorf("over a log: %v", err)
	}
}

// TestCrashes puts the files into the states that a crash can leave.
func TestCrashes(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.grow(20)
	w.settle()
	dir := filepath.Join(t.TempDir(), "bk")
	w.backup(dir)
	junk := func(path string) {
		w.check(os.MkdirAll(path, 0o700))
		w.check(os.WriteFile(filepath.Join(path, "log.db"), []byte("half"), 0o600))
		w.check(backup.Mark(path))
	}
	junk(dir + ".partial") // while writing, or after the exchange
	w.grow(1)
	w.backup(dir)
	w.check(backup.Mark(dir))
	w.check(os.Rename(dir, dir+".old")) // between two names
	w.grow(1)
	m := w.backup(dir)
	if _, err := os.Stat(dir + ".old"); err == nil {
		t.Fatal("the old backup is left beside the new one")
	}
	w.grow(600)
	size := w.settle()
	mirror := w.mirror()
	w.lose()

	w.check(os.WriteFile(w.db+".openings", []byte("half"), 0o600))
	if _, err := backup.Restore(ctx, w.config(), dir); !errors.Is(err, backup.ErrExists) {
		t.Fatalf("with openings that are none: %v", err)
	}
	w.check(os.Remove(w.db + ".openings"))
	w.nothing()
	junk(w.db + ".restore") // while staging
	if o, err := backup.Restore(ctx, w.config(), dir); err != nil || o.Complete() {
		t.Fatal(o, err)
	}
	db, err := os.ReadFile(w.db)
	w.check(err)
	w.check(os.Remove(w.db)) // after the openings, and before the database
	if o, err := backup.Restore(ctx, w.config(), dir); err != nil || o.Complete() || o.Openings != backup.OpeningsKept {
		t.Fatal(o, err)
	}
	w.check(os.Remove(w.db))
	w.check(os.Remove(w.db + ".openings")) // after the signed checkpoint
	if err := w.open(); !errors.Is(err, tlog.ErrBehind) {
		t.Fatalf("with nothing but its signed checkpoint the log starts: %v", err)
	}
	// That has made an empty database, which is nothing.
	if o, err := backup.Restore(ctx, w.config(), dir); err != nil || o.Complete() || o.Size != m.Size {
		t.Fatal(o, err)
	}
	// While entries are brought in: some are there.
	w.check(os.WriteFile(w.db, db, 0o600))
	if o, err := backup.CatchUp(ctx, w.config(mirror)); err != nil || !o.Complete() {
		t.Fatal(o, err)
	}
	w.start()
	w.audit(size)
}

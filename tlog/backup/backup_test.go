package backup_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/tlog/backup"
	"github.com/sealtap/sealtap/witness"
)

// TestOnline backs a log up while it grows, again and again over the same
// directory.
func TestOnline(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "bk")
	w.grow(300)
	var growing sync.WaitGroup
	growing.Go(func() {
		for range 40 {
			w.grow(20)
		}
	})
	var last uint64
	for range 8 {
		m := w.backup(dir)
		if m.Size < last || m.Published > m.Signed || m.Signed > m.Size || !m.Openings || m.Origin != w.key.Name {
			t.Fatalf("manifest %+v after one of %d entries", m, last)
		}
		if again, err := backup.Read(dir); err != nil || again.Check != m.Check {
			t.Fatalf("the manifest that was written is not the one that is read: %v", err)
		}
		last = m.Size
	}
	growing.Wait()
	for name, mode := range map[string]fs.FileMode{"": fs.ModeDir | 0o700, "log.db": 0o600, "log.db.signed": 0o600, "log.db.openings": 0o600, "backup.json": 0o600} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode() != mode {
			t.Errorf("%q has mode %v, want %v: %v", name, st.Mode(), mode, err)
		}
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 4 {
		t.Errorf("the backup consists of %v, %v", names, err)
	}
	// Every opening of an entry in the copy is in it, too.
	o, err := sqlite.OpenOpeningsFile(context.Background(), filepath.Join(dir, "log.db.openings"))
	w.check(err)
	defer o.Close()
	if n, err := o.Count(context.Background()); err != nil || n < last*3/4 {
		t.Errorf("%d openings of %d entries: %v", n, last, err)
	}
}

func TestRoundTrip(t *testing.T) {
	w := newWorld(t)
	w.grow(700)
	size := w.settle()
	dir := filepath.Join(t.TempDir(), "bk")
	w.backup(dir)
	w.lose()
	o, err := backup.Restore(context.Background(), w.config(), dir)
	w.check(err)
	if !o.Complete() || o.Size != size || o.Newest != size || o.Lost != 0 || o.Openings != backup.OpeningsRestored {
		t.Fatalf("outcome %+v", o)
	}
	w.start()
	w.grow(10)
	w.audit(size + 11)
}

// TestBehind restores a backup that is older than what was witnessed: the log must
// not start before it has the entries that are missing.
func TestBehind(t *testing.T) {
	ctx := context.Background()
	for _, inOneStep := range []bool{false, true} {
		w := newWorld(t)
		w.grow(300)
		w.settle()
		dir := filepath.Join(t.TempDir(), "bk")
		m := w.backup(dir)
		w.grow(700)
		w.change(2, record.KeyChange{Enrol: []keys.Public{newKey(t, "another", keys.Ed25519).Public}})
		w.grow(3)
		size := w.settle()
		mirror := w.mirror()
		w.lose()
		var o *backup.Outcome
		var err error
		if inOneStep {
			o, err = backup.Restore(ctx, w.config(mirror), dir)
		} else {
			o, err = backup.Restore(ctx, w.config(), dir)
			w.check(err)
			if o.Complete() || o.Size != m.Size || o.Newest != size || !strings.HasPrefix(o.Seen, "witness w") {
				t.Fatalf("without a copy: %+v", o)
			}
			if err := w.open(); !errors.Is(err, tlog.ErrBehind) {
				t.Fatalf("the log starts without %d entries: %v", size-m.Size, err)
			}
			if _, err := backup.Restore(ctx, w.config(), dir); !errors.Is(err, backup.ErrExists) {
				t.Fatalf("restored over a log: %v", err)
			}
			o, err = backup.CatchUp(ctx, w.config(mirror))
		}
		w.check(err)
		if !o.Complete() || o.Size != size || o.Copies[0].Brought != size-m.Size || o.Lost != 703 {
			t.Fatalf("outcome %+v", o)
		}
		// Before any witness is asked again the log shows what it had shown.
		for _, s := range w.witnesses {
			s.down.Store(true)
		}
		w.start()
		if w.log.Published() != size {
			t.Errorf("published are %d entries, were %d", w.log.Published(), size)
		}
		for _, s := range w.witnesses {
			s.down.Store(false)
		}
		w.grow(5)
		w.audit(size + 6)
	}
}

// TestUnpublishedHead is about a head that a single witness has cosigned: no copy
// has its entries.
func TestUnpublishedHead(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.grow(300)
	w.settle()
	dir := filepath.Join(t.TempDir(), "bk")
	w.backup(dir)
	w.grow(300)
	published := w.settle()
	mirror := w.mirror()
	w.witnesses[1].down.Store(true)
	w.grow(5)
	eventually(t, "the one that is up cosigns it", func() bool {
		v := w.config().Witnesses[0]
		return v.Checkpoint != nil && v.Checkpoint.Size == w.log.Size()
	})
	size := w.log.Size()
	lost := w.lose()
	w.witnesses[1].down.Store(false)
	o, err := backup.Restore(ctx, w.config(mirror), dir)
	w.check(err)
	if o.Complete() || o.Size != published || o.Newest != size || o.Copies[0].Brought == 0 {
		t.Fatalf("outcome %+v, published were %d of %d", o, published, size)
	}
	if err := w.open(); !errors.Is(err, tlog.ErrBehind) {
		t.Fatalf("the log starts without what a witness has seen: %v", err)
	}
	// The old disk turns up.
	old, err := sqlite.OpenLogFile(ctx, lost)
	w.check(err)
	defer old.Close()
	if o, err = backup.CatchUp(ctx, w.config(mirror, backup.Copy{Where: "old disk", Reader: old})); err != nil || !o.Complete() || o.Size != size {
		t.Fatalf("outcome %+v, %v", o, err)
	}
	// Nobody has a quorum's cosignatures for this head: nothing is shown, rather than
	// less than was shown before.
	for _, s := range w.witnesses {
		s.down.Store(true)
	}
	w.start()
	if n := w.log.Published(); n != 0 {
		t.Errorf("%d entries are published, and %d were", n, published)
	}
	for _, s := range w.witnesses {
		s.down.Store(false)
	}
	w.audit(size)
}

// TestUnseen: where a witness cannot be asked the user has to say so.
func TestUnseen(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.grow(20)
	w.settle()
	dir := filepath.Join(t.TempDir(), "bk")
	w.backup(dir)
	w.grow(20)
	size := w.settle()
	newer, _, _ := w.log.Checkpoint()
	left := w.lose() + ".signed"
	signed, err := os.ReadFile(left)
	w.check(err)

	w.witnesses[1].down.Store(true)
	if _, err := backup.Restore(ctx, w.config(), dir); !errors.Is(err, backup.ErrUnseen) || !strings.Contains(err.Error(), "w1") {
		t.Fatalf("without a witness: %v", err)
	}
	w.nothing()
	w.witnesses[1].down.Store(false)
	// A witness that has forgotten what the backup proves, or is asked at the wrong
	// place, has said nothing.
	forgetful := w.config()
	forgetful.Witnesses[0].Checkpoint = nil
	if _, err := backup.Restore(ctx, forgetful, dir); !errors.Is(err, backup.ErrUnseen) || !strings.Contains(err.Error(), "w0") {
		t.Fatalf("with a witness that has forgotten: %v", err)
	}
	// One that is never asked for a cosignature has nothing to add, but somebody must
	// have been asked.
	unasked := w.config()
	for i := range unasked.Witnesses {
		unasked.Witnesses[i] = witness.View{Witness: unasked.Witnesses[i].Witness, Err: witness.ErrNoURL}
	}
	if _, err := backup.Restore(ctx, unasked, dir); !errors.Is(err, backup.ErrUnseen) {
		t.Fatalf("with nobody to ask: %v", err)
	}
	unasked.Witnesses[1] = w.config().Witnesses[1]
	if o, err := backup.Restore(ctx, unasked, dir); err != nil || o.Newest != size {
		t.Fatalf("with one to ask: %+v, %v", o, err)
	}
	w.lose()
	w.witnesses[1].down.Store(true)
	w.witnesses[0].down.Store(true)
	c := w.config()
	c.WithoutWitnesses = true
	// What the user has, or what is left of the log, is as good as a witness.
	c.Checkpoints = []backup.Seen{{Where: "file", Note: newer}}
	if o, err := backup.Restore(ctx, c, dir); err != nil || o.Complete() || o.Newest != size {
		t.Fatalf("with a newer checkpoint: %+v, %v", o, err)
	}
	w.lose()
	c.Checkpoints = nil
	w.check(os.WriteFile(w.db+".signed", signed, 0o600))
	if o, err := backup.Restore(ctx, c, dir); err != nil || o.Complete() || o.Newest != size {
		t.Fatalf("with what is left of the log: %+v, %v", o, err)
	}
	w.lose()
	// Nobody knows better: the log starts, and the witnesses stop it.
	if o, err := backup.Restore(ctx, c, dir); err != nil || !o.Complete() {
		t.Fatalf("outcome %+v, %v", o, err)
	}
	for _, s := range w.witnesses {
		s.down.Store(false)
	}
	w.start()
	eventually(t, "the witnesses refuse it", func() bool { return strings.Contains(fmt.Sprint(w.log.Ready()), "witness is ahead") })
	if w.log.Published() >= size {
		t.Error("the log publishes a second history")
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// TestFlippedBits flips single bits of a backup: it must not be restored.
func TestFlippedBits(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.grow(30)
	w.settle()
	dir := filepath.Join(t.TempDir(), "bk")
	w.backup(dir)
	w.lose()
	c := w.config()
	random := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{"backup.json", "log.db.signed", "log.db", "log.db.openings"} {
		path := filepath.Join(dir, name)
		good, err := os.ReadFile(path)
		w.check(err)
		for range 40 {
			at, bit := random.IntN(len(good)), random.IntN(8)
			bad := append([]byte(nil), good...)
			bad[at] ^= 1 << bit
			w.check(os.WriteFile(path, bad, 0o600))
			_, err := backup.Restore(ctx, c, dir)
			if !errors.Is(err, backup.ErrDamaged) && !errors.Is(err, backup.ErrNotBackup) || !strings.Contains(err.Error(), name) {
				t.Fatalf("bit %d of byte %d of %s flipped: %v", bit, at, name, err)
			}
			w.nothing()
		}
		w.check(os.WriteFile(path, good[:len(good)-1], 0o600))
		if _, err := backup.Restore(ctx, c, dir); !errors.Is(err, storage.ErrCorrupt) {
			t.Fatalf("%s cut short: %v", name, err)
		}
		w.check(os.WriteFile(path, good, 0o600))
	}
	w.check(os.WriteFile(filepath.Join(dir, "log.db-wal"), []byte("x"), 0o600))
	if _, err := backup.Restore(ctx, c, dir); !errors.Is(err, backup.ErrDamaged) {
		t.Fatalf("with a foreign WAL: %v", err)
	}
	w.check(os.Remove(filepath.Join(dir, "log.db-wal")))
	w.nothing()
	if o, err := backup.Restore(ctx, c, dir); err != nil || !o.Complete() {
		t.Fatalf("the good one: %+v, %v", o, err)
	}
}

// TestOpenings: openings that are still there are kept, for entries that come back,
// and forgotten where other entries will stand.
func TestOpenings(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.grow(20)
	w.settle()
	dir := filepath.Join(t.TempDir(), "bk")
	m := w.backup(dir)
	without := filepath.Join(t.TempDir(), "without")
	if m, err := backup.Write(ctx, backup.WriteConfig{Database: w.db, Policy: w.policy, WithoutOpenings: true}, without); err != nil || m.Openings {
		t.Fatalf("without openings: %+v, %v", m, err)
	}
	w.grow(20)
	size := w.settle()
	mirror := w.mirror()
	lost := w.lose()
	openings, err := os.ReadFile(lost + ".openings")
	w.check(err)
	count := func() uint64 {
		t.Helper()
		f, err := sqlite.OpenOpeningsFile(ctx, w.db+".openings")
		w.check(err)
		defer f.Close()
		n, err := f.Count(ctx)
		w.check(err)
		return n
	}
	for _, c := range []struct {
		name         string
		dir          string
		kept         bool
		from         []backup.Copy
		blind        bool
		size         uint64
		openings     backup.OpeningsOutcome
		lost, counts uint64
	}{
		{"of the backup", dir, false, []backup.Copy{mirror}, false, size, backup.OpeningsRestored, 20, 20},
		{"kept", dir, true, []backup.Copy{mirror}, false, size, backup.OpeningsKept, 0, 40},
		{"kept, before the entries come", dir, true, nil, false, m.Size, backup.OpeningsKept, 0, 40},
		{"kept, and the entries never come", dir, true, nil, true, m.Size, backup.OpeningsKept, 0, 20},
		{"none", without, false, []backup.Copy{mirror}, false, size, backup.OpeningsEmpty, 40, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.kept {
				w.check(os.WriteFile(w.db+".openings", openings, 0o600))
			}
			rc := w.config(c.from...)
			if c.blind {
				rc.Witnesses, rc.WithoutWitnesses = nil, true
			}
			o, err := backup.Restore(ctx, rc, c.dir)
			if err != nil || o.Size != c.size || o.Openings != c.openings || o.Lost != c.lost || count() != c.counts {
				t.Errorf("outcome %+v with %d openings, %v", o, count(), err)
			}
			w.lose()
		})
	}
}

// TestOpeningsGone: openings that are no longer there are not said to be kept, and
// those of a log that was started without its files do not stand in the way.
func TestOpeningsGone(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.grow(20)
	w.settle()
	dir := filepath.Join(t.TempDir(), "bk")
	w.backup(dir)
	w.grow(20)
	size := w.settle()
	mirror := w.mirror()
	w.lose()
	if o, err := backup.Restore(ctx, w.config(), dir); err != nil || o.Openings != backup.OpeningsRestored {
		t.Fatalf("outcome %+v, %v", o, err)
	}
	w.check(os.Remove(w.db + ".openings"))
	o, err := backup.CatchUp(ctx, w.config(mirror))
	if err != nil || o.Size != size || o.Openings != backup.OpeningsEmpty || o.Lost != 40 {
		t.Errorf("without openings: %+v, %v", o, err)
	}
	// That has made an empty one.
	if o, err = backup.CatchUp(ctx, w.config(mirror)); err != nil || o.Openings != backup.OpeningsEmpty || o.Lost != 40 {
		t.Errorf("without openings, again: %+v, %v", o, err)
	}
	w.check(os.Remove(w.db))
	if o, err = backup.Restore(ctx, w.config(mirror), dir); err != nil || o.Openings != backup.OpeningsRestored || o.Lost != 20 {
		t.Errorf("beside empty openings: %+v, %v", o, err)
	}
	if o, err = backup.CatchUp(ctx, w.config(mirror)); err != nil || o.Openings != backup.OpeningsKept || o.Lost != 0 {
		t.Errorf("with openings: %+v, %v", o, err)
	}
	w.check(os.WriteFile(w.db+".openings", []byte("half"), 0o600))
	if _, err := backup.CatchUp(ctx, w.config(mirror)); !errors.Is(err, backup.ErrExists) {
		t.Errorf("with openings that are none: %v", err)
	}
}

package backup_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog/backup"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

// altered is a copy of the log's files in which something was changed.
func (w *world) altered(statement string, args ...any) string {
	w.t.Helper()
	dir := w.t.TempDir()
	w.check(os.CopyFS(dir, os.DirFS(w.dir)))
	path := filepath.Join(dir, "log.db")
	db, err := sqlite.Open(context.Background(), path, sqlite.Schema{Kind: "log", ApplicationID: 0x53544c01, Migrations: make([]string, 2)})
	w.check(err)
	_, err = db.Writer.Exec(statement, args...)
	w.check(errors.Join(err, db.Close()))
	return path
}

// signed is a checkpoint with the log's signature.
func (w *world) signed(b checkpoint.Body) []byte {
	w.t.Helper()
	signer, err := w.key.Signer()
	w.check(err)
	signed, err := note.Sign(&note.Note{Text: string(b.Marshal())}, signer)
	w.check(err)
	return signed
}

// TestPrunedDecision: a backup verifies the checkpoints that show why a pruned log
// could be pruned.
func TestPrunedDecision(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.grow(900)
	w.settle()
	early, _, _ := w.log.Checkpoint()
	w.grow(300)
	w.prune(2, 300, 768)
	size := w.settle()
	w.stop()
	another := newKey(t, "log.example/other", keys.Ed25519)
	signer, err := another.Signer()
	w.check(err)
	stranger, err := note.Sign(&note.Note{Text: string(checkpoint.Body{Origin: w.key.Name, Size: size}.Marshal())}, signer)
	w.check(err)
	for name, c := range map[string]struct {
		at     []byte
		forked bool
	}{
		"no checkpoint":      {[]byte("nothing"), false},
		"before that":        {early, false},
		"signed by another":  {stranger, false},
		"of another history": {w.signed(checkpoint.Body{Origin: w.key.Name, Size: size - 1, Root: record.Hash{1}}), true},
		"of too little":      {w.signed(checkpoint.Body{Origin: w.key.Name, Size: 700}), false},
		"of more than all":   {w.signed(checkpoint.Body{Origin: w.key.Name, Size: size + 1}), false},
	} {
		t.Run(name, func(t *testing.T) {
			db := w.altered(`UPDATE pruned SET at = ?`, c.at)
			_, err := backup.Write(ctx, backup.WriteConfig{Database: db, Policy: w.policy}, filepath.Join(t.TempDir(), "bk"))
			if !errors.Is(err, backup.ErrDamaged) || !errors.Is(err, client.ErrNotAllowed) || errors.Is(err, backup.ErrForked) != c.forked {
				t.Errorf("backed up: %v", err)
			}
		})
	}
}

// TestPrunedByAge: so it does with their times, as far as the policy knows those who
// vouch for them.
func TestPrunedByAge(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	entry, err := record.NewRetention(w.key.Name, 2, record.Retention{Keep: time.Second}, w.operator)
	w.check(err)
	w.submit([]*sealtapv1.Item{{Entry: entry}})
	w.grow(300)
	w.settle()
	for end := time.Now().Add(time.Minute); w.log.Minimum() < 256; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing is pruned")
		}
		w.grow(1)
		w.settle()
	}
	w.settle()
	w.stop()
	write := func(db string, p *policy.Policy) (unsure, err error) {
		_, err = backup.Write(ctx, backup.WriteConfig{Database: db, Policy: p, Unsure: func(err error) { unsure = err }}, filepath.Join(t.TempDir(), "bk"))
		return unsure, err
	}
	if unsure, err := write(w.db, w.policy); unsure != nil || err != nil {
		t.Fatalf("the good one: %v, %v", unsure, err)
	}
	if _, err := write(w.altered(`UPDATE pruned SET old = at`), w.policy); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("too young: %v", err)
	}
	if _, err := write(w.altered(`UPDATE pruned SET old = NULL`), w.policy); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("of no age: %v", err)
	}
	// The witnesses of that time have been replaced.
	stranger := policy.Witness{Name: "w9", Key: newKey(t, "w9.example", keys.Cosignature).Public}
	later, err := policy.New([]policy.Log{{Key: w.key.Public}}, []policy.Witness{stranger}, nil, "w9", &w.operator.Public)
	w.check(err)
	if unsure, err := write(w.db, later); !errors.Is(unsure, client.ErrUnavailable) || err != nil {
		t.Errorf("with a policy that knows nobody of then: unsure %v, error %v", unsure, err)
	}
	// Another operator's statement allows nothing.
	pinned, err := policy.New([]policy.Log{{Key: w.key.Public}}, nil, nil, policy.None, &newKey(t, "op", keys.Ed25519).Public)
	w.check(err)
	if _, err := write(w.db, pinned); !errors.Is(err, backup.ErrOther) {
		t.Errorf("with another operator pinned: %v", err)
	}
}

package witness_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sealtap/sealtap/keys"
)

// TestRestoredState puts an older copy of a witness's database back. A log that is
// ahead proves its way from there, and below what it has proven then the witness
// signs nothing again: neither a smaller head, nor another history, nor one that the
// log would rather have had in between.
func TestRestoredState(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	fork := newLog(t, l.key, "b", 20)
	key := newKey(t, "witness.example/w", keys.Cosignature)
	path := filepath.Join(t.TempDir(), "w.db")
	db := openStore(t, path)
	s := startServer(t, key, db, l)
	s.add(t, l.request(t, 0, 3))
	s.http.Close()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	db = openStore(t, path)
	s = startServer(t, key, db, l)
	if a := s.add(t, l.request(t, 3, 9)); a.status != 200 {
		t.Fatalf("%+v", a)
	}
	s.http.Close()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, beside := range []string{"-wal", "-shm"} {
		_ = os.Remove(path + beside) // there need be none
	}
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}

	s = startServer(t, key, openStore(t, path), l)
	if a := s.add(t, l.request(t, 9, 12)); a.status != 409 || a.body != "3\n" {
		t.Errorf("what it does not remember: %+v, want 409 and 3", a)
	}
	if a := s.add(t, l.request(t, 3, 12)); a.status != 200 {
		t.Errorf("the log proves its way from there: %+v", a)
	}
	for _, c := range []struct {
		name, body string
	}{
		{"a smaller head", l.request(t, 3, 9)},
		{"the head that was restored", l.request(t, 3, 3)},
		{"another history from before", fork.request(t, 3, 13)},
	} {
		if a := s.add(t, c.body); a.status != 409 || a.body != "12\n" {
			t.Errorf("%s: %+v, want 409 and 12", c.name, a)
		}
	}
	if a := s.add(t, fork.request(t, 12, 13)); a.status != 422 && a.status != 409 {
		t.Errorf("another history: %+v", a)
	}
}

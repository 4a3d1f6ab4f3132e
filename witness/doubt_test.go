package witness_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness"
)

// A witness that sees its own cosignature on a head that it does not know stops for
// good, for all logs, and says why.
func TestOwnCosignature(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	fork := newLog(t, l.key, "b", 20)
	other := newLog(t, newKey(t, "log.example/other", keys.Ed25519), "b", 20)
	key := newKey(t, "witness.example/w", keys.Cosignature)
	signer, err := key.Signer()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := newKey(t, "witness.example/w", keys.Cosignature).Signer()
	if err != nil {
		t.Fatal(err)
	}
	cosigned := func(l *testLog, size uint64, by note.Signer) []byte {
		return l.sign(t, string(l.body(size).Marshal()), by)
	}
	forged := damage(cosigned(l, 9, signer)) // our name and ID, and no signature of ours
	for name, test := range map[string]struct {
		body   string
		status int
	}{
		"larger":             {body("7", nil, cosigned(l, 9, signer)), 503},
		"with any old size":  {body("0", nil, cosigned(l, 9, signer)), 503},
		"of another history": {body("7", nil, cosigned(fork, 7, signer)), 503},
		"the latest":         {body("7", nil, cosigned(l, 7, signer)), 200},
		"an older one":       {body("5", nil, cosigned(l, 5, signer)), 409},
		"by another key":     {body("0", nil, cosigned(l, 9, stranger)), 409},
		"forged":             {body("0", nil, forged), 409},
	} {
		path := filepath.Join(t.TempDir(), "w.db")
		db := openStore(t, path)
		s := startServer(t, key, db, l, other)
		s.add(t, l.request(t, 0, 7))
		before := s.latest(t, origin)
		if a := s.add(t, test.body); a.status != test.status {
			t.Errorf("%s: %+v, want %d", name, a, test.status)
		}
		good, ready := 200, "ready\n"
		if test.status == 503 {
			good, ready = 503, "bears our own cosignature"
		}
		for range 2 {
			if a := s.add(t, other.request(t, 0, 7)); a.status != good && (good == 503 || a.status != 409) {
				t.Errorf("%s: another log is answered %+v", name, a)
			}
			a := do(t, "GET", s.http.URL+"/readyz", "")
			if !strings.Contains(a.body, ready) || a.status != good {
				t.Errorf("%s: %+v", name, a)
			}
			if good == 503 {
				if a := s.latest(t, origin); a != before {
					t.Errorf("%s: the latest is %+v", name, a)
				}
				if a := s.add(t, l.request(t, 7, 8)); a.status != 503 || !strings.Contains(a.body, "sealtap witness recover") {
					t.Errorf("%s: %+v", name, a)
				}
			}
			// A restart changes nothing.
			s.http.Close()
			if err := s.store.(interface{ Close() error }).Close(); err != nil {
				t.Fatal(err)
			}
			s = startServer(t, key, openStore(t, path), l, other)
		}
	}
}

// A witness in doubt signs nothing, not even its latest head anew.
func TestDoubt(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	other := newLog(t, newKey(t, "log.example/other", keys.Ed25519), "b", 20)
	store := openStore(t, filepath.Join(t.TempDir(), "w.db"))
	b := l.body(7)
	if err := store.Advance(t.Context(), nil, witness.Head{Origin: origin, Size: 7, Root: b.Root, Note: l.checkpoint(t, 7)}); err != nil {
		t.Fatal(err)
	}
	if err := store.AddDoubt(t.Context(), witness.Doubt{Origin: origin, Why: "it was put back", Since: time.Now()}); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, newKey(t, "witness.example/w", keys.Cosignature), store, l, other)
	if a := s.latest(t, origin); a.status != 404 {
		t.Errorf("the head was signed: %+v", a)
	}
	if a := s.add(t, l.request(t, 7, 7)); a.status != 503 {
		t.Error(a)
	}
	if a := s.add(t, body("0", nil, l.sign(t, string(checkpoint.Body{Origin: origin}.Marshal())))); a.status != 503 {
		t.Error(a)
	}
	if a := s.add(t, other.request(t, 0, 7)); a.status != 200 {
		t.Errorf("a log that is not in doubt: %+v", a)
	}
	if m := do(t, "GET", s.http.URL+"/metrics", "").body; !strings.Contains(m, "sealtap_witness_doubts 1\n") || !strings.Contains(m, `{result="doubted"} 2`) {
		t.Errorf("metrics:\n%s", m)
	}
}

package mirror_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/mirror"
	"github.com/sealtap/sealtap/tlog/client"
	"golang.org/x/mod/sumdb/note"
)

func mirrorKey(t *testing.T, typ keys.Type) (*keys.Private, func(*mirror.Config)) {
	t.Helper()
	k, err := keys.Generate("mirror.example/m", typ)
	if err != nil {
		t.Fatal(err)
	}
	return k, func(c *mirror.Config) { c.Key = k }
}

// cosigned reports whether the checkpoint of a directory has a mirror's signature and
// the log's.
func cosigned(t *testing.T, w *world, dir string, k *keys.Private) bool {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.policy.Verify(raw); err != nil {
		t.Fatal(err)
	}
	v, err := k.Verifier()
	if err != nil {
		t.Fatal(err)
	}
	_, err = checkpoint.Verify(raw, note.VerifierList(v))
	return err == nil
}

func TestCosigns(t *testing.T) {
	for _, typ := range []keys.Type{keys.Cosignature, keys.MLDSA44} {
		w, dir := newWorld(t, 300), t.TempDir()
		k, with := mirrorKey(t, typ)
		if _, err := w.update(dir); err != nil { // without a key
			t.Fatal(err)
		}
		if cosigned(t, w, dir, k) {
			t.Fatal("signed without a key")
		}
		for _, size := range []int{300, 300, 900} {
			w.grow(size)
			m, err := w.open(dir, with)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if _, err := m.Update(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			m.Close()
			if !cosigned(t, w, dir, k) {
				t.Errorf("not signed at %d", size)
			}
		}
		h := mirror.OriginHandler(dir, w.policy)
		sum := sha256.Sum256([]byte("log.example/a"))
		for _, path := range []string{"/checkpoint", "/tile/entries/000"} {
			at, below := httptest.NewRecorder(), httptest.NewRecorder()
			h.ServeHTTP(at, httptest.NewRequest("GET", path, nil))
			h.ServeHTTP(below, httptest.NewRequest("GET", fmt.Sprintf("/%x%s", sum, path), nil))
			if at.Code != 200 || below.Code != 200 || at.Body.String() != below.Body.String() {
				t.Errorf("%s: %d and %d", path, at.Code, below.Code)
			}
		}
	}
}

// TestSignsNothingThatItLacks has a mirror whose older entries are damaged, or gone,
// or were never there.
func TestSignsNothingThatItLacks(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"altered": func(dir string) error {
			name := filepath.Join(dir, "tile/entries/000")
			b, err := os.ReadFile(name)
			if err == nil {
				b[5] ^= 1
				err = os.WriteFile(name, b, 0o644)
			}
			return err
		},
		"gone": func(dir string) error { return os.Remove(filepath.Join(dir, "tile/entries/000")) },
		"pruned": func(dir string) error {
			return errors.Join(os.MkdirAll(filepath.Join(dir, "v1"), 0o755), os.WriteFile(filepath.Join(dir, "v1/retention.json"), []byte("{}"), 0o644))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, dir := newWorld(t, 600), t.TempDir()
			k, with := mirrorKey(t, keys.Cosignature)
			if _, err := w.update(dir); err != nil {
				t.Fatal(err)
			}
			if err := spoil(dir); err != nil {
				t.Fatal(err)
			}
			w.grow(1000)
			m, err := w.open(dir, with)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			for range 2 {
				if _, err = m.Update(t.Context()); !errors.Is(err, mirror.ErrIncomplete) || !errors.Is(err, client.ErrVerification) {
					t.Fatalf("it signs: %v", err)
				}
			}
			if cosigned(t, w, dir, k) {
				t.Error("a signature was left")
			}
		})
	}
}

func TestKeysOfMirrors(t *testing.T) {
	w := newWorld(t, 3)
	for _, k := range []struct {
		name string
		typ  keys.Type
	}{{"mirror.example/m", keys.Ed25519}, {"log.example/a", keys.Cosignature}} {
		key, err := keys.Generate(k.name, k.typ)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.open(t.TempDir(), func(c *mirror.Config) { c.Key = key }); !errors.Is(err, mirror.ErrConfig) {
			t.Errorf("%s of type %d: %v", k.name, k.typ, err)
		}
	}
}

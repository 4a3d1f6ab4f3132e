package sqlite

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/signed"
	"github.com/sealtap/sealtap/storage/sqlite/internal/faultvfs"
)

// FuzzSignedFile reads any .signed file.
func FuzzSignedFile(f *testing.F) {
	f.Add([]byte("log.example\n1\n" + "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n— log.example AAAA\n"))
	f.Add([]byte("log.example\n18446744073709551615\nAA==\n\n"))
	f.Add([]byte{})
	f.Add([]byte("\n\n\n"))
	path := filepath.Join(f.TempDir(), "log.db.signed")
	f.Fuzz(func(t *testing.T, note []byte) {
		if err := os.WriteFile(path, note, 0o600); err != nil {
			t.Fatal(err)
		}
		h, err := signed.File(path).Read()
		if err != nil {
			return
		}
		text, err := checkpoint.Text(note)
		if err != nil || h == nil {
			t.Fatalf("%q was read as %+v; its text: %v", note, h, err)
		}
		if b, _, err := checkpoint.Parse(text); err != nil || b.Size != h.Size || b.Root != h.Root {
			t.Errorf("%q was read as %+v", note, h)
		}
	})
}

// FuzzDamagedDatabase changes bytes of a database. It opens or does not; what is
// read is what was stored, or else not a bundle of the right number of entries, or
// an error. Nothing panics. That what is read is what was signed is for the log to
// check.
func FuzzDamagedDatabase(f *testing.F) {
	faultvfs.Reset("")
	w := &writer{path: filepath.Join(f.TempDir(), "log.db"), kept: nil}
	whole := damagedSeed(f, w)
	f.Add(uint32(100), []byte{0xff}, uint32(0), []byte{})
	f.Add(uint32(8192), []byte("\x0d\x00\x00"), uint32(16384), []byte{5, 0})
	f.Add(uint32(60), []byte{0xff, 0xff, 0xff, 0xff}, uint32(0), []byte{}) // user_version
	f.Add(uint32(24), []byte{1, 2, 3, 4}, uint32(92), []byte{9, 9, 9, 9})
	f.Add(uint32(len(whole)-64), make([]byte, 64), uint32(20000), []byte("x"))
	path := filepath.Join(f.TempDir(), "damaged.db")
	f.Fuzz(func(t *testing.T, at1 uint32, bytes1 []byte, at2 uint32, bytes2 []byte) {
		b := append([]byte(nil), whole...)
		copy(b[int(at1)%len(b):], bytes1)
		copy(b[int(at2)%len(b):], bytes2)
		for _, old := range []string{path, path + "-wal", path + "-shm"} {
			os.Remove(old)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := OpenLog(t.Context(), path)
		if err != nil {
			return
		}
		defer l.Close()
		state, err := l.Load(t.Context())
		if err != nil {
			return
		}
		for n := range min(state.Size/storage.BundleWidth+1, 8) {
			if bundle, err := l.Bundle(t.Context(), n); err == nil {
				for range storage.Entries(bundle) {
					continue
				}
			}
			_, _ = l.Tile(t.Context(), 0, n)
			_, _ = l.Tile(t.Context(), 1, n)
		}
		_, _ = l.Forks(t.Context())
	})
}

// damagedSeed stores a small log and returns its file.
func damagedSeed(f *testing.F, w *writer) []byte {
	f.Helper()
	l, err := OpenLog(f.Context(), w.path)
	if err != nil {
		f.Fatal(err)
	}
	w.log = l
	for _, n := range []int{200, 300, 30} {
		if !w.commit(n) {
			f.Fatal("not committed")
		}
	}
	if err := l.Close(); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(w.path)
	if err != nil {
		f.Fatal(err)
	}
	return whole
}

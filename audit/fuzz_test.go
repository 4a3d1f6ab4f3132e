package audit_test

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sealtap/sealtap/audit"
)

// FuzzMirror replaces a file of a log: whatever stands there instead, an audit ends,
// and passes only if it is the same.
func FuzzMirror(f *testing.F) {
	w, _ := shop(f)
	good := w.publish()
	paths := slices.Sorted(maps.Keys(good))
	for i, path := range paths {
		b := good[path]
		f.Add(uint8(i), b[:len(b)/2])
		f.Add(uint8(i), append(bytes.Clone(b), b...))
		f.Add(uint8(i), flip(b, len(b)*4))
	}
	f.Add(uint8(1), []byte{0xff, 0xff, 1, 2})
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		path := paths[int(which)%len(paths)]
		files := good.Clone()
		files[path] = data
		r, err := audit.Run(t.Context(), files.Source(), audit.Options{Policy: w.policy})
		if err != nil {
			t.Fatal(err)
		}
		// More signature lines on a checkpoint change nothing.
		same := bytes.Equal(data, good[path]) || path == "checkpoint" && bytes.HasPrefix(data, []byte(origin+"\n"))
		if r.Verdict == audit.Pass && !same {
			t.Errorf("%s of %q passes", path, data)
		}
	})
}

// FuzzState: a state file of whatever content is taken or refused, and one that is
// taken is not believed against the log.
func FuzzState(f *testing.F) {
	w, _ := shop(f)
	files := w.publish()
	state := filepath.Join(f.TempDir(), "state")
	if r := w.audit(files, audit.Options{State: state}); r.Verdict != audit.Pass {
		f.Fatal(r.Text())
	}
	good, err := os.ReadFile(state)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add(append(bytes.Clone(good), good...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := audit.Run(t.Context(), files.Source(), audit.Options{Policy: w.policy, State: path}); err == nil && r.Verdict == audit.Incomplete {
			t.Errorf("%q: %s", data, r.Text())
		}
	})
}

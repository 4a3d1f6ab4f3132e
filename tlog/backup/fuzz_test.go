package backup

import (
	"bytes"
	"testing"
	"time"
)

// FuzzManifest: what is read as a manifest is written as the very same bytes.
func FuzzManifest(f *testing.F) {
	m := Manifest{Format: Format, Origin: "log.example/one", Size: 3, Root: make([]byte, 32), Time: time.Unix(1, 0).UTC(), Signed: 2,
		Checkpoint: "log.example/one\n2\n…<&>\n", Openings: true, Files: []File{{logFile, 1, "ab"}, {signedFile, 2, "cd"}, {openingsFile, 3, "ef"}}}
	good, err := m.encode()
	if err != nil {
		f.Fatal(err)
	}
	if _, err := parse(good); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"format": "sealtap/backup/v2"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parse(data)
		if (m == nil) == (err == nil) {
			t.Fatalf("manifest %v with error %v", m, err)
		}
		if err != nil {
			return
		}
		if again, err := m.encode(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%q is written %q, %v", data, again, err)
		}
	})
}

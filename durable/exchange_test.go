package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestPutDir(t *testing.T) {
	dir := t.TempDir()
	make := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(path, "file"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	holds := func(path, want string) {
		t.Helper()
		if b, err := os.ReadFile(filepath.Join(path, "file")); err != nil || string(b) != want {
			t.Errorf("%s holds %q, %v; want %q", filepath.Base(path), b, err, want)
		}
	}
	to := filepath.Join(dir, "dir")
	if err := PutDir(filepath.Join(dir, "none"), to); err == nil {
		t.Error("put nothing")
	}
	if err := PutDir(make("one", "1"), to); err != nil {
		t.Fatal(err)
	}
	holds(to, "1")
	two := make("two", "2")
	if err := PutDir(two, to); err != nil {
		t.Fatal(err)
	}
	holds(to, "2")
	holds(two, "1")
	if err := putAside(two, to); err != nil { // as where names cannot be exchanged
		t.Fatal(err)
	}
	holds(to, "1")
	holds(two, "2")
	if _, err := os.Stat(to + Aside); err == nil {
		t.Error("something is left aside")
	}
	if err := os.Mkdir(to+Aside, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := putAside(two, to); !errors.Is(err, fs.ErrExist) {
		t.Errorf("put aside over somebody's directory: %v", err)
	}
	holds(to, "1")
	holds(two, "2")
	if err := os.Remove(to + Aside); err != nil {
		t.Fatal(err)
	}
	if err := RecoverDir(to); err != nil {
		t.Error(err)
	}
	holds(to, "1")
	if err := os.Rename(to, to+Aside); err != nil {
		t.Fatal(err)
	}
	if err := RecoverDir(to); err != nil {
		t.Error(err)
	}
	holds(to, "1")
	if err := RecoverDir(filepath.Join(dir, "never")); err != nil {
		t.Error(err)
	}
}

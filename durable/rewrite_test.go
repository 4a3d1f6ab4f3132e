package durable

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRewrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for i, text := range []string{"one", "a longer second one", "3", "", "five"} {
		if err := Rewrite(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		st, serr := os.Stat(path)
		if err != nil || serr != nil || string(b) != text || st.Mode() != 0o600 {
			t.Errorf("the file holds %q, mode %v, want %q; %v %v", b, st.Mode(), text, err, serr)
		}
		names, err := os.ReadDir(dir)
		if want := min(i+1, 2); err != nil || len(names) != want {
			t.Errorf("after %d times there are %v, %v; want %d", i+1, names, err, want)
		}
	}

	// What a crash left in the other file is nobody's.
	if err := os.WriteFile(path+Next, []byte(strings.Repeat("torn", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Rewrite(path, []byte("six"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); string(b) != "six" || err != nil {
		t.Errorf("the file holds %.20q, %v", b, err)
	}

	// What cannot be done leaves the file as it was.
	if err := os.Remove(path + Next); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path+Next, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Rewrite(path, []byte("seven"), 0o600); err == nil {
		t.Error("written through a directory")
	}
	if b, err := os.ReadFile(path); string(b) != "six" || err != nil {
		t.Errorf("after a failure the file holds %q, %v", b, err)
	}
	taken := filepath.Join(dir, "taken")
	if err := os.Mkdir(taken, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Rewrite(taken, nil, 0o600); err == nil {
		t.Error("a directory was replaced")
	}
}

// TestRead reads while the file is rewritten all the time: it gets one content or
// another, whole.
func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	content := func(i int) string { return strings.Repeat(string(rune('a'+i%26)), 1+i%5000) }
	if err := Rewrite(path, []byte(content(0)), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		for i := range 300 {
			if err := Rewrite(path, []byte(content(i)), 0o600); err != nil {
				done <- err
				return
			}
		}
		close(done)
	}()
	for {
		b, err := Read(path)
		if err != nil || len(b) == 0 || strings.Trim(string(b), string(b[:1])) != "" {
			t.Fatalf("read %d bytes of two contents, %v", len(b), err)
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
		}
	}
}

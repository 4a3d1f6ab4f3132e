package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealtap/sealtap/proxy"
)

// TestAccessLogNeverWaits: with a file that takes nothing, lines are dropped and
// counted, and nobody waits.
func TestAccessLogNeverWaits(t *testing.T) {
	l, err := openAccessLog(filepath.Join(t.TempDir(), "access.log"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe() // of which nobody reads
	if err != nil {
		t.Fatal(err)
	}
	l.file.Close()
	l.file = write
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.run(ctx) }()
	a := &proxy.Access{Path: "/" + string(bytes.Repeat([]byte("a"), 64<<10))}
	for end := time.Now().Add(20 * time.Second); l.dropped.Load() == 0; {
		l.entry(a)
		if time.Now().After(end) {
			t.Fatal("nothing was dropped")
		}
	}
	cancel()
	if _, err := io.Copy(io.Discard, read); err != nil { // until run closes the file
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestAccessLogReopen: a file that was moved away gets nothing more.
func TestAccessLogReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	l, err := openAccessLog(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.run(ctx) }()
	l.entry(&proxy.Access{Time: time.Now(), Exchange: "first", Method: "GET", Who: "alice", Duration: 1500 * time.Microsecond})
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	l.reopen()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	l.entry(&proxy.Access{Time: time.Now(), Exchange: "second"})
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{path + ".1": "first", path: "second"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var line map[string]any
		if err := json.Unmarshal(text, &line); err != nil || line["exchange"] != want { // and nothing behind it
			t.Errorf("%s: %v: %s", name, err, text)
		}
		if _, ok := line["who"]; ok != (want == "first") || want == "first" && line["duration_ms"] != 1.5 || line["level"] != nil || line["time"] == nil {
			t.Errorf("%s", text)
		}
	}
}

package client_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealtap/sealtap/tlog/client"
)

// A pipe in a directory of tiles, which never opens, keeps nobody waiting.
func TestPipe(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "checkpoint"), 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := client.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := src.Checkpoint(t.Context())
		got <- err
	}()
	select {
	case err := <-got:
		if !errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrVerification) || errors.Is(err, client.ErrNotFound) {
			t.Errorf("a pipe for a checkpoint: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("reading a pipe does not end")
	}
}

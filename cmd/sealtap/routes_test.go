package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// inset CONFIG FILE puts the content of a file, with variables replaced, in the
// place of the upstream that a configuration has, or of what was inset before.
func inset(ts *testscript.TestScript, neg bool, args []string) {
	path := ts.MkAbs(args[0])
	old, err := os.ReadFile(path)
	ts.Check(err)
	text := os.Expand(ts.ReadFile(args[1]), ts.Getenv)
	place := regexp.MustCompile(`(?s)\n  upstream: \S+\n|\n  \S[^\n]* # of the test\n.*  # end of the test's\n`)
	if !place.Match(old) {
		ts.Fatalf("%s has no place for routes", args[0])
	}
	ts.Check(os.WriteFile(path, place.ReplaceAllLiteral(old, []byte("\n"+text)), 0o644))
}

// gets URL FILE sends GET requests, four at a time, until there is a file, and
// some more. It fails unless all are answered with 200.
func gets() {
	const more = 50
	var good, bad atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for left := more; left > 0; {
				res, err := http.Get(os.Args[1])
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
				if err == nil && res.StatusCode == http.StatusOK {
					good.Add(1)
				} else {
					bad.Add(1)
				}
				if _, err := os.Stat(os.Args[2]); err == nil {
					left--
				}
			}
		})
	}
	wg.Wait()
	fmt.Printf("%d answered, %d failed\n", good.Load(), bad.Load())
	if bad.Load() > 0 {
		os.Exit(1)
	}
	os.Exit(0)
}

func TestListenUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "front.sock")
	defer syscall.Umask(syscall.Umask(0o077))
	l, err := listenOn("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != fs.ModeSocket|socketMode {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := listenOn("unix:" + path); err == nil || err.Error() != "somebody listens on "+path {
		t.Errorf("a second listener: %v", err)
	}
	// As after a crash: the file stays.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if l, err = listenOn("unix:" + path); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket stays: %v", err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenOn("unix:" + path); err == nil || err.Error() != path+" is there and not a socket" {
		t.Errorf("on a file: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("%q, %v", b, err)
	}
	target := filepath.Join(t.TempDir(), "target")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	if _, err := listenOn("unix:" + path); err == nil {
		t.Error("it follows a link")
	}
}

package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Every bit of what an auditor is handed is either found when it is flipped, or is
// listed in docs/audit.md as one that carries no meaning. make bitflips flips every
// bit of the small files and 50,000 of the large ones of each kind; without the flag
// a sample is flipped. SEALTAP_BITFLIPS_KIND names the kinds to be flipped, by spaces; without it all are.
var (
	bitflips = flag.Int("bitflips", 0, "how many random bits of the large files of each kind are flipped; 0 means a sample of all files")
	flipSeed = flag.Uint64("bitflips.seed", 20261124, "seed of the random bits")
)

const (
	sampledFlips = 80   // of each kind, without the flag
	sampledLog   = 150  // exchanges in the log, without the flag
	wholeLog     = 1500 // with it: some thousand entries
)

// flipping is one kind of data, bit by bit.
type flipping struct {
	name  string
	small int               // every bit is flipped of files of up to this many bytes
	files map[string][]byte // by their paths
	// open makes what one worker flips bits with.
	open func(t *testing.T) flipper
}

// flipper tells what becomes of the files if one bit of one of them is flipped: "" if
// it is found, or refused with an error; else the class of bytes without meaning that
// it lies in. What it returns may not be so is an error.
type flipper func(path string, bit int) (meaningless string, err error)

// bitPlace is one bit.
type bitPlace struct {
	path string
	bit  int
}

// places returns the bits to be flipped.
func (f *flipping) places(most int) (list []bitPlace) {
	rng := rand.New(rand.NewPCG(*flipSeed, uint64(len(f.name))))
	paths, large := slices.Sorted(maps.Keys(f.files)), 0
	for _, path := range paths {
		n := len(f.files[path])
		if n > f.small || *bitflips == 0 {
			large += n * 8
			continue
		}
		for bit := range n * 8 {
			list = append(list, bitPlace{path, bit})
		}
	}
	all := len(list)
	for large > 0 && len(list) < all+most {
		at := rng.IntN(large)
		for _, path := range paths {
			n := len(f.files[path])
			if n <= f.small && *bitflips > 0 {
				continue
			}
			if at < n*8 {
				list = append(list, bitPlace{path, at})
				break
			}
			at -= n * 8
		}
	}
	return list
}

// run flips bits on all cores.
func (f *flipping) run(t *testing.T) {
	most := *bitflips
	if most == 0 {
		most = sampledFlips
	}
	list := f.places(most)
	var next, found, missed atomic.Int64
	var mu sync.Mutex
	var wg sync.WaitGroup
	classes := make(map[string]int)
	started := time.Now()
	for range runtime.GOMAXPROCS(0) {
		flip := f.open(t)
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(list) || t.Failed() && *bitflips == 0 {
					return
				}
				p := list[i]
				class, err := guarded(flip, p)
				mu.Lock()
				if err != nil || class != "" && !slices.Contains(meaningless, class) {
					missed.Add(1)
				}
				switch {
				case err != nil:
					t.Errorf("%s: bit %d of byte %d of %s: %v", f.name, p.bit%8, p.bit/8, p.path, err)
				case class == "":
					found.Add(1)
				case !slices.Contains(meaningless, class):
					t.Errorf("%s: bit %d of byte %d of %s lies in %q and is not found; it is among %x", f.name, p.bit%8, p.bit/8, p.path, class, f.files[p.path][max(0, p.bit/8-16):min(len(f.files[p.path]), p.bit/8+17)])
				default:
					classes[class]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	without := 0
	for _, n := range classes {
		without += n
	}
	t.Logf("%s: %d bits flipped with seed %d in %s, %d found, %d in bytes without meaning, %d missed",
		f.name, len(list), *flipSeed, time.Since(started).Round(time.Second), found.Load(), without, missed.Load())
	for _, class := range slices.Sorted(maps.Keys(classes)) {
		t.Logf("  %6d in %s", classes[class], class)
	}
}

// guarded says of a panic and of a hang which bit it was.
func guarded(flip flipper, p bitPlace) (class string, err error) {
	patience := time.AfterFunc(2*time.Minute, func() { panic(fmt.Sprintf("hangs at bit %d of %s", p.bit, p.path)) })
	defer patience.Stop()
	defer func() {
		if e := recover(); e != nil {
			err = fmt.Errorf("panic: %v", e)
		}
	}()
	return flip(p.path, p.bit)
}

// flipped returns a copy of b with one bit changed.
func flipped(b []byte, bit int) []byte {
	b = bytes.Clone(b)
	b[bit/8] ^= 1 << (bit % 8)
	return b
}

// readAll returns the files below a directory whose names do not begin with a dot.
func readAll(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), ".") {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err == nil {
			files[name], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// copyFiles writes files below a new directory.
func copyFiles(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, b, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// flipOnDisk flips one bit of a file for as long as do runs.
func flipOnDisk(path string, bit int, good []byte, do func()) error {
	put := func(b byte) error {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte{b}, int64(bit/8))
		return errors.Join(err, f.Close())
	}
	if err := put(good[bit/8] ^ 1<<(bit%8)); err != nil {
		return err
	}
	do()
	return put(good[bit/8])
}

// traffic sends exchanges through the proxy, and returns once all of them are in the log.
func (w *world) traffic(t *testing.T, n int) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer c.CloseIdleConnections()
	var wg sync.WaitGroup
	for k := range 32 {
		wg.Go(func() {
			for i := k; i < n; i += 32 {
				req, _ := http.NewRequest("POST", fmt.Sprintf("http://%s/item/%d?of=%d", w.proxy, i, n), strings.NewReader("x"))
				req.SetBasicAuth(fmt.Sprintf("user%d", i%7), "secret")
				res, err := c.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
		})
	}
	wg.Wait()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var have uint64
		for _, records := range w.written(t) {
			have += records
		}
		if have >= uint64(2*n) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d records of %d exchanges are sealed", have, n)
		}
	}
}

// must runs a command that ends well.
func (w *world) must(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errs := w.sealtap(args...)
	if code != exitGood {
		t.Fatalf("%v: exit %d, %s", args, code, errs)
	}
	return out
}

package mirror_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/mirror"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/tlog/client/clienttest"
	"github.com/sealtap/sealtap/witness/policy"
)

// world is a log whose files tests change as they like.
type world struct {
	t       *testing.T
	key     *keys.Private
	policy  *policy.Policy
	entries [][]byte
	url     string

	mu     sync.Mutex
	files  clienttest.Files
	asked  map[string]int
	refuse func(path string) bool
}

func newWorld(t *testing.T, n int) *world {
	t.Helper()
	key, err := keys.Generate("log.example/a", keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, key: key, asked: make(map[string]int)}
	if w.policy, err = policy.Parse([]byte("log " + key.Public.String() + "\nquorum none\n")); err != nil {
		t.Fatal(err)
	}
	w.grow(n)
	srv := httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(srv.Close)
	w.url = srv.URL
	return w
}

func (w *world) serve(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	w.asked[strings.TrimPrefix(r.URL.Path, "/")]++
	files, refuse := w.files, w.refuse
	w.mu.Unlock()
	if refuse != nil && refuse(r.URL.Path) {
		http.Error(rw, "not now", http.StatusBadGateway)
		return
	}
	files.ServeHTTP(rw, r)
}

// grow gives the log n entries in all.
func (w *world) grow(n int) {
	w.t.Helper()
	for len(w.entries) < n {
		w.entries = append(w.entries, fmt.Appendf(nil, "entry %d", len(w.entries)))
	}
	w.publish(w.entries[:n])
}

// publish signs a tree of these entries.
func (w *world) publish(entries [][]byte) {
	w.t.Helper()
	files, root := clienttest.Tiles(entries)
	signer, err := w.key.Signer()
	if err != nil {
		w.t.Fatal(err)
	}
	body := checkpoint.Body{Origin: w.key.Name, Size: uint64(len(entries)), Root: root}
	if files["checkpoint"], err = note.Sign(&note.Note{Text: string(body.Marshal())}, signer); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.files = files
}

func (w *world) open(dir string, change ...func(*mirror.Config)) (*mirror.Mirror, error) {
	w.t.Helper()
	src, err := client.Open(w.url, client.WithRetries(1, time.Millisecond))
	if err != nil {
		w.t.Fatal(err)
	}
	c := mirror.Config{Source: src, Policy: w.policy, Dir: dir}
	for _, f := range change {
		f(&c)
	}
	return mirror.Open(c)
}

// update runs a mirror once, as a process of its own would.
func (w *world) update(dir string) (*policy.Checkpoint, error) {
	w.t.Helper()
	m, err := w.open(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	defer m.Close()
	return m.Update(w.t.Context())
}

// same fails the test unless the directory has every file of the log.
func (w *world) same(dir string) {
	w.t.Helper()
	for name, want := range w.files {
		got, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil || !bytes.Equal(got, want) {
			w.t.Fatalf("%s: %v, %d bytes instead of %d", name, err, len(got), len(want))
		}
	}
}

func TestGrowth(t *testing.T) {
	w, dir := newWorld(t, 0), t.TempDir()
	for _, n := range []int{0, 1, 255, 256, 257, 700, 701, 65_535, 65_536, 66_100, 140_000} {
		w.grow(n)
		head, err := w.update(dir)
		if err != nil {
			t.Fatalf("%d entries: %v", n, err)
		}
		if head.Size != uint64(n) {
			t.Fatalf("the checkpoint has %d entries, want %d", head.Size, n)
		}
		w.same(dir)
	}
	// What has become complete leaves no partial tiles behind.
	var partial []string
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, _ error) error {
		if e.IsDir() && strings.HasSuffix(path, ".p") {
			partial = append(partial, path)
		}
		if strings.HasPrefix(e.Name(), ".new-") {
			t.Errorf("left behind: %s", path)
		}
		return nil
	})
	if want := 4; len(partial) != want { // entries, and levels 0 to 2
		t.Errorf("partial tiles %v, want those of %d tiles", partial, want)
	}
	// Nothing but what is new is fetched.
	w.mu.Lock()
	clear(w.asked)
	w.mu.Unlock()
	w.grow(140_001)
	if _, err := w.update(dir); err != nil {
		t.Fatal(err)
	}
	if len(w.asked) > 8 {
		t.Errorf("one more entry made %d files be fetched: %v", len(w.asked), w.asked)
	}
}

// A mirror that was stopped anywhere goes on with what it has, and believes none
// of it unseen.
func TestResumes(t *testing.T) {
	w, dir := newWorld(t, 20_000), t.TempDir()
	w.refuse = func(path string) bool { return strings.HasSuffix(path, "entries/070") }
	if _, err := w.update(dir); !errors.Is(err, client.ErrUnavailable) {
		t.Fatalf("a bundle that cannot be had: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "checkpoint")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("there is a checkpoint over entries that are not there: %v", err)
	}
	damaged := filepath.Join(dir, "tile/entries/003")
	b, err := os.ReadFile(damaged)
	if err != nil {
		t.Fatal(err)
	}
	b[20] ^= 1
	if err := os.WriteFile(damaged, b, 0o644); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.refuse = nil
	clear(w.asked)
	w.mu.Unlock()
	if _, err := w.update(dir); err != nil {
		t.Fatal(err)
	}
	w.same(dir)
	if w.asked["tile/entries/002"] != 0 || w.asked["tile/entries/003"] != 1 {
		t.Errorf("bundle 2 was fetched %d times, the damaged bundle 3 %d times", w.asked["tile/entries/002"], w.asked["tile/entries/003"])
	}
}

// No byte of a log that differs from what was signed gets into the mirror.
func TestAltered(t *testing.T) {
	for _, name := range []string{"tile/entries/000", "tile/entries/001", "tile/entries/002.p/88", "tile/0/002.p/88", "tile/1/000.p/2", "checkpoint"} {
		t.Run(name, func(t *testing.T) {
			w, dir := newWorld(t, 600), t.TempDir()
			b := bytes.Clone(w.files[name])
			if b == nil {
				t.Fatal("the log has no such file")
			}
			b[len(b)-3] ^= 1
			w.files[name] = b
			_, err := w.update(dir)
			if !errors.Is(err, client.ErrVerification) {
				t.Fatalf("an altered file: %v", err)
			}
			if _, err := os.Stat(filepath.Join(dir, "checkpoint")); !errors.Is(err, fs.ErrNotExist) {
				t.Error("there is a checkpoint all the same")
			}
			if got, _ := os.ReadFile(filepath.Join(dir, name)); bytes.Equal(got, b) {
				t.Error("the altered file was written")
			}
		})
	}
}

func TestRewritten(t *testing.T) {
	other := func(entries [][]byte, at, n int) [][]byte {
		list := append([][]byte(nil), entries...)
		for len(list) < n {
			list = append(list, fmt.Appendf(nil, "entry %d", len(list)))
		}
		list[at] = []byte("another one")
		return list[:n]
	}
	for name, entries := range map[string]func(w *world) [][]byte{
		"rolled back":  func(w *world) [][]byte { return w.entries[:500] },
		"same size":    func(w *world) [][]byte { return other(w.entries, 3, 600) },
		"grown fork":   func(w *world) [][]byte { return other(w.entries, 599, 900) },
		"early change": func(w *world) [][]byte { return other(w.entries, 0, 70_000) },
		"emptied":      func(*world) [][]byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			w, dir := newWorld(t, 600), t.TempDir()
			if _, err := w.update(dir); err != nil {
				t.Fatal(err)
			}
			before := w.files
			w.publish(entries(w))
			_, err := w.update(dir)
			if !errors.Is(err, mirror.ErrRewritten) || !errors.Is(err, client.ErrVerification) {
				t.Fatalf("another history: %v", err)
			}
			kept, _ := filepath.Glob(filepath.Join(dir, ".conflict-*"))
			if len(kept) != 1 {
				t.Fatalf("kept as evidence: %v", kept)
			}
			if b, _ := os.ReadFile(kept[0]); !bytes.Equal(b, w.files["checkpoint"]) {
				t.Error("it is not the checkpoint that the log showed")
			}
			w.files = before
			w.same(dir)
		})
	}
}

func TestDirectory(t *testing.T) {
	w := newWorld(t, 10)
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "letter.txt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := w.open(foreign); !errors.Is(err, mirror.ErrConfig) || !strings.Contains(err.Error(), "letter.txt") {
		t.Errorf("a directory with other files: %v", err)
	}
	dir := t.TempDir()
	m, err := w.open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.open(dir); !errors.Is(err, mirror.ErrLocked) {
		t.Errorf("a second mirror in one directory: %v", err)
	}
	if _, err := m.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.Close()
	if _, err := newWorld(t, 10).open(dir); !errors.Is(err, mirror.ErrConfig) {
		t.Errorf("the mirror of another log: %v", err)
	}
}

func TestFollow(t *testing.T) {
	w, dir := newWorld(t, 10), t.TempDir()
	m, err := w.open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Follow(ctx, time.Millisecond) }()
	served := httptest.NewServer(mirror.Handler(dir))
	defer served.Close()
	until := func(size uint64) {
		t.Helper()
		c, err := client.New(served.URL, w.policy, client.WithRetries(1, time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			if cp, err := c.Checkpoint(t.Context()); err == nil && cp.Size == size {
				if _, err := c.Tree(cp).Entry(t.Context(), size-1); err != nil {
					t.Fatal(err)
				}
				return
			}
			if time.Now().After(end) {
				t.Fatalf("the mirror does not come to %d entries", size)
			}
		}
	}
	until(10)
	w.grow(300)
	until(300)
	// A log that is away for a while does no harm.
	w.mu.Lock()
	w.refuse = func(string) bool { return true }
	w.mu.Unlock()
	time.Sleep(10 * time.Millisecond)
	w.mu.Lock()
	w.refuse = nil
	w.mu.Unlock()
	w.grow(301)
	until(301)
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestFollowStopsAtAFork(t *testing.T) {
	w, dir := newWorld(t, 10), t.TempDir()
	m, err := w.open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := m.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.publish(w.entries[:5])
	if err := m.Follow(t.Context(), time.Millisecond); !errors.Is(err, mirror.ErrRewritten) {
		t.Fatal(err)
	}
}

func TestPaceAndProgress(t *testing.T) {
	w, dir := newWorld(t, 3000), t.TempDir()
	var last, total uint64
	m, err := w.open(dir, func(c *mirror.Config) {
		c.BytesPerSecond = 64 << 20
		c.Progress = func(done, all uint64) {
			if done < last || done > all {
				t.Errorf("progress went from %d to %d of %d", last, done, all)
			}
			last, total = done, all
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := m.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	if last != 3000 || total != 3000 {
		t.Errorf("progress ended at %d of %d", last, total)
	}
	w.same(dir)
}

func TestHandler(t *testing.T) {
	w, dir := newWorld(t, 300), t.TempDir()
	if _, err := w.update(dir); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(mirror.Handler(dir))
	defer srv.Close()
	for path, want := range map[string]int{
		"/checkpoint": 200, "/tile/0/000": 200, "/tile/entries/001.p/44": 200, "/healthz": 200,
		"/tile/0/000.p/3": 404, "/tile/0/../../checkpoint": 307, "/tile/0": 404, "/tile/": 404, "/.mirror.lock": 404, "/v1/retention": 404, "/": 404,
	} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("GET %s: %d, want %d", path, res.StatusCode, want)
		}
		if forever := strings.Contains(res.Header.Get("Cache-Control"), "immutable"); res.StatusCode == 200 && forever != strings.HasPrefix(path, "/tile") {
			t.Errorf("GET %s: Cache-Control %q", path, res.Header.Get("Cache-Control"))
		}
	}
}

// A pipe where a file belongs has nobody at its other end: nothing waits for one.
func TestPipe(t *testing.T) {
	w, dir := newWorld(t, 300), t.TempDir()
	if _, err := w.update(dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "tile", "entries", "000")
	if err := errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o644)); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(mirror.Handler(dir))
	defer srv.Close()
	client := &http.Client{Timeout: 20 * time.Second}
	resp, err := client.Get(srv.URL + "/tile/entries/000")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("a pipe is served as %d", resp.StatusCode)
	}
}

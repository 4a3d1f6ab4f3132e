// Package interop has programs and libraries that we did not write check what
// sealtap makes, on the real binary. It is a module of its own, so that what the
// checkers depend on stays out of sealtap.
//
// A check that cannot run is a skip with its name and its reason, printed at
// the end of the run as well.
package interop

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"k8s.io/klog/v2"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/interop/internal/stack"
)

// env is what TestMain makes once.
type env struct {
	bin   string       // sealtap
	tmp   string       // for the whole run
	log   *stack.Stack // a reverse proxy with a log of some hundred exchanges
	sent  int          // exchanges so far
	mu    sync.Mutex
	skips []string
}

var world env

func TestMain(m *testing.M) {
	os.Exit(runAll(m))
}

func runAll(m *testing.M) (code int) {
	// Tessera's libraries tell of each request that a test makes fail.
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "interop:", err)
		return 1
	}
	var err error
	if world.tmp, err = os.MkdirTemp("", "sealtap-interop"); err != nil {
		return fail(err)
	}
	defer os.RemoveAll(world.tmp)
	if world.bin, err = stack.Build(world.tmp); err != nil {
		return fail(err)
	}
	upstream := newUpstream()
	defer upstream.Close()
	if world.log, err = stack.Up(world.bin, filepath.Join(world.tmp, "shared"), upstream.URL); err != nil {
		return fail(err)
	}
	defer func() {
		if err := world.log.Stop(); err != nil {
			code = fail(err)
		}
	}()
	// Two full bundles and a partial one, so that every kind of tile is there.
	if err = world.exchanges(300); err != nil {
		return fail(err)
	}
	code = m.Run()
	for _, s := range world.skips {
		fmt.Fprintln(os.Stderr, "interop: SKIPPED", s)
	}
	return code
}

// skip says that a check cannot run here, and why.
func skip(t *testing.T, reason string) {
	t.Helper()
	world.mu.Lock()
	world.skips = append(world.skips, t.Name()+": "+reason)
	world.mu.Unlock()
	t.Skip(reason)
}

// newUpstream answers with the body that it got, and with the answers that some
// paths ask for.
func newUpstream() *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = w.Write(body)
	})
	mux.HandleFunc("/chunked", func(w http.ResponseWriter, r *http.Request) {
		for i := range 5 {
			fmt.Fprintf(w, "part %d\n", i)
			w.(http.Flusher).Flush()
		}
	})
	mux.HandleFunc("/head", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "12345")
		if r.Method != http.MethodHead {
			_, _ = w.Write(make([]byte, 12345))
		}
	})
	return httptest.NewServer(mux)
}

// exchanges sends n requests through the shared proxy, and waits until the log
// has published both records of each.
func (e *env) exchanges(n int) error {
	before, err := published(e.log)
	if err != nil {
		return err
	}
	work := make(chan struct{}, n)
	for range n {
		work <- struct{}{}
	}
	close(work)
	failed := make(chan error, 8)
	for range 8 {
		go func() {
			var err error
			for range work {
				if err == nil {
					err = post(e.log.Proxy + "/echo?token=t0psecret")
				}
			}
			failed <- err
		}()
	}
	for range 8 {
		if ferr := <-failed; ferr != nil {
			err = ferr
		}
	}
	if err != nil {
		return err
	}
	e.sent += n
	return e.log.Await("records in the log", 30*time.Second, func() bool {
		size, err := published(e.log)
		return err == nil && size >= before+2*uint64(n)
	})
}

func post(url string) error {
	body := make([]byte, 1024)
	_, _ = rand.Read(body)
	resp, err := http.Post(url, "application/octet-stream", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	back, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(back, body) {
		return fmt.Errorf("exchange through the proxy: status %d, %d bytes back, %v", resp.StatusCode, len(back), err)
	}
	return nil
}

// published is the size of the log's checkpoint.
func published(s *stack.Stack) (uint64, error) {
	cp, err := s.Get(context.Background(), "/checkpoint")
	if err != nil {
		return 0, err
	}
	text, err := checkpoint.Text(cp)
	if err != nil {
		return 0, err
	}
	body, _, err := checkpoint.Parse(text)
	return body.Size, err
}

// newest returns the newest checkpoint.
func newest(t *testing.T) []byte {
	t.Helper()
	cp, err := world.log.Get(t.Context(), "/checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

func logVerifier(t *testing.T, s *stack.Stack) note.Verifier {
	t.Helper()
	v, err := note.NewVerifier(s.LogKey())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// witnessKeys returns the vkeys of the witnesses in a policy.txt, which a foreign
// checker takes as they stand there.
func witnessKeys(policy []byte) []string {
	var list []string
	for line := range strings.Lines(string(policy)) {
		if f := strings.Fields(line); len(f) >= 3 && f[0] == "witness" {
			list = append(list, f[2])
		}
	}
	return list
}

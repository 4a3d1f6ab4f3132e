package interop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transparency-dev/tessera/client"

	load "github.com/sealtap/sealtap/interop/internal/producer"
	"github.com/sealtap/sealtap/interop/internal/stack"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	logclient "github.com/sealtap/sealtap/tlog/client"
)

// Tessera's hammer writes leaves as fast as it is allowed to, reads the log all
// over meanwhile, and follows its checkpoints with consistency proofs. It never
// compares what it reads with what it wrote, so that is done here: every body
// stands where the log said, in the record that carries it.
func TestTesseraHammer(t *testing.T) {
	if testing.Short() {
		t.Skip("hammers a log for about ten seconds")
	}
	bin, err := stack.BuildForeign(t.TempDir(), "github.com/transparency-dev/tessera/internal/hammer")
	if err != nil {
		skip(t, "the hammer cannot be built: "+err.Error())
	}
	s, err := stack.Up(world.bin, filepath.Join(t.TempDir(), "data"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}()
	a := newAdapter(t, s)
	const goal = 3000
	h, err := stack.Start(nil, bin, "-log_url", s.Log, "-write_log_url", a.url, "-log_public_key", s.LogKey(),
		"-num_writers", "64", "-max_write_ops", "600", "-num_readers_random", "4", "-num_readers_full", "2", "-max_read_ops", "400",
		"-leaf_min_size", "400", "-leaf_write_goal", fmt.Sprint(goal), "-max_runtime", "2m", "-show_ui=false")
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-h.Done():
	case <-time.After(3 * time.Minute):
		h.Kill()
	}
	// Its exit code tells only whether the goal was reached.
	if out := h.Output(); h.ExitCode() != 0 || !strings.Contains(out, "Reached tree size goal") || complains(out) {
		t.Fatalf("the hammer ended with %d: %s", h.ExitCode(), out)
	}
	a.stop()
	a.check(goal)
}

// complaint is a line of the hammer that begins with the severity of a warning, an
// error or worse (klog). It warns of every read or write that failed.
var complaint = regexp.MustCompile(`(?m)^[WEF]\d{4} .*$`)

// complains reports whether the hammer warned of anything but what it cut short
// itself when it had reached its goal.
func complains(out string) bool {
	for _, line := range complaint.FindAllString(out, -1) {
		if !strings.Contains(line, "context canceled") {
			return true
		}
	}
	return false
}

// adapter takes what Tessera's personalities take, POST /add, and answers with the
// index. Those that arrive at the same time are submitted together, as a proxy
// does it.
type adapter struct {
	t    *testing.T
	log  *stack.Stack
	url  string
	p    *load.Producer
	c    *logclient.Client
	adds chan add
	stop func()

	mu    sync.Mutex
	wrote map[uint64]string
}

type add struct {
	body string
	done chan uint64 // closed without an index if the log did not take it
}

func newAdapter(t *testing.T, s *stack.Stack) *adapter {
	t.Helper()
	key, err := keys.Load(filepath.Join(s.Dir, "keys", "proxy.key"))
	if err != nil {
		t.Fatal(err)
	}
	a := &adapter{t: t, log: s, adds: make(chan add, 1024), wrote: make(map[uint64]string)}
	if a.p, err = load.New(key, nil); err != nil {
		t.Fatal(err)
	}
	if a.c, err = logclient.New(s.Log, s.Policy); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(a.serve))
	a.url = srv.URL
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.run(ctx)
	}()
	a.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		srv.CloseClientConnections()
		srv.Close()
	})
	t.Cleanup(a.stop)
	return a
}

func (a *adapter) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || r.URL.Path != "/add" {
		http.Error(w, "POST a leaf to /add", http.StatusBadRequest)
		return
	}
	one := add{string(body), make(chan uint64, 1)}
	select {
	case a.adds <- one:
	case <-r.Context().Done():
		return
	}
	select {
	case index, ok := <-one.done:
		if !ok {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "the log does not take it now", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "%d\n", index)
	case <-r.Context().Done():
	}
}

// run submits until ctx ends.
func (a *adapter) run(ctx context.Context) {
	for {
		var batch []add
		select {
		case one := <-a.adds:
			batch = append(batch, one)
		case <-ctx.Done():
			return
		}
		for len(a.adds) > 0 && len(batch) < 256 {
			batch = append(batch, <-a.adds)
		}
		if err := a.submit(ctx, batch); err != nil && ctx.Err() == nil {
			a.t.Errorf("the log does not take a batch: %v", err)
		}
	}
}

func (a *adapter) submit(ctx context.Context, batch []add) error {
	next := 0
	first := len(a.p.Entries)
	req, err := a.p.Next(len(batch), func(uint64) *sealtapv1.Record {
		next++
		return load.Request(batch[next-1].body)(0)
	})
	if err != nil {
		return err
	}
	answer, err := a.c.Submit(ctx, req)
	for errors.Is(err, logclient.ErrUnavailable) && ctx.Err() == nil {
		answer, err = a.c.Submit(ctx, req)
	}
	if err == nil {
		err = a.p.Done(answer)
	}
	for i, one := range batch {
		if err == nil {
			index := a.p.Entries[first+i].Index
			a.mu.Lock()
			a.wrote[index] = one.body
			a.mu.Unlock()
			one.done <- index
		}
		close(one.done)
	}
	return err
}

// check reads everything back with Tessera's client.
func (a *adapter) check(least int) {
	a.t.Helper()
	if len(a.wrote) < least*9/10 { // seals are leaves as well
		a.t.Errorf("the hammer wrote %d leaves", len(a.wrote))
	}
	last := uint64(0)
	for index := range a.wrote {
		last = max(last, index)
	}
	if err := a.log.Await("publication", time.Minute, func() bool {
		size, err := published(a.log)
		return err == nil && size > last
	}); err != nil {
		a.t.Fatal(err)
	}
	f, found := fetcher(a.t, a.log.Log), 0
	size := func(context.Context) (uint64, error) { return last + 1, nil }
	for e, err := range client.Entries(client.EntryBundles(a.t.Context(), 4, size, f.ReadEntryBundle, 0, last+1), unbundle) {
		if err != nil {
			a.t.Fatal(err)
		}
		if body, ok := a.wrote[e.Index]; ok {
			found++
			got, err := record.Parse(e.Entry)
			// The first record of a stream is its start, whatever was to be written.
			if err != nil || got.Record == nil || got.Record.GetSequence() > 0 && got.Record.GetRequest().GetPath() != body {
				a.t.Errorf("entry %d is not what was written: %v", e.Index, err)
			}
		}
		if e.Index == last {
			break
		}
	}
	if found != len(a.wrote) {
		a.t.Errorf("%d of %d leaves are there", found, len(a.wrote))
	}
	if err := check(logVerifier(a.t, a.log), f, time.Minute); err != nil {
		a.t.Errorf("fsck after the hammer: %v", err)
	}
}

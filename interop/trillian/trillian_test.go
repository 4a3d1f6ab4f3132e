// Package trillian tests logs on Trillian with the servers that run in production:
// PostgreSQL, Trillian's log server and signer, and sealtap's own, as processes that
// are killed, stopped and cut off.
package trillian

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"

	"github.com/sealtap/sealtap/interop/internal/cluster"
	"github.com/sealtap/sealtap/interop/internal/stack"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/postgres/pgtest"
	"github.com/sealtap/sealtap/storage/trillian/trilliantest"
)

var rounds = flag.Int("rounds", 8, "how many faults under load")

var bin string

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "sealtap-trillian")
	if err == nil {
		bin, err = stack.Build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "trillian:", err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// up starts a cluster, until the end of the test.
func up(t *testing.T, o cluster.Options) *cluster.Cluster {
	t.Helper()
	if os.Getenv("SEALTAP_REQUIRE_CLUSTER") == "" {
		if pgtest.Binaries() == "" {
			t.Skip(pgtest.ErrNotInstalled)
		}
		if _, err := trilliantest.Binaries(); err != nil {
			t.Skip("Trillian cannot be installed: ", err)
		}
	}
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello from %s\n", r.URL.Path) }))
	t.Cleanup(upstream.Close)
	o.Upstream = upstream.URL
	c, err := cluster.Up(bin, t.TempDir(), o)
	if errors.Is(err, cluster.ErrNoNamespaces) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Down(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// load sends requests through the proxies until it is stopped, and remembers what
// clients saw answered.
type load struct {
	mu       sync.Mutex
	answered []string // exchanges
	stop     func()
}

func start(c *cluster.Cluster) *load {
	l := new(load)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range c.Proxies {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if status, exchange, err := c.Exchange(i, fmt.Sprintf("/load/%d/%d", i, n)); err == nil && status == http.StatusOK {
					l.mu.Lock()
					l.answered = append(l.answered, exchange)
					l.mu.Unlock()
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	l.stop = func() { cancel(); wg.Wait() }
	return l
}

// complete checks that every exchange that a client saw answered is in the log, each
// stage once.
func (l *load) complete(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	if len(l.answered) == 0 {
		t.Fatal("nothing was answered")
	}
	missing := ""
	for i, exchange := range l.answered {
		if err := c.Await("exchange "+exchange, 90*time.Second, func() bool {
			missing = stages(c, i%len(c.Logs), exchange)
			return missing == "request response"
		}); err != nil {
			t.Fatalf("exchange %d of %d has the stages %q: %v", i, len(l.answered), missing, err)
		}
	}
}

func stages(c *cluster.Cluster, i int, exchange string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	b, err := stack.Fetch(ctx, c.Logs[i].URL+"/v1/records?exchange="+url.QueryEscape(exchange))
	if err != nil {
		return err.Error()
	}
	var answer struct {
		Records []struct {
			Stage string
			Index uint64
		}
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		return err.Error()
	}
	found := make(map[string]int)
	for _, r := range answer.Records {
		found[r.Stage]++
	}
	if found["request"] == 1 && found["response"] == 1 && len(found) == 2 {
		return "request response"
	}
	return fmt.Sprint(found)
}

// grows waits until all log servers show more than they did.
func grows(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	for i := range c.Logs {
		before := c.Published(i)
		if err := c.Await(fmt.Sprintf("log server %d to show more than %d entries", i, before), 90*time.Second, func() bool { return c.Published(i) > max(before, 1) }); err != nil {
			t.Fatal(err)
		}
	}
}

func audit(t *testing.T, c *cluster.Cluster, source string) {
	t.Helper()
	// A heartbeat may be late after a fault, and is told; nothing may be missing.
	if out, err := c.Run("audit", source, "--policy", c.PolicyFile, "--state", filepath.Join(c.Dir, "auditor.state")); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// tesserasCheck has Tessera's fsck read a whole log server.
func tesserasCheck(t *testing.T, c *cluster.Cluster, i int) {
	t.Helper()
	u, err := url.Parse(c.Logs[i].URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	f, err := client.NewHTTPFetcher(u, nil)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := c.Policy.Logs[0].Key.Verifier()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := fsck.New(verifier.Name(), verifier, f, hashes, fsck.Opts{N: 2}).Check(ctx); err != nil {
		t.Errorf("Tessera's fsck of log server %d: %v", i, err)
	}
}

func hashes(bundle []byte) ([][]byte, error) {
	var list [][]byte
	for e, err := range storage.Entries(bundle) {
		if err != nil {
			return nil, err
		}
		h := record.LeafHash(e)
		list = append(list, h[:])
	}
	return list, nil
}

// fault is something that goes wrong and is put right.
type fault struct {
	name string
	do   func(t *testing.T, c *cluster.Cluster)
}

func restart(t *testing.T, n interface{ Start() error }) {
	t.Helper()
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
}

// writer returns the number of the writing server, once there is one.
func writer(t *testing.T, c *cluster.Cluster) (i int) {
	t.Helper()
	if err := c.Await("a log server to write", time.Minute, func() bool { i = c.Writer(); return i >= 0 }); err != nil {
		t.Fatal(err)
	}
	return i
}

// another waits until another server writes, and says how long it took.
func another(t *testing.T, c *cluster.Cluster, than int, since time.Time) {
	t.Helper()
	if err := c.Await("another log server to write", time.Minute, func() bool { return c.Writes(1 - than) }); err != nil {
		t.Fatal(err)
	}
	t.Logf("another server writes after %v", time.Since(since).Round(100*time.Millisecond))
}

var faults = []fault{
	{"kill -9 of the writing log server", func(t *testing.T, c *cluster.Cluster) {
		w := writer(t, c)
		c.Logs[w].Kill()
		another(t, c, w, time.Now())
		restart(t, c.Logs[w])
	}},
	{"kill -9 of a reading log server", func(t *testing.T, c *cluster.Cluster) {
		r := 1 - writer(t, c)
		c.Logs[r].Kill()
		restart(t, c.Logs[r])
	}},
	{"kill -9 of Trillian's signer", func(t *testing.T, c *cluster.Cluster) {
		c.Trillian.Signer.Kill()
		if err := c.Trillian.Signer.Run(); err != nil {
			t.Fatal(err)
		}
	}},
	{"kill -9 of Trillian's log server", func(t *testing.T, c *cluster.Cluster) {
		c.Trillian.Server.Kill()
		if err := c.Trillian.Server.Run(); err != nil {
			t.Fatal(err)
		}
	}},
	{"fast shutdown of PostgreSQL", func(t *testing.T, c *cluster.Cluster) { postgres(t, c, syscall.SIGINT) }},
	{"immediate shutdown of PostgreSQL", func(t *testing.T, c *cluster.Cluster) { postgres(t, c, syscall.SIGQUIT) }},
	{"the writing log server is paused, and wakes up when another writes", func(t *testing.T, c *cluster.Cluster) {
		w := writer(t, c)
		c.Logs[w].Signal(syscall.SIGSTOP)
		another(t, c, w, time.Now())
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Millisecond)
		c.Logs[w].Signal(syscall.SIGCONT)
	}},
	{"the writing log server is cut off from the database", func(t *testing.T, c *cluster.Cluster) {
		w := writer(t, c)
		c.Relays[w].Cut()
		another(t, c, w, time.Now())
		c.Relays[w].Heal()
	}},
}

func postgres(t *testing.T, c *cluster.Cluster, sig syscall.Signal) {
	t.Helper()
	c.Postgres.Stop(sig)
	time.Sleep(time.Duration(rand.IntN(1000)) * time.Millisecond)
	if err := c.Postgres.Run(); err != nil {
		t.Fatal(err)
	}
}

// Everything fails, in an order that is another each time, under load. Nothing that a
// client saw answered is lost or there twice, there is never a second head, and
// everything goes on by itself.
func TestFaults(t *testing.T) {
	heads := newAskedHeads(t)
	c := up(t, cluster.Options{Logs: 2, Witnesses: 3, Proxies: 2, Before: heads.before})
	l := start(c)
	grows(t, c)
	began := time.Now()
	var order []int
	for i := range *rounds {
		if len(order) == 0 {
			order = rand.Perm(len(faults))
		}
		f := faults[order[0]]
		order = order[1:]
		t.Logf("round %d: %s", i, f.name)
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		f.do(t, c)
		grows(t, c)
		if i%8 == 7 {
			audit(t, c, c.Logs[i/8%2].URL)
		}
	}
	t.Logf("%v a round", (time.Since(began) / time.Duration(max(1, *rounds))).Round(100*time.Millisecond))
	l.stop()
	t.Logf("%d exchanges were answered", len(l.answered))
	l.complete(t, c)
	heads.compare(rootsOf(t, c))
	for i, s := range c.Logs {
		audit(t, c, s.URL)
		tesserasCheck(t, c, i)
	}
	for _, n := range c.Logs {
		if strings.Contains(n.Output(), "panic") {
			t.Error(n.Output())
		}
	}
}

// A log moves from its SQLite file to Trillian: everything that readers knew of it
// stays true, and the file cannot be started any more.
func TestMigration(t *testing.T) {
	c := up(t, cluster.Options{Logs: 1, Witnesses: 2, Proxies: 1, SQLite: true})
	l := start(c)
	if err := c.Await("700 entries", 2*time.Minute, func() bool { return c.Published(0) > 700 }); err != nil {
		t.Fatal(err)
	}
	audit(t, c, c.Logs[0].URL)
	l.stop()
	if err := c.Proxies[0].Stop(); err != nil {
		t.Fatal(err)
	}
	var size uint64
	if err := c.Await("all to be published", time.Minute, func() bool {
		before := size
		size = c.Published(0)
		return size > 0 && size == before
	}); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, c, size)
	if err := c.Logs[0].Stop(); err != nil {
		t.Fatal(err)
	}
	if err := c.MoveToTrillian(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(c.Dir, "log0.db")
	out, err := c.Run("log", "migrate", "--config", c.Logs[0].Config, "--from", file)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(out)
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
	restart(t, c.Logs[0])
	if err := c.Await("what was published", time.Minute, func() bool { return c.Published(0) >= size }); err != nil {
		t.Fatal(err)
	}
	for path, want := range before {
		if got := fact(t, c, path); got != want {
			t.Errorf("%s has changed: %q, was %q", path, got, want)
		}
	}
	audit(t, c, c.Logs[0].URL)
	restart(t, c.Proxies[0])
	l2 := start(c)
	grows(t, c)
	l2.stop()
	l.complete(t, c)
	l2.complete(t, c)
	audit(t, c, c.Logs[0].URL)
	tesserasCheck(t, c, 0)
}

// snapshot is what readers can get, as it is now.
func snapshot(t *testing.T, c *cluster.Cluster, size uint64) map[string]string {
	t.Helper()
	paths := []string{"/tile/0/000", "/tile/entries/000", "/tile/entries/001", fmt.Sprintf("/tile/1/000.p/%d", size/256),
		fmt.Sprintf("/v1/proof/consistency?from=300&to=%d", size)}
	for range 50 {
		paths = append(paths, fmt.Sprintf("/v1/proof/inclusion?index=%d&size=%d", rand.Uint64N(size), size))
	}
	m := make(map[string]string)
	for _, path := range paths {
		m[path] = fact(t, c, path)
	}
	return m
}

// fact fetches what must never change.
func fact(t *testing.T, c *cluster.Cluster, path string) string {
	t.Helper()
	b, err := stack.Fetch(context.Background(), c.Logs[0].URL+path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(path, "/v1/") {
		return string(b)
	}
	var proof map[string]any
	if err := json.Unmarshal(b, &proof); err != nil {
		t.Fatal(err)
	}
	delete(proof, "checkpoint") // the newest at the time
	return fmt.Sprint(proof)
}

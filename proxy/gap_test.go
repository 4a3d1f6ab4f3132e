package proxy

import (
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proxy/route"
)

// failWhile makes a recorder whose records of some stages cannot be made while it is on.
func failWhile(c *Config, on *atomic.Bool, stages string) {
	c.Recorder.(*memory).before = func(stage string) error {
		if on.Load() && strings.Contains(stages, stage) {
			return errDisk
		}
		return nil
	}
}

// gapsOf waits for the gap records to count so many exchanges.
func gapsOf(t *testing.T, m *memory, want uint64) []*sealtapv1.Gap {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var list []*sealtapv1.Gap
		var sum uint64
		for _, k := range m.all() {
			if g := k.rec.GetGap(); g != nil {
				list = append(list, g)
				sum += g.GetExchanges()
			}
		}
		if sum == want {
			return list
		}
		if sum > want || time.Now().After(end) {
			t.Fatalf("gaps of %d exchanges are declared, want %d", sum, want)
		}
	}
}

// Where it is allowed exchanges pass without records, and each is counted.
func TestFailOpen(t *testing.T) {
	for stages, named := range map[string]bool{"request response gap progress": false, "response gap progress": true} {
		var on atomic.Bool
		up := backend(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Sealtap-Exchange") != "" != (named || !on.Load()) {
				t.Errorf("the upstream sees exchange %q", r.Header.Get("Sealtap-Exchange"))
			}
			_, _ = io.Copy(w, r.Body)
			if r.URL.Path == "/stream" {
				w.(http.Flusher).Flush()
				_, _ = io.WriteString(w, strings.Repeat("x", 100_000))
			}
		})
		s := start(t, up, func(c *Config) {
			c.FailOpen, c.Progress.Every = true, time.Millisecond
			failWhile(c, &on, stages)
		})
		ask := func(path string) *http.Response {
			t.Helper()
			res, err := http.Post(s.url(path), "text/plain", strings.NewReader("hello"))
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || res.StatusCode != 200 || !strings.HasPrefix(string(b), "hello") {
				t.Fatalf("%s: %s %.20q %v", path, res.Status, b, err)
			}
			return res
		}
		if h := ask("/before").Header; h.Get("Sealtap-Exchange") == "" || h.Get("Sealtap-Unrecorded") != "" {
			t.Errorf("%v", h)
		}
		s.rec.wait(t, 2)
		on.Store(true)
		for range 5 {
			h := ask("/during").Header
			if (h.Get("Sealtap-Exchange") != "") != named || h.Get("Sealtap-Unrecorded") != "true" {
				t.Errorf("%s: %v", stages, h)
			}
		}
		ask("/stream")
		time.Sleep(5 * time.Millisecond)
		on.Store(false)
		list := gapsOf(t, s.rec, 6)
		g := list[0]
		if g.GetReason() != errDisk.Error() || g.GetSince() > g.GetUntil() || time.Since(time.Unix(0, g.GetSince())) > time.Minute {
			t.Errorf("%v", g)
		}
		if h := ask("/after").Header; h.Get("Sealtap-Exchange") == "" || h.Get("Sealtap-Unrecorded") != "" {
			t.Errorf("%v", h)
		}
		s.rec.last(t)
		for _, k := range s.rec.all() {
			if p := k.rec.GetResponse(); p != nil && !named {
				continue
			}
			if k.rec.GetProgress() != nil && !named {
				t.Error("a record of how far an exchange has come that has none of its beginning")
			}
		}
	}
}

// Each route has its own word on it.
func TestFailOpenByRoute(t *testing.T) {
	var on atomic.Bool
	var reached atomic.Int64
	up := backend(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	s := start(t, "", func(c *Config) {
		u, err := url.Parse(up)
		if err != nil {
			t.Fatal(err)
		}
		c.Service = ""
		c.Pools = []Pool{{Name: "all", Targets: []*url.URL{u}}}
		c.Routes = []Route{
			{Rule: route.Rule{Prefix: "/open/"}, Service: "open", Upstream: "all", FailOpen: true},
			{Service: "closed", Upstream: "all"},
		}
		failWhile(c, &on, "request")
	})
	on.Store(true)
	for path, want := range map[string]int{"/open/x": 200, "/closed": 503} {
		res, err := http.Get(s.url(path))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
	if reached.Load() != 1 {
		t.Errorf("the upstream was reached %d times", reached.Load())
	}
	on.Store(false)
	gapsOf(t, s.rec, 1)
}

// What could not be declared before the end is declared by the next process.
func TestGapOutlives(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gap")
	var on atomic.Bool
	on.Store(true)
	up := backend(t, func(http.ResponseWriter, *http.Request) {})
	run := func() *server {
		return start(t, up, func(c *Config) {
			c.FailOpen, c.GapFile = true, path
			failWhile(c, &on, "request gap")
		})
	}
	s := run()
	for range 3 {
		res, err := http.Get(s.url("/"))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
	s.stop()
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	on.Store(false)
	s = run()
	gapsOf(t, s.rec, 3)
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(path); os.IsNotExist(err) {
			break
		} else if time.Now().After(end) {
			t.Fatal("the count stays although it is declared")
		}
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Recorder: newMemory(), DigestKey: make([]byte, 16), GapFile: path}); err == nil || !strings.Contains(err.Error(), "tell the auditors") {
		t.Errorf("a count that cannot be read: %v", err)
	}
}

package proxy

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

func TestStreak(t *testing.T) {
	s := streak{needGood: 2, needBad: 3}
	got := ""
	for _, c := range "bbgbbbggbbgbgg" {
		mark := "."
		if s.add(c == 'g') {
			mark = map[bool]string{true: "D", false: "U"}[s.down]
		}
		got += mark
	}
	if got != ".....D.U......" {
		t.Error(got)
	}
}

// lines collects what is logged.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(p))
	return len(p), nil
}

func (l *lines) count(s string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.all {
		if strings.Contains(line, s) {
			n++
		}
	}
	return n
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// TestHealth: targets go and come back, each change is logged once, and with none
// left clients get 503, recorded.
func TestHealth(t *testing.T) {
	settled(t)
	var bad [2]atomic.Bool
	up := func(i int) string {
		return backend(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/base/healthz" && r.URL.RawQuery == "deep" {
				if r.Header.Get("Sealtap-Exchange") != "" {
					t.Error("a check looks like an exchange")
				}
				if bad[i].Load() {
					w.WriteHeader(http.StatusInternalServerError)
				}
				return
			}
			fmt.Fprint(w, i)
		}) + "/base"
	}
	bad[1].Store(true)
	p := poolOf(t, "", up(0), up(1))
	p.Health = &Health{Path: "/healthz?deep", Interval: 5 * time.Millisecond}
	log := new(lines)
	s := pooled(t, p, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(log, nil)) })
	is := func(i int, down bool) func() bool {
		return func() bool { return s.pools[0].targets[i].down.Load() == down }
	}
	ask := func() (int, string) {
		res, body := get(t, client(t), request(t, "GET", s.url("/"), nil))
		return res.StatusCode, string(body) + res.Header.Get("Sealtap-Error")
	}
	eventually(t, "the first check takes out what is bad from the start", is(1, true))
	for range 6 {
		if status, body := ask(); status != 200 || body != "0" {
			t.Errorf("%d %s", status, body)
		}
	}
	bad[0].Store(true)
	eventually(t, "three bad checks take the other out", is(0, true))
	if status, body := ask(); status != 503 || !strings.HasSuffix(body, codeNoUpstream) {
		t.Errorf("%d %s", status, body)
	}
	_, r := s.rec.last(t)
	wantOutcome(t, r, sealtapv1.Outcome_OUTCOME_UPSTREAM_UNREACHABLE)
	if d := r.rec.GetResponse().GetDetail(); d != "upstream shop: no target is healthy" || len(r.rec.GetResponse().GetAttempts()) != 0 {
		t.Errorf("detail %q, attempts %v", d, r.rec.GetResponse().GetAttempts())
	}
	bad[0].Store(false)
	eventually(t, "good checks bring it back", is(0, false))
	if status, body := ask(); status != 200 || body != "0" {
		t.Errorf("%d %s", status, body)
	}
	bad[1].Store(false)
	eventually(t, "and the other", is(1, false))
	s.stop()
	if d, u := log.count("is down"), log.count("is up"); d != 2 || u != 2 {
		t.Errorf("%d lines say down, %d say up: %q", d, u, log.all)
	}
}

// TestFirstCheck: what is bad from the start is not kept for three intervals.
func TestFirstCheck(t *testing.T) {
	settled(t)
	p := poolOf(t, "", dead(t))
	p.Health = &Health{Path: "/", Interval: time.Hour}
	s := pooled(t, p, nil)
	eventually(t, "it stays up", func() bool { return s.pools[0].targets[0].down.Load() })
	s.stop()
}

// TestHealthTimeout: a target that does not answer is down.
func TestHealthTimeout(t *testing.T) {
	settled(t)
	release := make(chan struct{})
	stuck := backend(t, func(http.ResponseWriter, *http.Request) { <-release })
	t.Cleanup(func() { close(release) }) // before the backend waits for its handlers
	p := poolOf(t, "", stuck)
	p.Health = &Health{Path: "/", Interval: time.Millisecond, Timeout: 10 * time.Millisecond}
	s := pooled(t, p, nil)
	eventually(t, "it stays up", func() bool { return s.pools[0].targets[0].down.Load() })
	s.stop()
}

// TestPassive: a target that could not be connected to is left alone for a while.
func TestPassive(t *testing.T) {
	settled(t)
	good, bad := named(t, "good"), dead(t)
	p := poolOf(t, "", good, bad)
	p.Retries, p.Pause = 1, time.Hour
	s := pooled(t, p, nil)
	for range 6 {
		get(t, client(t), request(t, "GET", s.url("/"), nil))
	}
	n := 0
	for _, e := range s.rec.wait(t, 12) {
		for _, a := range e.rec.GetResponse().GetAttempts() {
			if a.GetUpstream() == strings.TrimPrefix(bad, "http://") {
				n++
			}
		}
	}
	if n != 1 {
		t.Errorf("%d attempts went there", n)
	}
}

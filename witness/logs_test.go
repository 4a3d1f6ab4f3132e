package witness_test

import (
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness"
)

// Logs come, change keys and go while the witness runs.
func TestSetLogs(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	renewed := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	other := newLog(t, newKey(t, "log.example/other", keys.Ed25519), "b", 20)
	path := filepath.Join(t.TempDir(), "w.db")
	db := openStore(t, path)
	key := newKey(t, "witness.example/w", keys.Cosignature)
	s := startServer(t, key, db, l)
	set := func(logs map[string][]keys.Public) {
		t.Helper()
		if err := s.SetLogs(t.Context(), logs); err != nil {
			t.Fatal(err)
		}
	}
	want := func(a answer, status int) {
		t.Helper()
		if a.status != status {
			t.Errorf("answer is %+v, want %d", a, status)
		}
	}
	want(s.add(t, l.request(t, 0, 7)), 200)
	want(s.add(t, other.request(t, 0, 7)), 404)
	set(map[string][]keys.Public{origin: {l.key.Public}, other.origin: {other.key.Public}})
	want(s.add(t, other.request(t, 0, 7)), 200)
	want(s.add(t, l.request(t, 7, 8)), 200)

	// For as long as both keys are given either will do, and the head has both signatures.
	set(map[string][]keys.Public{origin: {l.key.Public, renewed.key.Public}, other.origin: {other.key.Public}})
	want(s.add(t, renewed.request(t, 8, 9)), 200)
	want(s.add(t, body("9", nil, l.sign(t, string(l.body(9).Marshal()), renewed.signer))), 200)
	if n := strings.Count(s.latest(t, origin).body, "\n— "); n != 3 {
		t.Errorf("%d signatures in %q", n, s.latest(t, origin).body)
	}
	set(map[string][]keys.Public{origin: {renewed.key.Public}})
	want(s.add(t, l.request(t, 9, 10)), 403)
	want(s.add(t, renewed.request(t, 9, 10)), 200)
	// What is no longer cosigned is remembered, and served.
	want(s.add(t, other.request(t, 7, 8)), 404)
	before := s.latest(t, other.origin)
	want(before, 200)

	// With an error nothing changes.
	for name, logs := range map[string]map[string][]keys.Public{
		"no key":       {origin: {renewed.key.Public}, "log.example/third": nil},
		"wrong type":   {"log.example/third": {key.Public}},
		"twice":        {origin: {l.key.Public, l.key.Public}},
		"empty origin": {"": {l.key.Public}},
	} {
		if err := s.SetLogs(t.Context(), logs); err == nil {
			t.Errorf("%s: no error", name)
		}
		want(s.add(t, renewed.request(t, 10, 10)), 200)
	}

	s.http.Close()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s = startServer(t, key, openStore(t, path), renewed)
	if a := s.latest(t, other.origin); a != before {
		t.Errorf("after a restart: %+v, was %+v", a, before)
	}
	want(s.add(t, other.request(t, 7, 8)), 404)
	set(map[string][]keys.Public{other.origin: {other.key.Public}})
	want(s.add(t, other.request(t, 0, 8)), 409)
	want(s.add(t, other.request(t, 7, 8)), 200)
	want(s.latest(t, origin), 200)
}

// Requests go on while logs change.
func TestSetLogsUnderLoad(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 200)
	other := newLog(t, newKey(t, "log.example/other", keys.Ed25519), "b", 20)
	s := newServer(t, l)
	both := map[string][]keys.Public{origin: {l.key.Public}, other.origin: {other.key.Public}}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			logs := both
			if i%2 == 0 {
				logs = map[string][]keys.Public{origin: {l.key.Public}}
			}
			if err := s.SetLogs(t.Context(), logs); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range uint64(150) {
		if a := s.add(t, l.request(t, i, i+1)); a.status != 200 {
			t.Errorf("size %d: %+v", i+1, a)
		}
	}
	close(stop)
	wg.Wait()
}

// A log that asks too often is told when to come again, and repeating old heads,
// as anybody can, does not keep it from going on.
func TestRate(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 40)
	other := newLog(t, newKey(t, "log.example/other", keys.Ed25519), "b", 20)
	s := newServer(t, l, other)
	s.SetRate(witness.Rate{PerSecond: 1.0 / 3600, Burst: 4})
	if a := s.add(t, l.request(t, 0, 1)); a.status != 200 {
		t.Fatal(a)
	}
	for i := range 9 {
		want := 429
		if i < 4 {
			want = []int{409, 200, 422, 409}[i]
		}
		a := s.add(t, []string{l.request(t, 0, 1), l.request(t, 1, 1), body("1", []string{}, l.checkpoint(t, 3)), l.request(t, 0, 2)}[i%4])
		if a.status != want {
			t.Fatalf("request %d: %+v, want %d", i, a, want)
		}
	}
	for i := range uint64(3) {
		if a := s.add(t, l.request(t, i+1, i+2)); a.status != 200 {
			t.Errorf("the log cannot go on: %+v", a)
		}
	}
	resp, err := client.Post(s.http.URL+"/add-checkpoint", "text/plain", strings.NewReader(l.request(t, 4, 5)))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	var seconds int
	if _, err := fmt.Sscan(resp.Header.Get("Retry-After"), &seconds); err != nil || resp.StatusCode != 429 || seconds < 3000 || seconds > 3600 {
		t.Errorf("answer %s, Retry-After %q", resp.Status, resp.Header.Get("Retry-After"))
	}
	if a := s.add(t, other.request(t, 0, 1)); a.status != 200 {
		t.Errorf("another log suffers: %+v", a)
	}
	if a := s.add(t, body("4", nil, damage(l.checkpoint(t, 5)))); a.status != 403 {
		t.Errorf("without a signature: %+v", a)
	}
	if m := do(t, "GET", s.http.URL+"/metrics", "").body; !strings.Contains(m, `{result="limited"} 6`) {
		t.Errorf("metrics:\n%s", m)
	}
	s.SetRate(witness.Rate{})
	if a := s.add(t, l.request(t, 4, 5)); a.status != 200 {
		t.Errorf("without a bound: %+v", a)
	}
}

// A log costs the same memory however much it asks for.
func TestThousandLogs(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes seconds")
	}
	const logs, sizes = 1000, 2
	s := newServer(t)
	known := make(map[string][]keys.Public)
	var all []*testLog
	for i := range logs {
		l := newLog(t, newKey(t, fmt.Sprintf("log.example/%d", i), keys.Ed25519), "a", 2*sizes)
		all, known[l.origin] = append(all, l), []keys.Public{l.key.Public}
	}
	if err := s.SetLogs(t.Context(), known); err != nil {
		t.Fatal(err)
	}
	slots := make(chan struct{}, 16)
	round := func(from uint64) {
		var wg sync.WaitGroup
		for _, l := range all {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				for i := from; i < from+sizes; i++ {
					if a := s.add(t, l.request(t, i, i+1)); a.status != 200 {
						t.Errorf("%s: %+v", l.origin, a)
					}
					s.add(t, body(fmt.Sprint(i+1), nil, l.checkpoint(t, i+1)))
				}
			})
		}
		wg.Wait()
	}
	heap := func() int64 {
		client.CloseIdleConnections()
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	round(0)
	before := heap()
	round(sizes)
	grown := heap() - before
	t.Logf("%d bytes more after another %d requests of each of %d logs", grown, 2*sizes, logs)
	if grown > logs*1024 {
		t.Errorf("the witness has grown by %d bytes", grown)
	}
}

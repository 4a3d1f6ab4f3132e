package proxy

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// pooled starts a proxy with one route to one pool.
func pooled(t testing.TB, p Pool, change func(*Config)) *server {
	t.Helper()
	p.Name = "shop"
	return start(t, "", func(c *Config) {
		c.Pools, c.Routes = []Pool{p}, []Route{routeTo("/", "shop")}
		if change != nil {
			change(c)
		}
	})
}

// dead returns the address of a target that nobody listens on.
func dead(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return "http://" + l.Addr().String()
}

// bare makes a pool that is only asked to pick.
func bare(n int, least bool) *pool {
	q := &pool{least: least}
	for i := range n {
		q.targets = append(q.targets, &upstream{name: fmt.Sprint(i)})
	}
	return q
}

func TestRoundRobin(t *testing.T) {
	q := bare(4, false)
	count := func(n int) string {
		got := make([]int, len(q.targets))
		for range n {
			u, _, err := q.pick(0)
			if err != nil {
				t.Fatal(err)
			}
			got[u.name[0]-'0']++
			u.release()
		}
		return fmt.Sprint(got)
	}
	if got := count(400); got != "[100 100 100 100]" {
		t.Error(got)
	}
	q.targets[1].down.Store(true)
	if got := count(300); got != "[100 0 100 100]" {
		t.Errorf("with one down %s: the neighbour must not get its share alone", got)
	}
	q.pause = time.Hour
	q.unreachable(q.targets[2])
	if got := count(200); got != "[100 0 0 100]" {
		t.Error(got)
	}
	q.unreachable(q.targets[0])
	q.unreachable(q.targets[3])
	if got := count(300); got != "[100 0 100 100]" {
		t.Errorf("with all paused %s: then a pause means nothing", got)
	}
	for _, u := range q.targets {
		u.down.Store(true)
	}
	if _, _, err := q.pick(0); err != errNoTarget {
		t.Error(err)
	}
}

// TestPickOther: an attempt that follows goes elsewhere, if there is somewhere.
func TestPickOther(t *testing.T) {
	q := bare(3, false)
	for range 20 {
		var tried uint64
		seen := make(map[*upstream]bool)
		for range 3 {
			u, bit, err := q.pick(tried)
			if err != nil || seen[u] {
				t.Fatalf("%v again, or %v", u, err)
			}
			seen[u] = true
			tried |= bit
		}
		if u, _, err := q.pick(tried); err != nil || u == nil {
			t.Fatal(err)
		}
	}
	// Not even where the one that failed has the least to do.
	q = bare(2, true)
	q.targets[1].inFlight.Store(5)
	for range 4 {
		first, bit, _ := q.pick(0)
		first.release()
		second, _, _ := q.pick(bit)
		second.release()
		if first != q.targets[0] || second != q.targets[1] {
			t.Errorf("%s, and then %s", first.name, second.name)
		}
	}
}

func TestLeastRequests(t *testing.T) {
	q := bare(3, true)
	slow := q.targets[0]
	slow.inFlight.Store(5)
	got := make(map[string]int)
	for range 10 { // in flight until the end
		u, _, err := q.pick(0)
		if err != nil {
			t.Fatal(err)
		}
		got[u.name]++
	}
	if got["0"] != 0 || got["1"] != 5 || got["2"] != 5 {
		t.Errorf("%v, while one has five already", got)
	}
	for range 3 {
		u, _, _ := q.pick(0)
		got[u.name]++
	}
	if got["0"] != 1 || got["1"] != 6 || got["2"] != 6 {
		t.Errorf("%v: equals get the same", got)
	}
}

// TestLeastRequestsInFlight: what is in flight is counted until its answer is
// through, also over real connections.
func TestLeastRequestsInFlight(t *testing.T) {
	settled(t)
	release := make(chan struct{})
	var held atomic.Int32
	stuck := backend(t, func(http.ResponseWriter, *http.Request) { held.Add(1); <-release })
	free := sync.OnceFunc(func() { close(release) })
	t.Cleanup(free)
	quick := named(t, "quick")
	p := poolOf(t, "", stuck, quick)
	p.Balance = LeastRequests
	s := pooled(t, p, nil)
	var wg sync.WaitGroup
	for range 20 { // until one is stuck
		done := make(chan struct{})
		wg.Go(func() {
			defer close(done)
			if res, err := client(t).Get(s.url("/")); err == nil {
				res.Body.Close()
			}
		})
		// One that is late would be in the way of those that follow.
		for over := false; !over && held.Load() == 0; {
			select {
			case <-done:
				over = true
			case <-time.After(time.Millisecond):
			}
		}
		if held.Load() > 0 {
			break
		}
	}
	for end := time.Now().Add(5 * time.Second); held.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the first target gets nothing")
		}
	}
	idle := func() bool { return s.pools[0].targets[1].inFlight.Load() == 0 }
	for range 50 {
		eventually(t, "it stays in flight", idle)
		if res, body := get(t, client(t), request(t, "GET", s.url("/"), nil)); !strings.HasPrefix(string(body), "quick") {
			t.Fatalf("%s %s", res.Status, body)
		}
	}
	free()
	wg.Wait()
	s.stop()
	for _, u := range s.pools[0].targets {
		if n := u.inFlight.Load(); n != 0 {
			t.Errorf("%s has %d in flight in the end", u.name, n)
		}
	}
}

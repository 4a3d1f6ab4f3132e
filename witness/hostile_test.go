package witness_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness"
)

// hostileWorld is a witness behind a real listener, an honest log, and a log that
// is not: it has a second history under the same key.
type hostileWorld struct {
	*server
	url         string
	honest      *testLog
	front, back *testLog // the two histories
}

func newHostileWorld(t *testing.T) *hostileWorld {
	t.Helper()
	w := &hostileWorld{honest: newLog(t, newKey(t, "log.example/honest", keys.Ed25519), "a", 64)}
	w.front = newLog(t, newKey(t, origin, keys.Ed25519), "front", 64)
	w.back = newLog(t, w.front.key, "back", 64)
	w.server = newServer(t, w.honest, w.front)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.url = "http://" + ln.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Serve(ctx, ln) }()
	t.Cleanup(func() {
		client.CloseIdleConnections()
		cancel()
		<-done // what the test left half sent is cut off
	})
	return w
}

// post sends an add-checkpoint to the real listener.
func (w *hostileWorld) post(t testing.TB, body string) answer {
	t.Helper()
	return do(t, "POST", w.url+"/add-checkpoint", body)
}

// allocated is what f had to be allocated for, by whomever.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// A log that forks, rolls back and sends what it pleases gets the answer that
// tlog-witness has for it, and the head stays where it was.
func TestHostileLog(t *testing.T) {
	w := newHostileWorld(t)
	if a := w.post(t, w.front.request(t, 0, 40)); a.status != 200 {
		t.Fatalf("first checkpoint: %+v", a)
	}
	lines := func(n int) []string {
		return strings.Split(strings.Repeat(base64.StdEncoding.EncodeToString(make([]byte, 32))+" ", n), " ")[:n]
	}
	for _, step := range []struct {
		name   string
		body   string
		status int
		answer string
		forks  uint64 // evidence that this adds
	}{
		{"another root for the latest size", w.back.request(t, 40, 40), 422, "", 1},
		{"the same again", w.back.request(t, 40, 40), 422, "", 0},
		{"a fork that has grown", w.back.request(t, 40, 50), 422, "", 1},
		{"a proof that is of the other history", body("40", proofOf(t, w.back, 40, 50), w.front.checkpoint(t, 50)), 422, "", 1},
		{"rolled back", w.front.request(t, 0, 30), 409, "40\n", 0},
		{"rolled back to nothing", w.front.request(t, 0, 0), 409, "40\n", 0},
		{"rolled back, and it says so", w.front.request(t, 30, 30), 409, "40\n", 0},
		{"old size above the new one", w.front.request(t, 40, 30), 400, "", 0},
		{"63 proof lines", body("40", lines(63), w.front.checkpoint(t, 51)), 422, "", 1},
		{"64 proof lines", body("40", lines(64), w.front.checkpoint(t, 52)), 400, "", 0},
		{"as many as fit", body("40", lines(5000), w.front.checkpoint(t, 53)), 400, "", 0},
		{"one long line", "old 40\n" + strings.Repeat("A", 250<<10) + "\n\n" + string(w.front.checkpoint(t, 53)), 400, "", 0},
		{"signatures without end", body("40", proofOf(t, w.front, 40, 54), append(w.front.checkpoint(t, 54), strings.Repeat("— x.example AAAAAAAAAAAA\n", 9000)...)), 400, "", 0},
	} {
		before := w.Counters().Forks
		a := w.post(t, step.body)
		if a.status != step.status || step.answer != "" && a.body != step.answer || len(a.body) > 1000 {
			t.Errorf("%s: %+v, want %d", step.name, a, step.status)
		}
		if n := w.Counters().Forks - before; n != step.forks {
			t.Errorf("%s: %d forks were kept, want %d", step.name, n, step.forks)
		}
	}
	if h, _, err := w.store.Head(t.Context(), origin); err != nil || h.Size != 40 || h.Root != w.front.body(40).Root {
		t.Errorf("head is %d, %v", h.Size, err)
	}
	if a := w.post(t, w.front.request(t, 40, 41)); a.status != 200 {
		t.Errorf("an honest step afterwards: %+v", a)
	}
}

func proofOf(t *testing.T, l *testLog, from, to uint64) []string {
	t.Helper()
	hashes, err := l.consistency(to)(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, h := range hashes {
		lines = append(lines, base64.StdEncoding.EncodeToString(h[:]))
	}
	return lines
}

// A log that shows one history to these and another to those gets one of them
// cosigned, whoever comes first, for every size.
func TestEquivocation(t *testing.T) {
	w := newHostileWorld(t)
	// Each cosigned checkpoint, by its size: the signature line is over the root.
	roots := make(map[uint64]map[string]bool)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, history := range []*testLog{w.front, w.back} {
		for range 4 {
			wg.Go(func() {
				old := uint64(0)
				for size := uint64(1); size <= 30; size++ {
					a := w.post(t, history.request(t, min(old, size), size))
					switch a.status {
					case 200:
						root := history.body(size).Root
						mu.Lock()
						if roots[size] == nil {
							roots[size] = make(map[string]bool)
						}
						roots[size][string(root[:])] = true
						mu.Unlock()
						old = size
					case 409:
						if n, err := strconv.ParseUint(strings.TrimSuffix(a.body, "\n"), 10, 64); err != nil || n > 30 {
							t.Errorf("conflict with %q", a.body)
						} else {
							old = n
						}
					case 422:
					default:
						t.Errorf("%+v", a)
					}
				}
			})
		}
	}
	wg.Wait()
	all := make(map[*testLog]bool)
	for size, list := range roots {
		if len(list) != 1 {
			t.Errorf("%d roots of size %d are cosigned", len(list), size)
		}
		for _, history := range []*testLog{w.front, w.back} {
			root := history.body(size).Root
			if list[string(root[:])] {
				all[history] = true
			}
		}
	}
	if len(all) != 1 {
		t.Errorf("%d histories have cosignatures", len(all))
	}
	if w.Counters().Forks == 0 {
		t.Error("the other history left no evidence")
	}
}

// endless is a body that never ends.
type endless struct{ sent atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'A'
	}
	e.sent.Add(int64(len(p)))
	return len(p), nil
}

// Bodies without end are cut off after what a request may have, and cost no more.
func TestHugeBodies(t *testing.T) {
	w := newHostileWorld(t)
	const times = 20
	var sent int64
	cost := allocated(func() {
		for range times {
			e := new(endless)
			req, err := http.NewRequest("POST", w.url+"/add-checkpoint", io.NopCloser(io.MultiReader(strings.NewReader("old 0\n"), e)))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err == nil { // or the connection broke before the answer was read
				if resp.StatusCode != http.StatusRequestEntityTooLarge {
					t.Errorf("answer is %s", resp.Status)
				}
				resp.Body.Close()
			}
			sent += e.sent.Load()
		}
	})
	if sent > times*(16<<20) {
		t.Errorf("%d bytes were taken of each body", sent/times)
	}
	if cost > times*(4<<20) {
		t.Errorf("a body without end costs %d bytes of memory", cost/times)
	}
	if a := w.post(t, w.front.request(t, 0, 7)); a.status != 200 {
		t.Errorf("afterwards: %+v", a)
	}
}

// Clients that send a byte now and then, or nothing more, hold up nobody: neither
// other logs nor the one that they speak of.
func TestSlowClients(t *testing.T) {
	w := newHostileWorld(t)
	const slow = 200
	whole := w.front.request(t, 0, 40)
	host := strings.TrimPrefix(w.url, "http://")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	cost := allocated(func() {
		for i := range slow {
			c, err := net.Dial("tcp", host)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			// All but the last bytes of a good request: it must not have its turn yet.
			fmt.Fprintf(c, "POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: %d\r\n\r\n%s", len(whole), whole[:len(whole)-60])
			if i%2 == 0 {
				continue // it stalls
			}
			wg.Go(func() {
				for _, b := range []byte(whole[len(whole)-60 : len(whole)-1]) {
					select {
					case <-stop:
						return
					case <-time.After(200 * time.Millisecond):
					}
					if _, err := c.Write([]byte{b}); err != nil {
						return
					}
				}
			})
		}
		// The honest log, and the same log from another place, get their answers.
		begin := time.Now()
		for size := range uint64(20) {
			if a := w.post(t, w.honest.request(t, size, size+1)); a.status != 200 {
				t.Fatalf("honest log, size %d: %+v", size+1, a)
			}
			if a := w.post(t, w.front.request(t, size, size+1)); a.status != 200 {
				t.Fatalf("same log, size %d: %+v", size+1, a)
			}
		}
		if took := time.Since(begin); took > 30*time.Second {
			t.Errorf("40 checkpoints beside %d slow clients took %v", slow, took)
		}
	})
	if cost > slow*(256<<10) {
		t.Errorf("a slow client costs %d bytes of memory", cost/slow)
	}
}

// What a hostile witness answers costs the log a bounded amount too.
func TestHostileWitness(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	good := newServer(t, l)
	gone := make(chan struct{})
	defer close(gone)
	var asked [3]atomic.Int64
	p := newPolicy(t, l, 1, good.at(),
		handler(t, func(w http.ResponseWriter, r *http.Request) { // an answer without end
			asked[0].Add(1)
			for chunk := bytes.Repeat([]byte("— x AAAA\n"), 4096); ; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}),
		handler(t, func(w http.ResponseWriter, r *http.Request) { // bytes that come slowly
			asked[1].Add(1)
			for {
				if _, err := w.Write([]byte("x")); err != nil {
					return
				}
				w.(http.Flusher).Flush()
				select {
				case <-gone:
					return
				case <-r.Context().Done():
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		}),
		handler(t, func(w http.ResponseWriter, r *http.Request) { // the sizes never agree
			n := asked[2].Add(1)
			w.Header().Set("Content-Type", "text/x.tlog.size")
			w.WriteHeader(http.StatusConflict)
			fmt.Fprintf(w, "%d\n", n%5)
		}))
	c := newClient(t, witness.ClientConfig{Policy: p, Timeout: 500 * time.Millisecond, MinBackoff: time.Hour, MaxBackoff: time.Hour})
	begin := time.Now()
	cost := allocated(func() {
		for size := uint64(10); size <= 20; size++ {
			cosigned, err := c.Cosign(t.Context(), l.checkpoint(t, size), l.consistency(size))
			if err != nil || cosigners(t, p, cosigned) != "w0" {
				t.Errorf("size %d: %v", size, err)
			}
		}
	})
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("11 checkpoints took %v", took)
	}
	if cost > 16<<20 {
		t.Errorf("hostile witnesses cost %d bytes of memory", cost)
	}
	if err := c.Close(); err != nil { // ends what is under way
		t.Error(err)
	}
	for i, most := range []int64{1, 1, 3} {
		if n := asked[i].Load(); n == 0 || n > most {
			t.Errorf("hostile witness %d was asked %d times", i, n)
		}
	}
}

// A thousand requests of two histories, all at once and in every order of sizes:
// whatever is cosigned is of one history, whoever looks sees sizes that never go
// back, and no request is answered with less than was answered before it came.
func TestThousandAtOnce(t *testing.T) {
	const requests, sizes = 1000, 50
	front := newLog(t, newKey(t, origin, keys.Ed25519), "front", sizes)
	back := newLog(t, front.key, "back", sizes)
	s := newServer(t, front)
	h := s.Handler()
	serve := func(method, path, body string) answer {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(method, path, strings.NewReader(body)))
		return answer{rec.Code, rec.Header().Get("Content-Type"), rec.Body.String()}
	}
	var mu sync.Mutex
	roots := make(map[uint64][32]byte)
	var finished uint64 // the largest size that was answered
	floor := func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		return finished
	}
	saw := func(size uint64, root [32]byte, floor uint64) {
		mu.Lock()
		defer mu.Unlock()
		if r, ok := roots[size]; ok && r != root {
			t.Errorf("two roots of size %d are cosigned", size)
		}
		if roots[size] = root; size < floor {
			t.Errorf("size %d is cosigned after %d", size, floor)
		}
		finished = max(finished, size)
	}
	start := make(chan struct{})
	var requesters, readers sync.WaitGroup
	for i := range requests {
		requesters.Go(func() {
			l := front
			if i%2 == 1 {
				l = back
			}
			<-start
			for old, tries := uint64(0), 0; tries < 3; tries++ { // as a client that resyncs
				was := floor()
				to := min(old+uint64(i/2%4), sizes)
				a := serve("POST", "/add-checkpoint", l.request(t, old, to))
				if a.status == 200 {
					saw(to, l.body(to).Root, was)
					return
				}
				n, err := strconv.ParseUint(strings.TrimSuffix(a.body, "\n"), 10, 64)
				switch {
				case a.status == 409 && (err != nil || n < was):
					t.Errorf("conflict with %q after %d", a.body, was)
				case a.status == 409:
					old = n
				case a.status == 422: // the other history was first
					return
				default:
					t.Errorf("%+v", a)
					return
				}
			}
		})
	}
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
				was := floor()
				a := serve("GET", "/"+witness.OriginHash(origin)+"/checkpoint", "")
				if a.status == 404 && was == 0 {
					continue
				}
				text, err := checkpoint.Text([]byte(a.body))
				if err != nil {
					t.Errorf("%v: %+v", err, a)
					return
				}
				b, _, err := checkpoint.Parse(text)
				if err != nil {
					t.Error(err)
					return
				}
				saw(b.Size, b.Root, was)
			}
		})
	}
	close(start)
	requesters.Wait()
	close(stop)
	readers.Wait()
	head, _, err := s.store.Head(t.Context(), origin)
	if err != nil || head.Size != finished || finished == 0 {
		t.Errorf("head is %d, %v; %d was answered", head.Size, err, finished)
	}
}

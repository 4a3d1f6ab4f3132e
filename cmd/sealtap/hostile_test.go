package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// world is sealtap up on a directory of the test, with some traffic in its log.
type world struct {
	dir, log string
	proxy    string // address
	stop     func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/gone" {
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(upstream.Close)
	w := &world{dir: filepath.Join(t.TempDir(), "data"), log: "http://" + listenAddr(t)}
	flags := upFlags{upstream: upstream.URL, listen: listenAddr(t), logListen: strings.TrimPrefix(w.log, "http://")}
	w.proxy = flags.listen
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	started, out := io.Pipe()
	go func() { done <- up(ctx, w.dir, flags, slog.New(slog.DiscardHandler), out) }()
	ready := make([]byte, 1)
	if _, err := started.Read(ready); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, started) }()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(w.stop)
	for _, x := range []struct{ who, path string }{{"alice", "/mine"}, {"bob", "/gone"}, {"eve", "/\u009b2Jx\u202e"}, {"alice", "/mine"}} {
		conn, err := net.Dial("tcp", flags.listen)
		if err != nil {
			t.Fatal(err)
		}
		req, _ := http.NewRequest("GET", "http://shop/", nil)
		req.SetBasicAuth(x.who, "secret")
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: shop\r\nAuthorization: %s\r\nConnection: close\r\n\r\n", x.path, req.Header.Get("Authorization"))
		if b, err := io.ReadAll(conn); err != nil || !bytes.HasPrefix(b, []byte("HTTP/1.1 ")) {
			t.Fatalf("%q, %v", b, err)
		}
		conn.Close()
	}
	w.await(t)
	return w
}

// await returns once all traffic is published.
func (w *world) await(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		code, out, _ := w.sealtap("query", "--stage", "response", "--json")
		if code == exitGood && strings.Count(out, `"leaf_hash"`) == 4 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the traffic does not reach the log: %s", out)
		}
	}
}

func (w *world) sealtap(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(append(args, "--policy", filepath.Join(w.dir, "policy.txt")), &out, &errs)
	return code, out.String(), errs.String()
}

// lie serves the log at another URL, with answers that change has its way with.
// It returns nil to let an answer be.
func (w *world) lie(t *testing.T, change func(path string, q url.Values) (status int, body []byte)) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if status, body := change(r.URL.Path, q); body != nil {
			if status != http.StatusOK {
				rw.Header().Set("Content-Type", "application/problem+json")
			}
			rw.WriteHeader(status)
			_, _ = rw.Write(body)
			return
		}
		req, err := http.NewRequest(r.Method, w.log+r.URL.Path+"?"+q.Encode(), r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Content-Type", r.Header.Get("Content-Type"))
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			rw.WriteHeader(http.StatusBadGateway)
			return
		}
		defer res.Body.Close()
		rw.WriteHeader(res.StatusCode)
		_, _ = io.Copy(rw, res.Body)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// search returns the indices that the honest log finds.
func (w *world) search(t *testing.T, query string) (list []uint64) {
	t.Helper()
	res, err := http.Get(w.log + "/v1/records?" + query)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var page struct {
		Records []struct{ Index uint64 }
	}
	if err := json.NewDecoder(res.Body).Decode(&page); err != nil {
		t.Fatal(err)
	}
	for _, r := range page.Records {
		list = append(list, r.Index)
	}
	return list
}

func page(next string, indices ...uint64) []byte {
	var rows []map[string]any
	for _, i := range indices {
		rows = append(rows, map[string]any{"index": i, "who": map[string]any{"id": "alice"}})
	}
	b, _ := json.Marshal(map[string]any{"records": rows, "next": next})
	return b
}

// TestLyingSearch proves that query and show print no row that was not asked
// for, however the log's search lies.
func TestLyingSearch(t *testing.T) {
	w := newWorld(t)
	all := w.search(t, "stage=response")
	bobs, alices := w.search(t, "stage=response&who=bob")[0], w.search(t, "stage=response&who=alice")
	requests := w.search(t, "stage=request&who=alice")
	exchange := func(lies []byte) func(string, url.Values) (int, []byte) {
		return func(path string, q url.Values) (int, []byte) {
			if path != "/v1/records" || q.Get("exchange") != "" {
				return 0, nil
			}
			return http.StatusOK, lies
		}
	}
	for _, c := range []struct {
		name string
		args []string
		lies []byte
		want string
	}{
		{"who of a response", []string{"--who", "alice"}, page("", bobs), `its who is "bob", not "alice"`},
		{"who of a response, as JSON", []string{"--who", "alice", "--stage", "response", "--json"}, page("", bobs), `its who is "bob"`},
		{"path of a response", []string{"--path", "/mine*"}, page("", bobs), `its path is "/gone"`},
		{"operation of a response", []string{"--operation", "tools/call"}, page("", bobs), `its operation is "", not "tools/call"`},
		{"status of a request", []string{"--status", "404", "--stage", "request"}, page("", requests[0]), "its status is 200"},
		{"status of a response", []string{"--status", "4xx"}, page("", alices[0]), "its status is 200"},
		{"producer", []string{"--producer", "other"}, page("", bobs), `its producer is "proxy", not "other"`},
		{"stage", nil, page("", requests[0]), `its stage is "request"`},
		{"row twice", nil, page("", all[0], all[0]), "after entry"},
		{"order", nil, page("", all[1], all[0]), "after entry"},
		{"too many", []string{"--limit", "1"}, page("", all...), "returned 4 rows, and 1 were asked for"},
		{"seal for a record", []string{"--json"}, page("", 0), "not a record"},
		{"beyond the head", []string{"--json"}, page("", 1<<40), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, out, errs := w.sealtap(append([]string{"query", "--log", w.lie(t, exchange(c.lies))}, c.args...)...)
			if code == exitGood || out != "" || !strings.Contains(errs, c.want) || c.want != "" && code != exitFailed {
				t.Errorf("exit %d, printed %q, said %q; want %q", code, out, errs, c.want)
			}
		})
	}
	t.Run("show", func(t *testing.T) {
		url := w.lie(t, func(path string, q url.Values) (int, []byte) {
			if path == "/v1/records" {
				return http.StatusOK, page("", all[0], bobs)
			}
			return 0, nil
		})
		if code, out, errs := w.sealtap("show", fmt.Sprint(all[0]), "--log", url); code != exitFailed || out != "" {
			t.Errorf("exit %d, printed %q, said %q", code, out, errs)
		}
	})
	t.Run("honest", func(t *testing.T) {
		url := w.lie(t, func(string, url.Values) (int, []byte) { return 0, nil })
		for _, args := range [][]string{{"--who", "bob"}, {"--status", "404", "--stage", "request"}, {"--path", "/gone", "--json"}, {"--producer", "proxy", "--limit", "1"}} {
			if code, out, errs := w.sealtap(append([]string{"query", "--log", url}, args...)...); code != exitGood || out == "" {
				t.Errorf("%v: exit %d, printed %q, said %q", args, code, out, errs)
			}
		}
	})
}

// TestEndlessProducers proves that a log cannot keep its readers busy with pages.
func TestEndlessProducers(t *testing.T) {
	w := newWorld(t)
	n := 0
	url := w.lie(t, func(path string, q url.Values) (int, []byte) {
		if path != "/v1/producers" {
			return 0, nil
		}
		n++
		return http.StatusOK, []byte(fmt.Sprintf(`{"producers":[{"key_id":"same","enrolled":1}],"next":"page%d"}`, n))
	})
	if code, _, errs := w.sealtap("query", "--log", url); code != exitFailed || !strings.Contains(errs, "without an end") {
		t.Errorf("exit %d, said %q", code, errs)
	}
}

// TestTerminal proves that neither clients nor logs can write to the terminal of
// who reads: no control characters, of the second set either, and no overrides
// of direction.
func TestTerminal(t *testing.T) {
	w := newWorld(t)
	evil := "\x1b[2J\u009b2J\u202e\xff"
	problem, _ := json.Marshal(map[string]any{"status": 400, "title": evil, "detail": evil})
	refuses := w.lie(t, func(path string, q url.Values) (int, []byte) {
		if path == "/v1/records" {
			return http.StatusBadRequest, problem
		}
		return 0, nil
	})
	goesOn := w.lie(t, func(path string, q url.Values) (int, []byte) {
		if path == "/v1/records" && q.Get("exchange") == "" {
			return http.StatusOK, page(evil)
		}
		return 0, nil
	})
	eve := fmt.Sprint(w.search(t, "who=eve")[0])
	for _, args := range [][]string{
		{"query"}, {"query", "--stage", "request"}, {"show", eve}, {"query", "--log", refuses}, {"query", "--log", goesOn}, {"audit"},
		{"query", "--who", evil}, {"show", evil}, {"audit", evil},
	} {
		_, out, errs := w.sealtap(args...)
		if strings.ContainsAny(out+errs, "\x1b\u009b\u202e") || strings.Contains(out+errs, "\xff") || out+errs == "" {
			t.Errorf("%q prints %q and says %q", args, out, errs)
		}
	}
}

// TestStopPublishes proves that a log which stops has published all it took: its
// files can be audited to the last entry.
func TestStopPublishes(t *testing.T) {
	w := newWorld(t)
	w.stop()
	db, err := sql.Open("sqlite3", filepath.Join(w.dir, "log.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var stored, published int
	if err := db.QueryRow(`SELECT t.size, c.size FROM tree t, checkpoint c WHERE c.kind = 'published'`).Scan(&stored, &published); err != nil {
		t.Fatal(err)
	}
	if stored != published {
		t.Errorf("%d entries are stored, %d are published", stored, published)
	}
	if code, out, errs := w.sealtap("audit", w.dir); code != exitGood {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
}

func listenAddr(t *testing.T) string {
	t.Helper()
	addr, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

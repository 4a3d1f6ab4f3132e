package interop

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sealtap/sealtap/interop/internal/stack"
)

// rawUpstream answers every request, and keeps every byte that came, by connection.
type rawUpstream struct {
	addr string

	mu    sync.Mutex
	conns []*bytes.Buffer
}

func newRawUpstream(t *testing.T) *rawUpstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &rawUpstream{addr: l.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { u.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return u
}

// kept writes what passes into a buffer.
type kept struct {
	u *rawUpstream
	b *bytes.Buffer
}

func (k kept) Write(p []byte) (int, error) {
	k.u.mu.Lock()
	defer k.u.mu.Unlock()
	return k.b.Write(p)
}

func (u *rawUpstream) serve(c net.Conn) {
	defer c.Close()
	b := new(bytes.Buffer)
	u.mu.Lock()
	u.conns = append(u.conns, b)
	u.mu.Unlock()
	br := bufio.NewReader(io.TeeReader(c, kept{u, b}))
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			break
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			break
		}
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"); err != nil {
			break
		}
	}
	_, _ = io.Copy(io.Discard, br) // what cannot be read is kept as well
}

// sent returns the bytes of each connection.
func (u *rawUpstream) sent() (list [][]byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, b := range u.conns {
		list = append(list, bytes.Clone(b.Bytes()))
	}
	return list
}

// TestSmuggling sends what requests are smuggled with through a real proxy to an
// upstream that keeps every byte. The upstream gets requests that can be read in one
// way only, each with a record of the same method, path and body; net/http and nginx
// read them so, too; and every answer to a client has its two records, refusals
// included.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	up := newRawUpstream(t)
	s := upProxy(t, "http://"+up.addr, "")
	n := 1200
	if testing.Short() {
		n = 200
	}
	ids, refused := attack(t, strings.TrimPrefix(s.Proxy, "http://"), inputs(t, n))
	records := exchanges(t, s, ids)

	var forwarded []strictRequest
	streams := up.sent()
	for _, b := range streams {
		list, err := parseStrict(b)
		if err != nil {
			t.Errorf("%v in %q", err, b)
		}
		forwarded = append(forwarded, list...)
	}
	seen := make(map[string]bool)
	whole := 0
	for _, r := range forwarded {
		e := records[r.exchange]
		if seen[r.exchange] {
			t.Errorf("the upstream was asked twice in exchange %s", r.exchange)
		}
		if seen[r.exchange] = true; e == nil {
			t.Errorf("%s %s reached the upstream in exchange %s, which nobody was told", r.method, r.target, r.exchange)
			continue
		}
		if path, _, _ := strings.Cut(r.target, "?"); e.request.Method != r.method || e.request.Path != escapeInvalid(path) {
			t.Errorf("recorded %s %s, forwarded %s %s", e.request.Method, e.request.Path, r.method, r.target)
		}
		if e.response.Response.Outcome != "complete" {
			if r.whole && e.response.Response.Outcome == "refused" {
				t.Errorf("%s %s with outcome %s reached the upstream as a whole", r.method, r.target, e.response.Response.Outcome)
			}
			continue
		}
		whole++
		if size, sum := e.request.Request.Size, e.request.Request.SHA256; !r.whole || size != uint64(len(r.body)) || size > 0 && sum != digest(r.body) {
			t.Errorf("%s %s: recorded a body of %d bytes, %s; forwarded %d, whole: %t", r.method, r.target, size, sum, len(r.body), r.whole)
		}
	}
	for id, e := range records {
		if e.response.Response.Outcome == "complete" && !seen[id] {
			t.Errorf("exchange %s is complete, and did not reach the upstream", id)
		}
		if o := e.response.Response.Outcome; o != "complete" && o != "refused" && o != "client-abort" {
			t.Errorf("exchange %s has outcome %s", id, o)
		}
	}
	t.Logf("%d exchanges, %d refused; %d reached the upstream over %d connections", len(records), refused, whole, len(streams))
	if whole < n/5 || refused < n/5 {
		t.Error("these are too few: the inputs are badly chosen")
	}
	audit(t, s)
	t.Run("net/http", func(t *testing.T) { readAlike(t, newStandard(t), streams) })
	t.Run("nginx", func(t *testing.T) { readAlike(t, newNginx(t), streams) })
}

// escapeInvalid is how a record, whose texts are UTF-8, has other bytes.
func escapeInvalid(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, `\x%02x`, s[0])
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// attack sends every input over a connection of its own, and returns the exchanges
// that the answers name.
func attack(t *testing.T, addr string, list [][]byte) (ids []string, refused int) {
	t.Helper()
	work := make(chan []byte)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for input := range work {
				found, bad, err := send(addr, input)
				mu.Lock()
				ids, refused = append(ids, found...), refused+bad
				if err != nil {
					t.Errorf("%v after %q", err, input)
				}
				mu.Unlock()
			}
		})
	}
	for _, input := range list {
		work <- input
	}
	close(work)
	wg.Wait()
	return ids, refused
}

var (
	exchangeHeader = regexp.MustCompile(`\r\nSealtap-Exchange: ([0-9a-f-]+)\r\n`)
	refusedHeader  = regexp.MustCompile(`\r\nSealtap-Error: refused\r\n`)
)

func send(addr string, input []byte) (ids []string, refused int, err error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	_, _ = c.Write(input)
	// A client that closes its sending side goes away, as far as the proxy can tell:
	// so the end is asked for.
	_, _ = io.WriteString(c, "GET /last HTTP/1.1\r\nHost: last\r\nConnection: close\r\n\r\n")
	var text []byte
	b := make([]byte, 4096)
	for {
		// An input that leaves the proxy waiting for more is given up.
		_ = c.SetReadDeadline(time.Now().Add(quiet))
		n, err := c.Read(b)
		text = append(text, b[:n]...)
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			_ = c.(*net.TCPConn).CloseWrite()
			_ = c.SetReadDeadline(time.Now().Add(time.Minute))
			more, _ := io.ReadAll(c)
			text = append(text, more...)
			break
		} else if err != nil {
			break
		}
	}
	for _, m := range exchangeHeader.FindAllSubmatch(text, -1) {
		ids = append(ids, string(m[1]))
	}
	return ids, len(refusedHeader.FindAll(text, -1)), nil
}

// quiet is how long no answer comes before more is taken to be waited for.
const quiet = 2 * time.Second

// exchangeRecords are the records of an exchange.
type exchangeRecords struct{ request, response facts }

// exchanges returns the records of everything in the log, once all of ids have
// both. A record that comes twice fails the test.
func exchanges(t *testing.T, s *stack.Stack, ids []string) map[string]*exchangeRecords {
	t.Helper()
	all := make(map[string]*exchangeRecords)
	missing := ""
	if err := s.Await("records", time.Minute, func() bool {
		clear(all)
		for cursor := ""; ; {
			raw, err := s.Get(t.Context(), "/v1/records?limit=1000"+cursor)
			if err != nil {
				missing = err.Error()
				return false
			}
			var page struct {
				Records []struct {
					Exchange string
					facts
				}
				Next string
			}
			if err := json.Unmarshal(raw, &page); err != nil {
				t.Fatal(err)
			}
			for _, r := range page.Records {
				e := all[r.Exchange]
				if e == nil {
					e = new(exchangeRecords)
					all[r.Exchange] = e
				}
				of := map[string]*facts{"request": &e.request, "response": &e.response}[r.Stage]
				if of == nil {
					continue
				}
				if of.Stage != "" {
					t.Fatalf("exchange %s has two records of stage %s", r.Exchange, r.Stage)
				}
				*of = r.facts
			}
			if page.Next == "" {
				break
			}
			cursor = "&cursor=" + page.Next
		}
		delete(all, "") // of the proxy itself
		for _, id := range ids {
			if e := all[id]; e == nil || e.request.Stage == "" || e.response.Stage == "" {
				missing = id
				return false
			}
		}
		for id, e := range all {
			if e.request.Stage == "" || e.response.Stage == "" {
				missing = id
				return false
			}
		}
		return true
	}); err != nil {
		t.Fatalf("%v (%s)", err, missing)
	}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != len(ids) {
		t.Error("two answers name one exchange")
	}
	return all
}

// readAlike compares what another server understands of forwarded bytes with the
// strict reading.
func readAlike(t *testing.T, other *reader, streams [][]byte) {
	total := 0
	for _, b := range streams {
		list, err := parseStrict(b)
		if err != nil {
			continue // reported already
		}
		want := list
		if n := len(want); n > 0 && !want[n-1].whole {
			want = want[:n-1]
		}
		theirs, said := other.read(t, b)
		for i, w := range want {
			if i >= len(theirs) {
				if !gaveUp(said) {
					t.Errorf("%d requests are understood, %d were sent", len(theirs), len(want))
				}
				break
			}
			if u := theirs[i]; u.method != w.method || u.target != w.target || u.body != string(w.body) {
				t.Errorf("%s %s with %d bytes is understood as %+v", w.method, w.target, len(w.body), u)
			}
			total++
		}
		if len(theirs) > len(list) {
			t.Errorf("%d requests are understood, %d were sent", len(theirs), len(list))
		}
	}
	if total == 0 {
		t.Error("no request was understood")
	}
}

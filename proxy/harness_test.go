package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

var errDisk = errors.New("disk full")

// memory is a recorder in memory. It encodes and keeps what it is given.
type memory struct {
	// before is called ahead of keeping a record, after behind it; an error is
	// what Record returns. Both may block.
	before, after func(stage string) error

	mu      sync.Mutex
	stream  record.Stream
	entries []kept
	key     *keys.Private // of receipts
}

type kept struct {
	entry    []byte
	openings []byte // encoded
	rec      record.Record
	opened   []*sealtapv1.Opening
}

func newMemory() *memory { return &memory{stream: record.NewStream(keys.ID{1})} }

func stageOf(r *sealtapv1.Record) string { return record.Record{Record: r}.Stage() }

func (m *memory) Record(_ context.Context, r *sealtapv1.Record, openings []*sealtapv1.Opening) error {
	if m.before != nil {
		if err := m.before(stageOf(r)); err != nil {
			return err
		}
	}
	if err := m.keep(r, openings); err != nil {
		return err
	}
	if m.after != nil {
		return m.after(stageOf(r))
	}
	return nil
}

func (m *memory) keep(r *sealtapv1.Record, openings []*sealtapv1.Opening) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r.Producer, r.Incarnation, r.Sequence = m.stream.Producer[:], m.stream.Incarnation[:], uint64(len(m.entries))
	var all sealtapv1.Openings
	for _, o := range openings {
		full := record.NewOpening(o.GetField(), o.GetType(), o.GetValue())
		c := record.Commitment(m.stream, r.Sequence, full)
		r.Sealed = append(r.Sealed, &sealtapv1.SealedField{Field: o.GetField(), Commitment: c[:]})
		all.Openings = append(all.Openings, full)
	}
	entry, err := record.Encode(r)
	if err != nil {
		return err
	}
	box, err := proto.Marshal(&all)
	if err != nil {
		return err
	}
	_, body, err := record.Split(entry)
	if err != nil {
		return err
	}
	rec, err := record.Decode(body)
	if err != nil {
		return err
	}
	var again sealtapv1.Openings
	if err := proto.Unmarshal(box, &again); err != nil {
		return err
	}
	m.entries = append(m.entries, kept{entry, box, rec, again.Openings})
	return nil
}

func (m *memory) all() []kept {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]kept(nil), m.entries...)
}

// wait returns the entries once there are n.
func (m *memory) wait(t *testing.T, n int) []kept {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if e := m.all(); len(e) >= n {
			return e
		} else if time.Now().After(end) {
			t.Fatalf("there are %d records, want %d", len(e), n)
		}
	}
}

// last waits for one exchange and returns its records.
func (m *memory) last(t *testing.T) (*kept, *kept) {
	t.Helper()
	var e []kept
	for end := time.Now().Add(5 * time.Second); len(e) < 2 || e[len(e)-1].rec.GetResponse() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the last of %d records is no response", len(e))
		}
		e = slices.DeleteFunc(m.all(), func(k kept) bool { return k.rec.GetProgress() != nil })
	}
	q, p := &e[len(e)-2], &e[len(e)-1]
	if q.rec.GetRequest() == nil || p.rec.GetResponse() == nil || !bytes.Equal(q.rec.GetExchange(), p.rec.GetExchange()) {
		t.Fatalf("the last records are not those of one exchange: %v, %v", q.rec, p.rec)
	}
	return q, p
}

// opening returns the value of a sealed field whose commitment it checks.
func (k *kept) opening(t *testing.T, field string) string {
	t.Helper()
	for _, o := range k.opened {
		if o.GetField() == field {
			if err := record.CheckOpening(k.rec, o); err != nil {
				t.Fatal(err)
			}
			return string(o.GetValue())
		}
	}
	t.Fatalf("no opening of %q", field)
	return ""
}

// headers returns the headers of a record, sealed or not.
func (k *kept) headers(t *testing.T) map[string][]string {
	t.Helper()
	list := k.rec.GetRequest().GetHeaders()
	if p := k.rec.GetResponse(); p != nil {
		list = p.GetHeaders()
	}
	var sealed []string
	for _, o := range k.opened {
		if o.GetField() == record.FieldHeaders {
			var err error
			if sealed, err = record.SplitList(o.GetValue()); err != nil {
				t.Fatal(err)
			}
		}
	}
	m := make(map[string][]string)
	for _, h := range list {
		v := h.GetValue()
		if h.GetSealed() {
			v, sealed = sealed[0], sealed[1:]
		}
		m[h.GetName()] = append(m[h.GetName()], v)
	}
	if len(sealed) != 0 {
		t.Fatalf("%d sealed values belong to no header", len(sealed))
	}
	return m
}

func (k *kept) credentials() map[string]string {
	list := k.rec.GetRequest().GetCredentials()
	if p := k.rec.GetResponse(); p != nil {
		list = p.GetCredentials()
	}
	m := make(map[string]string)
	for _, c := range list {
		m[c.GetPlace()] = string(c.GetDigest())
	}
	return m
}

func wantOutcome(t *testing.T, k *kept, want sealtapv1.Outcome) {
	t.Helper()
	if p := k.rec.GetResponse(); p.GetOutcome() != want {
		t.Errorf("outcome %v (%s), want %v", p.GetOutcome(), p.GetDetail(), want)
	}
}

func wantBody(t *testing.T, what string, b *sealtapv1.Body, want []byte) {
	t.Helper()
	sum := sha256.Sum256(want)
	if b == nil || b.GetSize() != uint64(len(want)) || !bytes.Equal(b.GetSha256(), sum[:]) {
		t.Errorf("%s: %v, want %d bytes, %x", what, b, len(want), sum)
	}
}

// server is a running proxy.
type server struct {
	*Proxy
	rec  *memory
	addr string
	stop func()
}

// start runs a proxy until the test ends. An empty upstream makes a forward
// proxy.
func start(t testing.TB, upstream string, change func(*Config)) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return startOn(t, l, func(cfg *Config) {
		if upstream != "" {
			u, err := url.Parse(upstream)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Upstream = u
		}
		if change != nil {
			change(cfg)
		}
	})
}

// startOn runs a proxy on a listener until the test ends.
func startOn(t testing.TB, l net.Listener, change func(*Config)) *server {
	t.Helper()
	m := newMemory()
	cfg := Config{Recorder: m, DigestKey: []byte("0123456789abcdef"), Service: "shop"}
	change(&cfg)
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, l) }()
	var once sync.Once
	s := &server{Proxy: p, rec: m, addr: l.Addr().String()}
	s.stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("Run: %v", err)
				}
			case <-time.After(20 * time.Second):
				t.Error("Run does not end")
			}
		})
	}
	t.Cleanup(s.stop)
	return s
}

func (s *server) url(path string) string { return "http://" + s.addr + path }

// backend starts an upstream.
func backend(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s.URL
}

// rawBackend starts an upstream that reads one request a connection and then
// does what f does.
func rawBackend(t testing.TB, f func(c net.Conn, r *http.Request)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				defer c.Close()
				if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					f(c, r)
				}
			}()
		}
	}()
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return "http://" + l.Addr().String()
}

// raw is a client that sees every byte.
type raw struct {
	net.Conn
	t *testing.T
	r *bufio.Reader
}

func dial(t *testing.T, addr string) *raw {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return &raw{c, t, bufio.NewReader(c)}
}

func (c *raw) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatal(err)
	}
}

// head reads a status line with its headers.
func (c *raw) head() string {
	c.t.Helper()
	var b strings.Builder
	for {
		line, err := c.r.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			c.t.Fatalf("reading headers: %v after %q", err, b.String())
		}
		if line == "\r\n" {
			return b.String()
		}
	}
}

func (c *raw) expect(s string) {
	c.t.Helper()
	b := make([]byte, len(s))
	if n, err := io.ReadFull(c.r, b); err != nil || string(b) != s {
		c.t.Fatalf("read %q, %v, want %q", b[:n], err, s)
	}
}

// silent checks that nothing more comes for a while.
func (c *raw) silent() {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(60 * time.Millisecond))
	if b, err := c.r.ReadByte(); err == nil {
		rest, _ := c.r.Peek(c.r.Buffered())
		c.t.Fatalf("%q came too early", string(b)+string(rest))
	} else if !isTimeout(err) {
		c.t.Fatalf("the connection ended: %v", err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
}

func (c *raw) rest() (string, error) {
	b, err := io.ReadAll(c.r)
	return string(b), err
}

// gate blocks records of one stage until it is opened.
type gate struct {
	stage   string
	reached chan struct{}
	open    chan struct{}
	err     error
}

func newGate(stage string) *gate {
	return &gate{stage: stage, reached: make(chan struct{}, 16), open: make(chan struct{})}
}

func (g *gate) hook(stage string) error {
	if stage == g.stage {
		g.reached <- struct{}{}
		<-g.open
		return g.err
	}
	return nil
}

func failing(stage string) func(string) error {
	return func(s string) error {
		if s == stage {
			return errDisk
		}
		return nil
	}
}

// settled fails the test if goroutines outlive it.
func settled(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for end := time.Now().Add(3 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			n := runtime.NumGoroutine()
			if n <= before {
				return
			}
			if time.Now().After(end) {
				buf := make([]byte, 1<<20)
				t.Errorf("%d goroutines, there were %d before\n%s", n, before, buf[:runtime.Stack(buf, true)])
				return
			}
		}
	})
}

func get(t *testing.T, c *http.Client, req *http.Request) (*http.Response, []byte) {
	t.Helper()
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, body
}

// client returns a client that changes nothing by itself.
func client(t testing.TB) *http.Client {
	tr := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func request(t testing.TB, method, url string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

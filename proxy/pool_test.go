package proxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
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
		wg.Go(func() {
			if res, err := client(t).Get(s.url("/")); err == nil {
				res.Body.Close()
			}
		})
		time.Sleep(time.Millisecond)
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

func TestMayRetry(t *testing.T) {
	base := retryCase{method: "GET", replayable: true}
	for _, c := range []struct {
		name   string
		change func(*retryCase)
		want   bool
	}{
		{"nothing sent", func(*retryCase) {}, true},
		{"nothing sent of a POST", func(c *retryCase) { c.method = "POST" }, true},
		{"connecting took too long", func(c *retryCase) { c.method, c.timeout = "POST", true }, true},
		{"nothing sent of an upgrade", func(c *retryCase) { c.upgrade = true }, true},
		{"the body is gone", func(c *retryCase) { c.replayable = false }, false},
		{"sent GET", func(c *retryCase) { c.connected = true }, true},
		{"sent HEAD", func(c *retryCase) { c.connected, c.method = true, "HEAD" }, true},
		{"sent PUT", func(c *retryCase) { c.connected, c.method = true, "PUT" }, true},
		{"sent DELETE", func(c *retryCase) { c.connected, c.method = true, "DELETE" }, true},
		{"sent OPTIONS", func(c *retryCase) { c.connected, c.method = true, "OPTIONS" }, true},
		{"sent POST", func(c *retryCase) { c.connected, c.method = true, "POST" }, false},
		{"sent PATCH", func(c *retryCase) { c.connected, c.method = true, "PATCH" }, false},
		{"sent what is not known", func(c *retryCase) { c.connected, c.method = true, "get" }, false},
		{"sent PUT, the body is gone", func(c *retryCase) { c.connected, c.method, c.replayable = true, "PUT", false }, false},
		{"sent, and too slow", func(c *retryCase) { c.connected, c.timeout = true, true }, false},
		{"sent upgrade", func(c *retryCase) { c.connected, c.upgrade = true, true }, false},
		{"answer began", func(c *retryCase) { c.connected, c.answered = true, true }, false},
	} {
		k := base
		c.change(&k)
		if got := mayRetry(k); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// TestRetries: what the clients of a pool see whose first target misbehaves, and
// what the records say.
func TestRetries(t *testing.T) {
	cut := func(answer string) func(t *testing.T, n *atomic.Int32) string {
		return func(t *testing.T, n *atomic.Int32) string {
			return rawBackend(t, func(c net.Conn, _ *http.Request) {
				n.Add(1)
				_, _ = io.WriteString(c, answer)
			})
		}
	}
	refused := func(t *testing.T, _ *atomic.Int32) string { return dead(t) }
	large := strings.Repeat("x", 100<<10) // is streamed
	for _, c := range []struct {
		name         string
		first        func(*testing.T, *atomic.Int32) string
		method, body string
		status       int
		attempts     int
		detail       string // of the first
	}{
		{"refused GET", refused, "GET", "", 200, 2, "connection refused"},
		{"refused POST", refused, "POST", "abc", 200, 2, "connection refused"},
		{"refused streamed POST", refused, "POST", large, 200, 2, "connection refused"},
		{"cut GET", cut(""), "GET", "", 200, 2, "EOF"},
		{"cut PUT", cut(""), "PUT", "abc", 200, 2, "EOF"},
		{"cut streamed PUT", cut(""), "PUT", large, 502, 1, ""},
		{"cut POST", cut(""), "POST", "abc", 502, 1, "EOF"},
		{"cut after a byte", cut("H"), "GET", "", 502, 1, ""},
		{"cut after 1xx", cut("HTTP/1.1 103 Early\r\n\r\n"), "GET", "", 502, 1, ""},
		{"cut in the answer", cut("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"), "GET", "", 502, 1, ""},
		{"503 of the upstream", cut("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"), "GET", "", 503, 1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			settled(t)
			var n, seen atomic.Int32
			good := backend(t, func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				if string(b) != c.body || r.Header.Get("Sealtap-Exchange") == "" || len(r.Header["Via"]) != 1 {
					t.Errorf("the upstream got %d bytes, headers %v", len(b), r.Header)
				}
				seen.Add(1)
			})
			bad := c.first(t, &n)
			p := poolOf(t, "", good, bad) // the turn begins with the second
			p.Retries = 1
			s := pooled(t, p, nil)
			req := request(t, c.method, s.url("/x"), strings.NewReader(c.body))
			if c.body == "" {
				req.Body = nil
			}
			res, err := client(t).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode != c.status {
				t.Errorf("status %d, want %d", res.StatusCode, c.status)
			}
			if want := int32(c.attempts - 1); seen.Load() != want {
				t.Errorf("the good one was asked %d times, want %d", seen.Load(), want)
			}
			_, r := s.rec.last(t)
			list := r.rec.GetResponse().GetAttempts()
			if len(list) != c.attempts || !strings.Contains(list[0].GetDetail(), c.detail) || list[0].GetUpstream() != strings.TrimPrefix(bad, "http://") || list[0].GetDurationNs() == 0 {
				t.Fatalf("attempts %v", list)
			}
			if c.attempts == 2 && (list[1].GetUpstream() != strings.TrimPrefix(good, "http://") || list[1].GetStatus() != 200 || list[1].GetDetail() != "") {
				t.Errorf("attempts %v", list)
			}
			if c.body != "" && c.status == 200 {
				sent := r.rec.GetResponse().GetRequestBody()
				if q, _ := s.rec.last(t); sent == nil {
					sent = q.rec.GetRequest().GetBody()
				}
				wantBody(t, "request", sent, []byte(c.body))
			}
		})
	}
}

// TestRetriesEnd: as often as configured and no more, to the last target's error.
func TestRetriesEnd(t *testing.T) {
	settled(t)
	p := poolOf(t, "", dead(t), dead(t), dead(t))
	p.Retries = 4
	s := pooled(t, p, nil)
	res, _ := get(t, client(t), request(t, "GET", s.url("/"), nil))
	if res.StatusCode != 502 || res.Header.Get("Sealtap-Error") != codeUnreachable {
		t.Errorf("%v", res)
	}
	_, r := s.rec.last(t)
	wantOutcome(t, r, sealtapv1.Outcome_OUTCOME_UPSTREAM_UNREACHABLE)
	list := r.rec.GetResponse().GetAttempts()
	if len(list) != 5 || !strings.HasSuffix(r.rec.GetResponse().GetDetail(), "; 5 attempts") {
		t.Errorf("attempts %v, detail %q", list, r.rec.GetResponse().GetDetail())
	}
}

// TestAttemptsBound: however many there are, the record has the first and the last.
func TestAttemptsBound(t *testing.T) {
	all := newAttempts(nil, nil)
	for i := range 3 * maxAttempts {
		all.begin(fmt.Sprint(i)).finish(nil, fmt.Errorf("no"))
	}
	x := &exchange{tries: all}
	var p sealtapv1.Response
	x.captureAttempts(&p)
	if n := len(p.GetAttempts()); n != maxAttempts || p.GetAttempts()[0].GetUpstream() != "0" || p.GetAttempts()[n-1].GetUpstream() != "23" || all.count() != 24 {
		t.Errorf("%v of %d", p.GetAttempts(), all.count())
	}
}

// TestOneTarget: where there is no choice and no failure the record stays small.
func TestOneTarget(t *testing.T) {
	settled(t)
	s := pooled(t, poolOf(t, "", named(t, "a")), nil)
	get(t, client(t), request(t, "GET", s.url("/"), nil))
	if _, r := s.rec.last(t); len(r.rec.GetResponse().GetAttempts()) != 0 {
		t.Errorf("attempts %v", r.rec.GetResponse().GetAttempts())
	}
}

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

// authority makes certificates.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, pool: x509.NewCertPool()}
	a.cert, a.key = a.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "ca"}})
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) sign(tmpl *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, by := a.cert, a.key
	if parent == nil {
		parent, by = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return c, key
}

func (a *authority) pair(name string) tls.Certificate {
	c, key := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}
}

// TestUpstreamTLS: the upstream's certificate is verified under the pool's roots
// and name, ours is shown, HTTP/2 is spoken, and the record names the certificate.
func TestUpstreamTLS(t *testing.T) {
	settled(t)
	ca, other := newAuthority(t), newAuthority(t)
	cert := ca.pair("orders.internal")
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Proto+" "+r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	up.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.pool}
	up.EnableHTTP2 = true
	up.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	up.StartTLS()
	t.Cleanup(func() { up.CloseClientConnections(); up.Close() })
	ours := []tls.Certificate{ca.pair("sealtap")}
	for _, c := range []struct {
		name   string
		tls    *tls.Config
		status int
		detail string
	}{
		{"good", &tls.Config{RootCAs: ca.pool, ServerName: "orders.internal", Certificates: ours}, 200, ""},
		{"other roots", &tls.Config{RootCAs: other.pool, ServerName: "orders.internal", Certificates: ours}, 502, "unknown authority"},
		{"other name", &tls.Config{RootCAs: ca.pool, ServerName: "users.internal", Certificates: ours}, 502, "users.internal"},
		{"no certificate", &tls.Config{RootCAs: ca.pool, ServerName: "orders.internal"}, 502, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := poolOf(t, "", up.URL)
			p.TLS = c.tls
			s := pooled(t, p, nil)
			res, body := get(t, client(t), request(t, "GET", s.url("/"), nil))
			_, r := s.rec.last(t)
			if res.StatusCode != c.status || !strings.Contains(r.rec.GetResponse().GetDetail(), c.detail) {
				t.Fatalf("%s %s, detail %q", res.Status, body, r.rec.GetResponse().GetDetail())
			}
			if c.status != 200 {
				return
			}
			if string(body) != "HTTP/2.0 sealtap" {
				t.Errorf("%s", body)
			}
			sum := sha256.Sum256(cert.Leaf.Raw)
			a := r.rec.GetResponse().GetAttempts()
			if len(a) != 1 || string(a[0].GetCertificate()) != string(sum[:]) || a[0].GetStatus() != 200 {
				t.Errorf("attempts %v", a)
			}
		})
	}
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

// TestRetryStopsWithClient: nobody is asked for a client that went away.
func TestRetryStopsWithClient(t *testing.T) {
	settled(t)
	ctx, cancel := context.WithCancel(context.Background())
	up := rawBackend(t, func(c net.Conn, _ *http.Request) {
		cancel()
		_, _ = c.Read(make([]byte, 1)) // until the proxy has seen it, and hangs up
	})
	var n atomic.Int32
	other := backend(t, func(http.ResponseWriter, *http.Request) { n.Add(1) })
	p := poolOf(t, "", other, up)
	p.Retries = 1
	s := pooled(t, p, nil)
	_, err := client(t).Do(request(t, "GET", s.url("/"), nil).WithContext(ctx))
	if err == nil {
		t.Fatal("it was answered")
	}
	_, r := s.rec.last(t)
	wantOutcome(t, r, sealtapv1.Outcome_OUTCOME_CLIENT_ABORT)
	if a := r.rec.GetResponse().GetAttempts(); n.Load() != 0 || len(a) != 1 {
		t.Errorf("the other target was asked: %v", a)
	}
}

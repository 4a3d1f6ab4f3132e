package proxy

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// echo starts a TCP server that answers everything in capitals, and says bye at
// the end.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 100)
			for {
				n, err := c.Read(b)
				_, _ = c.Write(bytes.ToUpper(b[:n]))
				if err != nil {
					break
				}
			}
			_, _ = io.WriteString(c, "bye")
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

func TestConnect(t *testing.T) {
	settled(t)
	to := echo(t)
	s := start(t, "", nil)
	c := dial(t, s.addr)
	c.send("CONNECT " + to + " HTTP/1.1\r\nHost: " + to + "\r\n\r\nearly") // together with the request
	if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 200 ") || !strings.Contains(h, "Sealtap-Exchange: ") {
		t.Fatalf("%q", h)
	}
	c.expect("EARLY")
	c.send(" and late")
	c.expect(" AND LATE")
	if n := len(s.rec.all()); n != 1 {
		t.Fatalf("%d records", n)
	}
	// Half-closed: the upstream still answers.
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	c.expect("bye")
	if rest, err := c.rest(); rest != "" || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
	q, p := s.rec.last(t)
	wantOutcome(t, p, complete)
	rq, tn := q.rec.GetRequest(), p.rec.GetResponse().GetTunnel()
	wantBody(t, "up", tn.GetUp(), []byte("early and late"))
	wantBody(t, "down", tn.GetDown(), []byte("EARLY AND LATEbye"))
	if rq.GetMethod() != "CONNECT" || rq.GetAuthority() != to || rq.GetPath() != "" || rq.GetScheme() != "" || p.rec.GetResponse().GetStatus() != 200 || tn.GetSni() != "" {
		t.Errorf("%v %v", rq, p.rec)
	}
}

func TestConnectTLS(t *testing.T) {
	settled(t)
	up := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "private") }))
	defer up.Close()
	s := start(t, "", nil)
	tr := up.Client().Transport.(*http.Transport).Clone()
	tr.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: s.addr, User: url.UserPassword("ann", "pw")})
	tr.TLSClientConfig.ServerName = "example.com"
	c := &http.Client{Transport: tr}
	if _, body := get(t, c, request(t, "GET", up.URL, nil)); string(body) != "private" {
		t.Errorf("%q", body)
	}
	tr.CloseIdleConnections()
	q, p := s.rec.last(t)
	if sni := p.rec.GetResponse().GetTunnel().GetSni(); sni != "example.com" {
		t.Errorf("sni %q", sni)
	}
	if w := q.rec.GetRequest().GetWho(); w.GetId() != "ann" || w.GetHow() != "basic" || w.GetVerified() {
		t.Errorf("who %v", w)
	}
}

// TestConnectServerFirst: the tunnel does not wait for the client to speak.
func TestConnectServerFirst(t *testing.T) {
	settled(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.WriteString(c, "220 ready\r\n")
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	s := start(t, "", func(c *Config) { c.Timeouts.TunnelIdle = 100 * time.Millisecond })
	c := dial(t, s.addr)
	c.send("CONNECT " + l.Addr().String() + " HTTP/1.1\r\nHost: x\r\n\r\n")
	c.head()
	c.expect("220 ready\r\n")
	if _, err := c.rest(); err != nil { // silence ends it
		t.Error(err)
	}
	_, p := s.rec.last(t)
	wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_TIMEOUT)
}

func TestConnectUnreachableAndStop(t *testing.T) {
	settled(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	s := start(t, "", func(c *Config) { c.Timeouts.Drain = 100 * time.Millisecond })
	c := dial(t, s.addr)
	c.send("CONNECT " + l.Addr().String() + " HTTP/1.1\r\nHost: x\r\n\r\n")
	if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 502 ") {
		t.Errorf("%q", h)
	}
	_, p := s.rec.last(t)
	wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_UPSTREAM_UNREACHABLE)
	// A tunnel that is open when the proxy stops leaves its record.
	c = dial(t, s.addr)
	c.send("CONNECT " + echo(t) + " HTTP/1.1\r\nHost: x\r\n\r\nabc")
	c.head()
	c.expect("ABC")
	s.stop()
	_, p = s.rec.last(t)
	wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_UNKNOWN)
	wantBody(t, "up", p.rec.GetResponse().GetTunnel().GetUp(), []byte("abc"))
}

func TestWebSocket(t *testing.T) {
	settled(t)
	up := rawBackend(t, func(c net.Conn, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "Upgrade" || r.Header.Get("Sec-Websocket-Key") != "k" || r.Header.Get("Cookie") != "sid=5" {
			t.Errorf("%v", r.Header)
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: a\r\n\r\nhi")
		b := make([]byte, 8)
		_, _ = io.ReadFull(c, b)
		_, _ = c.Write(bytes.ToUpper(b))
	})
	s := start(t, up, nil)
	c := dial(t, s.addr)
	// As curl and browsers do not, but attackers do: bytes behind the request.
	c.send("GET /chat HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\nCookie: sid=5\r\n\r\nearl")
	h := c.head()
	if !strings.HasPrefix(h, "HTTP/1.1 101 ") || !strings.Contains(h, "Sec-Websocket-Accept: a\r\n") || !strings.Contains(h, "Sealtap-Exchange: ") || !strings.Contains(h, "Upgrade: websocket\r\n") {
		t.Errorf("%q", h)
	}
	c.expect("hi")
	c.send("late")
	c.expect("EARLLATE")
	c.Close()
	_, p := s.rec.last(t)
	rp := p.rec.GetResponse()
	wantBody(t, "up", rp.GetTunnel().GetUp(), []byte("earllate"))
	wantBody(t, "down", rp.GetTunnel().GetDown(), []byte("hiEARLLATE"))
	if rp.GetStatus() != 101 || p.headers(t)["sec-websocket-accept"] == nil {
		t.Errorf("%v", rp)
	}
	// The upstream says no: an answer as any other.
	s = start(t, backend(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) }), nil)
	c = dial(t, s.addr)
	c.send("GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 403 ") {
		t.Errorf("%q", h)
	}
	_, p = s.rec.last(t)
	wantOutcome(t, p, complete)
	wantBody(t, "sent", p.rec.GetResponse().GetSent(), []byte("no\n"))
}

func TestTunnelMovesMuch(t *testing.T) {
	settled(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	data := make([]byte, 5<<20)
	_, _ = rand.Read(data)
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			c.Close()
		}
	}()
	s := start(t, "", nil)
	c := dial(t, s.addr)
	c.send("CONNECT " + l.Addr().String() + " HTTP/1.1\r\nHost: x\r\n\r\n")
	c.head()
	go func() {
		_, _ = c.Write(data)
		_ = c.Conn.(*net.TCPConn).CloseWrite()
	}()
	h := sha256.New()
	if n, err := io.Copy(h, c.r); n != int64(len(data)) || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	_, p := s.rec.last(t)
	wantBody(t, "up", p.rec.GetResponse().GetTunnel().GetUp(), data)
	wantBody(t, "down", p.rec.GetResponse().GetTunnel().GetDown(), data)
}

func TestForwardHTTP(t *testing.T) {
	settled(t)
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s", r.Host, r.RequestURI, r.Header.Get("X-Forwarded-For"))
	})
	s := start(t, "", nil)
	tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: s.addr})}
	defer tr.CloseIdleConnections()
	host := strings.TrimPrefix(up, "http://")
	if _, body := get(t, &http.Client{Transport: tr}, request(t, "GET", up+"/a%2Fb?x=1", nil)); string(body) != host+" /a%2Fb?x=1 " {
		t.Errorf("%q", body)
	}
	q, p := s.rec.last(t)
	wantOutcome(t, p, complete)
	if rq := q.rec.GetRequest(); rq.GetAuthority() != host || rq.GetPath() != "/a%2Fb" || rq.GetScheme() != "http" || q.opening(t, "query") != "x=1" {
		t.Errorf("%v", rq)
	}
	c := dial(t, s.addr)
	c.send("GET http://ann:Secret77@" + host + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n")
	c.head()
	c.expect(host + " / ")
	q, _ = s.rec.last(t)
	if q.credentials()["url:userinfo"] == "" || bytes.Contains(q.entry, []byte("Secret77")) || q.rec.GetRequest().GetAuthority() != host {
		t.Errorf("%v", q.rec)
	}
}

func TestDenied(t *testing.T) {
	settled(t)
	s := start(t, "", func(c *Config) { c.Forward.DenyCIDRs = []netip.Prefix{netip.MustParsePrefix("127.9.0.0/16")} })
	_, port, _ := net.SplitHostPort(s.addr)
	for _, to := range []string{"169.254.169.254:80", "[fe80::1]:80", "224.0.0.1:80", "[ff02::1]:80", "0.0.0.0:80", "[::]:80", "[::ffff:169.254.169.254]:80", "[64:ff9b::a9fe:a9fe]:80",
		"100.100.100.200:80", s.addr, "localhost:" + port, "0.0.0.0:" + port, "127.9.9.9:80", "255.255.255.255:80"} {
		for _, line := range []string{"CONNECT " + to, "GET http://" + to + "/"} {
			n := len(s.rec.all())
			c := dial(t, s.addr)
			c.send(line + " HTTP/1.1\r\nHost: " + to + "\r\nConnection: close\r\n\r\n")
			h := c.head()
			body, _ := c.rest()
			if !strings.HasPrefix(h, "HTTP/1.1 403 ") || !strings.Contains(h, "Sealtap-Error: denied") || !strings.Contains(body, "is denied: ") {
				t.Errorf("%s: %q %q", line, h, body)
			}
			s.rec.wait(t, n+2)
			_, p := s.rec.last(t)
			wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_DENIED)
		}
	}
}

// TestLoopbackTargets: who comes from elsewhere, also by a trusted peer's word,
// reaches no loopback target, not even over a connection that is open already.
func TestLoopbackTargets(t *testing.T) {
	settled(t)
	up := backend(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "inside") })
	s := start(t, "", func(c *Config) { c.TrustedPeers = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	for _, tt := range []struct {
		from   string
		status int
	}{{"", 200}, {"127.0.0.5", 200}, {"192.0.2.7", 403}, {"192.0.2.7, 127.0.0.1", 403}, {"garbage", 200}} {
		c := dial(t, s.addr)
		from := ""
		if tt.from != "" {
			from = "X-Forwarded-For: " + tt.from + "\r\n"
		}
		c.send("GET " + up + "/ HTTP/1.1\r\nHost: " + strings.TrimPrefix(up, "http://") + "\r\n" + from + "\r\n")
		if h := c.head(); !strings.HasPrefix(h, fmt.Sprintf("HTTP/1.1 %d ", tt.status)) {
			t.Errorf("%q: %q", tt.from, h)
		}
	}
	p := s.Proxy
	for _, tt := range []struct {
		addr        string
		near, far   bool
		allow, deny string
	}{
		{"127.0.0.1:1", true, false, "", ""},
		{"[::1]:1", true, false, "", ""},
		{"127.0.0.1:1", true, true, "127.0.0.0/8", ""},
		{"10.1.2.3:1", true, true, "", ""},
		{"10.1.2.3:1", false, false, "10.0.0.0/8", "10.1.0.0/16"},
		{"169.254.1.1:1", true, true, "169.254.0.0/16", ""},
		{"[2002:7f00:1::]:1", true, false, "", ""},
	} {
		p.cfg.Forward = Forward{}
		if tt.allow != "" {
			p.cfg.Forward.AllowCIDRs = []netip.Prefix{netip.MustParsePrefix(tt.allow)}
		}
		if tt.deny != "" {
			p.cfg.Forward.DenyCIDRs = []netip.Prefix{netip.MustParsePrefix(tt.deny)}
		}
		a := netip.MustParseAddrPort(tt.addr)
		if near, far := p.checkTarget(a, true) == nil, p.checkTarget(a, false) == nil; near != tt.near || far != tt.far {
			t.Errorf("%+v: %t %t", tt, near, far)
		}
	}
}

// hello returns what a TLS client sends first.
func hello(t testing.TB, name string) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer b.Close()
	go func() {
		_ = tls.Client(a, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
		a.Close()
	}()
	buf := make([]byte, 16<<10)
	_ = b.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

func TestSNI(t *testing.T) {
	var plain helloSniffer
	if plain.feed(plainHello("a.example")); plain.name != "a.example" {
		t.Errorf("a small hello: %q", plain.name)
	}
	h := hello(t, "shop.example")
	for _, step := range []int{1, 2, 7, len(h)} {
		var s helloSniffer
		for b := h; len(b) > 0; {
			n := min(step, len(b))
			s.feed(b[:n])
			b = b[n:]
		}
		if !s.done || s.name != "shop.example" {
			t.Errorf("in steps of %d: %q", step, s.name)
		}
	}
	// One handshake message in many records.
	var s helloSniffer
	for b := h[5:]; len(b) > 0; {
		n := min(100, len(b))
		s.feed(append([]byte{22, 3, 1, byte(n >> 8), byte(n)}, b[:n]...))
		b = b[n:]
	}
	if s.name != "shop.example" {
		t.Errorf("in many records: %q", s.name)
	}
	for _, b := range [][]byte{[]byte("SSH-2.0-x"), {22, 3, 1, 0, 0}, {22, 99}, {22, 3, 1, 0, 4, 2, 0, 0, 0}} {
		var s helloSniffer
		if s.feed(b); !s.done || s.name != "" {
			t.Errorf("%q: %+v", b, s)
		}
	}
}

// plainHello returns a record with a small hello that is always the same.
func plainHello(name string) []byte {
	ext := append([]byte{0, 0, 0, byte(len(name) + 5), 0, byte(len(name) + 3), 0, 0, byte(len(name))}, name...)
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0, 2, 0x13, 1, 1, 0, 0, byte(len(ext)))
	body = append(body, ext...)
	msg := append([]byte{1, 0, 0, byte(len(body))}, body...)
	return append([]byte{22, 3, 1, 0, byte(len(msg))}, msg...)
}

// FuzzSNI compares with the parser of crypto/tls: where that reads a name, ours
// reads the same.
func FuzzSNI(f *testing.F) {
	f.Add(plainHello("shop.example"))
	f.Add(plainHello(""))
	f.Add([]byte{22, 3, 1, 0, 4, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var ours helloSniffer
		ours.feed(b)
		if len(ours.message)+len(ours.rest) > 2*maxHello {
			t.Error("too much is kept")
		}
		var theirs string
		seen := false
		c := tls.Server(&replay{r: bytes.NewReader(b)}, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			theirs, seen = h.ServerName, true
			return nil, io.EOF
		}})
		_ = c.Handshake()
		if seen && theirs != "" && ours.name != theirs && len(b) < maxHello {
			t.Errorf("we read %q, crypto/tls %q", ours.name, theirs)
		}
	})
}

type replay struct {
	net.Conn
	r io.Reader
}

func (c *replay) Read(p []byte) (int, error)       { return c.r.Read(p) }
func (c *replay) Write(p []byte) (int, error)      { return len(p), nil }
func (c *replay) Close() error                     { return nil }
func (c *replay) SetDeadline(time.Time) error      { return nil }
func (c *replay) SetReadDeadline(time.Time) error  { return nil }
func (c *replay) SetWriteDeadline(time.Time) error { return nil }

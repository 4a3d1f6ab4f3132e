package proxy

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proxy/hosts"
	"github.com/sealtap/sealtap/proxy/intercept"
)

// wiretap is a proxy that intercepts, with an upstream whose certificate is good
// for example.com and 127.0.0.1.
type wiretap struct {
	*server
	up    *httptest.Server
	to    string         // the upstream's address
	trust *x509.CertPool // the operator's authority
}

func startIntercept(t *testing.T, h http.HandlerFunc, change func(*Config)) *wiretap {
	t.Helper()
	w := &wiretap{trust: x509.NewCertPool()}
	w.up = httptest.NewUnstartedServer(h)
	w.up.EnableHTTP2 = true
	w.up.Config.ErrorLog = nil
	w.up.StartTLS()
	t.Cleanup(func() { w.up.CloseClientConnections(); w.up.Close() })
	w.to = w.up.Listener.Addr().String()
	cert, key, err := intercept.Create("operator", nil, 100*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	w.trust.AppendCertsFromPEM(cert)
	a, err := intercept.Load(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(w.up.Certificate())
	w.server = start(t, "", func(c *Config) {
		c.Forward.Intercept = &Intercept{Authority: a, Hosts: []string{"127.0.0.1", "example.com", "*.internal.example"}, Roots: roots}
		if change != nil {
			change(c)
		}
	})
	return w
}

// client asks through the proxy, and trusts the operator.
func (w *wiretap) client(t *testing.T, user *url.Userinfo, h2 bool) *http.Client {
	tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: w.addr, User: user}), TLSClientConfig: &tls.Config{RootCAs: w.trust}, DisableCompression: true, ForceAttemptHTTP2: h2}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// tunnel opens a tunnel, and TLS in it.
func (w *wiretap) tunnel(t *testing.T, target, sni string, protos ...string) (*tls.Conn, error) {
	t.Helper()
	c := dial(t, w.addr)
	c.send("CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n")
	if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 200 ") {
		t.Fatalf("%q", h)
	}
	if sni == "" {
		sni, _, _ = net.SplitHostPort(target) // addresses are not sent
	}
	tc := tls.Client(c.Conn, &tls.Config{ServerName: sni, RootCAs: w.trust, NextProtos: protos})
	return tc, tc.Handshake()
}

// exchange waits for the response record of a path inside, or of the tunnel.
func (m *memory) exchange(t *testing.T, path string) (q, p *kept) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		all := m.all()
		for i := range all {
			if r := all[i].rec.GetRequest(); r != nil && r.GetPath() == path {
				q = &all[i]
			}
		}
		for i := range all {
			if q != nil && all[i].rec.GetResponse() != nil && bytes.Equal(all[i].rec.GetExchange(), q.rec.GetExchange()) {
				return q, &all[i]
			}
		}
		if time.Now().After(end) {
			t.Fatalf("there is no whole exchange of %q among %d records", path, len(all))
		}
	}
}

func TestIntercept(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%t", h2), func(t *testing.T) {
			settled(t)
			w := startIntercept(t, func(rw http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				fmt.Fprintf(rw, "%s %s %s %s", r.Proto, r.RequestURI, r.Header.Get("Proxy-Authorization"), body)
			}, func(c *Config) { c.Forward.Users = Users{"ann": sha256.Sum256([]byte("pw"))} })
			c := w.client(t, url.UserPassword("ann", "pw"), h2)
			for range 2 {
				_, body := get(t, c, request(t, "POST", "https://"+w.to+"/orders/7%2F8?x=1", strings.NewReader("private")))
				if string(body) != "HTTP/2.0 /orders/7%2F8?x=1  private" {
					t.Errorf("%q", body)
				}
			}
			c.CloseIdleConnections()
			q, p := w.rec.exchange(t, "/orders/7%2F8")
			rq, rp := q.rec.GetRequest(), p.rec.GetResponse()
			host, _, _ := net.SplitHostPort(w.to)
			proto := map[bool]string{true: "HTTP/2.0", false: "HTTP/1.1"}[h2]
			if rq.GetService() != host || rq.GetScheme() != "https" || rq.GetAuthority() != w.to || rq.GetMethod() != "POST" || rq.GetProtocol() != proto || q.opening(t, "query") != "x=1" {
				t.Errorf("%v", rq)
			}
			wantBody(t, "request", rq.GetBody(), []byte("private"))
			wantOutcome(t, p, complete)
			if who := rq.GetWho(); who.GetId() != "ann" || who.GetHow() != "basic" || !who.GetVerified() {
				t.Errorf("who %v", who)
			}
			sum := sha256.Sum256(w.up.Certificate().Raw)
			if a := rp.GetAttempts(); len(a) != 1 || a[0].GetUpstream() != w.to || !bytes.Equal(a[0].GetCertificate(), sum[:]) || a[0].GetStatus() != 200 {
				t.Errorf("attempts %v", a)
			}
			q, p = w.rec.exchange(t, "") // the tunnel, which has no path
			if d := p.rec.GetResponse().GetDetail(); q.rec.GetRequest().GetMethod() != "CONNECT" || !strings.HasPrefix(d, "intercepted: 2 exchanges, ") {
				t.Errorf("%v %q", q.rec.GetRequest(), d)
			}
			if q.credentials()["header:proxy-authorization"] == "" || bytes.Contains(q.entry, []byte("pw")) {
				t.Errorf("credentials %v", q.credentials())
			}
			wantOutcome(t, p, complete)
		})
	}
}

// TestInterceptWebSocket: a WebSocket works inside.
func TestInterceptWebSocket(t *testing.T) {
	settled(t)
	w := startIntercept(t, func(rw http.ResponseWriter, _ *http.Request) {
		c, buf, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		b := make([]byte, 5)
		if _, err := io.ReadFull(buf, b); err == nil {
			_, _ = c.Write(bytes.ToUpper(b))
		}
		_, _ = io.Copy(io.Discard, buf)
	}, nil)
	c, err := w.tunnel(t, w.to, "", "http/1.1")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "GET /chat HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\nhello", w.to)
	br := bufio.NewReader(c)
	if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 101 {
		t.Fatalf("%v %v", res, err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(br, b); err != nil || string(b) != "HELLO" {
		t.Errorf("%q %v", b, err)
	}
	c.Close()
	_, p := w.rec.exchange(t, "/chat")
	if rp := p.rec.GetResponse(); rp.GetStatus() != 101 || rp.GetTunnel().GetUp().GetSize() == 0 {
		t.Errorf("%v", rp)
	}
	_, p = w.rec.exchange(t, "")
	if d := p.rec.GetResponse().GetDetail(); !strings.HasPrefix(d, "intercepted: 1 exchanges") {
		t.Errorf("%q", d)
	}
}

// TestInterceptFronting: what is asked for inside is what the tunnel leads to.
func TestInterceptFronting(t *testing.T) {
	settled(t)
	asked := make(chan string, 8)
	w := startIntercept(t, func(_ http.ResponseWriter, r *http.Request) { asked <- r.Host }, nil)
	for _, c := range []struct{ host, line string }{
		{"other.example", "GET /a HTTP/1.1"}, {"127.0.0.1", "GET /b HTTP/1.1"}, {"127.0.0.1:443", "GET /c HTTP/1.1"}, {"127.0.0.1.evil.example", "GET /d HTTP/1.1"},
	} {
		tc, err := w.tunnel(t, w.to, "")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(tc, "%s\r\nHost: %s\r\nConnection: close\r\n\r\n", c.line, c.host)
		res, err := http.ReadResponse(bufio.NewReader(tc), nil)
		if err != nil || res.StatusCode != 421 || res.Header.Get("Sealtap-Error") != "refused" {
			t.Errorf("%s: %v %v", c.host, res, err)
		}
		tc.Close()
		_, p := w.rec.exchange(t, strings.Fields(c.line)[1])
		wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_REFUSED)
	}
	// Neither another tunnel nor a target in absolute form.
	for _, head := range []string{"CONNECT " + w.to + " HTTP/1.1\r\nHost: " + w.to, "GET https://" + w.to + "/e HTTP/1.1\r\nHost: " + w.to, "OPTIONS * HTTP/1.1\r\nHost: " + w.to} {
		tc, err := w.tunnel(t, w.to, "")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(tc, "%s\r\n\r\n", head)
		if res, err := http.ReadResponse(bufio.NewReader(tc), nil); err != nil || res.StatusCode != 400 {
			t.Errorf("%q: %v %v", head, res, err)
		}
		tc.Close()
	}
	if len(asked) > 0 {
		t.Errorf("the upstream was asked for %s", <-asked)
	}
}

// TestInterceptNames: who names two hosts does not choose between them.
func TestInterceptNames(t *testing.T) {
	settled(t)
	w := startIntercept(t, func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "inside") }, nil)
	// An address with the server name of an intercepted host: that is what the
	// proxy stands for, and what the upstream must prove to be.
	tc, err := w.tunnel(t, w.to, "example.com", "http/1.1")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(w.to)
	fmt.Fprintf(tc, "GET /named HTTP/1.1\r\nHost: example.com:%s\r\nConnection: close\r\n\r\n", port)
	if res, err := http.ReadResponse(bufio.NewReader(tc), nil); err != nil || res.StatusCode != 200 {
		t.Errorf("%v %v", res, err)
	}
	q, _ := w.rec.exchange(t, "/named")
	if q.rec.GetRequest().GetService() != "example.com" {
		t.Errorf("service %q", q.rec.GetRequest().GetService())
	}
	tc.Close()
	// The upstream is not that host.
	tc, err = w.tunnel(t, w.to, "a.internal.example", "http/1.1")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(tc, "GET /unproven HTTP/1.1\r\nHost: a.internal.example:%s\r\n\r\n", port)
	res, err := http.ReadResponse(bufio.NewReader(tc), nil)
	if err != nil || res.StatusCode != 502 || res.Header.Get("Sealtap-Error") != "upstream-unreachable" {
		t.Errorf("%v %v", res, err)
	}
	_, p := w.rec.exchange(t, "/unproven")
	wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_UPSTREAM_UNREACHABLE)
	if a := p.rec.GetResponse().GetAttempts(); len(a) > 0 && a[0].GetCertificate() != nil {
		t.Errorf("a certificate that did not verify stands as verified: %v", a)
	}
	tc.Close()
	in, err := newInterception(&Intercept{Authority: new(intercept.Authority), Hosts: []string{"*.example", "10.0.0.1"}, Except: []string{"bank.example"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ target, sni, stand, why string }{
		{"api.example", "api.example", "api.example", ""},
		{"api.example", "API.Example", "api.example", ""},
		{"api.example", "", "api.example", ""},
		{"api.example", "bank.example", "", "is not the host"},
		{"bank.example", "api.example", "", "is not the host"},
		{"api.example", "other.org", "", "is not the host"},
		{"api.example", "0x7f.1", "", "is not the host"},
		{"other.org", "api.example", "", "is not the host"},
		{"bank.example", "bank.example", "", ""},
		{"bank.example", "", "", ""},
		{"other.org", "other.org", "", ""},
		{"other.org", "more.org", "", ""},
		{"10.0.0.1", "", "10.0.0.1", ""},
		{"10.0.0.1", "other.org", "other.org", ""},
		{"10.0.0.1", "bank.example", "", ""},
		{"10.0.0.2", "api.example", "api.example", ""},
		{"10.0.0.2", "", "", ""},
	} {
		h, _ := hosts.New(c.target)
		stand, why := in.of(h, c.sni)
		if stand.Name != c.stand || (why == "") != (c.why == "") || !strings.Contains(why, c.why) {
			t.Errorf("%+v: %q %q", c, stand.Name, why)
		}
	}
}

// TestInterceptOther: what is not HTTP goes nowhere; what is not TLS, or not
// among the hosts, passes as before.
func TestInterceptOther(t *testing.T) {
	settled(t)
	w := startIntercept(t, func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "inside") }, nil)
	for _, c := range []struct {
		proto, sent string
	}{{"", "SSH-2.0-OpenSSH_9\r\n"}, {"", "\x00\x01\x02 "}, {"http/1.1", preface}, {"h2", "GET / HTTP/1.1\r\n\r\n"}, {"", strings.Repeat("A", 40)}} {
		var protos []string
		if c.proto != "" {
			protos = []string{c.proto}
		}
		n := len(w.rec.all())
		tc, err := w.tunnel(t, w.to, "", protos...)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(tc, c.sent)
		if b, _ := io.ReadAll(tc); len(b) > 0 {
			t.Errorf("%q got %q", c.sent, b)
		}
		tc.Close()
		w.rec.wait(t, n+2)
		_, p := w.rec.last(t)
		wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_REFUSED)
		if d := p.rec.GetResponse().GetDetail(); !strings.Contains(d, "intercepted: 0 exchanges") || !strings.Contains(d, "not HTTP") {
			t.Errorf("%q: %q", c.sent, d)
		}
	}
	// Whoever does not trust the operator sees it.
	w.trust = x509.NewCertPool()
	if _, err := w.tunnel(t, w.to, ""); err == nil {
		t.Error("a client trusts a certificate of an authority that it does not know")
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		e := w.rec.all()
		if p := &e[len(e)-1]; p.rec.GetResponse() != nil && p.rec.GetResponse().GetOutcome() != sealtapv1.Outcome_OUTCOME_REFUSED {
			wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_CLIENT_ABORT)
			break
		} else if time.Now().After(end) {
			t.Fatal("the handshake that failed leaves no record")
		}
	}
	// Not TLS.
	to := echo(t)
	c := dial(t, w.addr)
	c.send("CONNECT " + to + " HTTP/1.1\r\nHost: x\r\n\r\nplain")
	c.head()
	c.expect("PLAIN")
	c.send(" text")
	c.expect(" TEXT")
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	c.expect("bye")
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		e := w.rec.all()
		if p := e[len(e)-1].rec.GetResponse(); p.GetTunnel() != nil {
			wantBody(t, "up", p.GetTunnel().GetUp(), []byte("plain text"))
			wantBody(t, "down", p.GetTunnel().GetDown(), []byte("PLAIN TEXTbye"))
			break
		} else if time.Now().After(end) {
			t.Fatal("the tunnel leaves no record")
		}
	}
}

// TestInterceptServerFirst: an upstream that speaks first is not kept waiting.
func TestInterceptServerFirst(t *testing.T) {
	settled(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.WriteString(c, "220 ready\r\n")
			b, _ := bufio.NewReader(c).ReadString('\n')
			_, _ = io.WriteString(c, "250 "+b)
			c.Close()
		}
	}()
	w := startIntercept(t, func(http.ResponseWriter, *http.Request) {}, nil)
	c := dial(t, w.addr)
	c.send("CONNECT " + l.Addr().String() + " HTTP/1.1\r\nHost: x\r\n\r\n")
	c.head()
	c.expect("220 ready\r\n")
	c.send("EHLO x\r\n")
	c.expect("250 EHLO x\r\n")
	c.Close()
	_, p := w.rec.exchange(t, "")
	wantBody(t, "down", p.rec.GetResponse().GetTunnel().GetDown(), []byte("220 ready\r\n250 EHLO x\r\n"))
}

// TestInterceptStop: a tunnel without a request ends when the proxy is told to
// stop, and one with a request once that is answered.
func TestInterceptStop(t *testing.T) {
	settled(t)
	reached, open := make(chan struct{}), make(chan struct{})
	w := startIntercept(t, func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(reached)
			<-open
		}
		_, _ = io.WriteString(rw, "done")
	}, nil)
	c := w.client(t, nil, true)
	idle, err := w.tunnel(t, w.to, "", "http/1.1")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(idle, "GET /quick HTTP/1.1\r\nHost: %s\r\n\r\n", w.to)
	br := bufio.NewReader(idle)
	if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 200 {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	go func() {
		res, err := c.Get("https://" + w.to + "/slow")
		if err != nil {
			got <- err.Error()
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		got <- string(b)
	}()
	<-reached
	go func() { time.Sleep(20 * time.Millisecond); close(open) }()
	w.stop()
	if s := <-got; s != "done" {
		t.Errorf("%q", s)
	}
	for _, path := range []string{"/slow", "/quick"} {
		_, p := w.rec.exchange(t, path)
		wantOutcome(t, p, complete)
	}
	n := 0
	for _, e := range w.rec.all() {
		if p := e.rec.GetResponse(); p.GetOutcome() == complete && strings.HasPrefix(p.GetDetail(), "intercepted: 1 exchanges") {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d tunnels left their records, want 2", n)
	}
}

// TestHelloNotes: facts about a hello that is passed on.
func TestHelloNotes(t *testing.T) {
	ech := plainHello("outer.example")
	grown := append(bytes.Clone(ech), 0xfe, 0x0d, 0, 1, 0)
	grown[4] += 5
	grown[8] += 5
	grown[5+4+2+32+1+2+2+2+1] += 5 // the length of the extensions
	for _, c := range []struct {
		hello     []byte
		name      string
		encrypted bool
	}{{ech, "outer.example", false}, {grown, "outer.example", true}, {plainHello(""), "", false}} {
		var s helloSniffer
		if s.feed(c.hello); s.name != c.name || s.encrypted != c.encrypted || !s.done {
			t.Errorf("%q %t, want %q %t", s.name, s.encrypted, c.name, c.encrypted)
		}
	}
	settled(t)
	s := start(t, "", nil)
	_, port, _ := net.SplitHostPort(echo(t))
	for i, c := range []struct {
		hello  []byte
		detail string
	}{
		{plainHello("LOCALHOST"), ""},
		{plainHello("other.example"), "the server name in the client's hello is not the host of the tunnel"},
		{grown, "the client's hello has an encrypted part (ECH), and the server name stands outside of it; the server name in the client's hello is not the host of the tunnel"},
		{[]byte("hello"), ""},
	} {
		cc := dial(t, s.addr)
		cc.send("CONNECT localhost:" + port + " HTTP/1.1\r\nHost: x\r\n\r\n" + string(c.hello))
		cc.head()
		cc.expect(string(bytes.ToUpper(c.hello)))
		_ = cc.Conn.(*net.TCPConn).CloseWrite()
		cc.expect("bye")
		s.rec.wait(t, 2*i+2)
		_, p := s.rec.last(t)
		if rp := p.rec.GetResponse(); rp.GetDetail() != c.detail || rp.GetDurationNs() == 0 {
			t.Errorf("%d: %q", i, rp.GetDetail())
		}
	}
}

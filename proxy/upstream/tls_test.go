package upstream

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// secure starts an upstream that speaks TLS.
func secure(t *testing.T, two bool, h http.HandlerFunc) (*httptest.Server, *tls.Config) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = two
	s.StartTLS()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s, s.Client().Transport.(*http.Transport).TLSClientConfig
}

func echo(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	w.Header().Set("X-Proto", r.Proto)
	w.Header().Set("X-Peer", r.RemoteAddr)
	_, _ = w.Write(b)
}

func TestTLS(t *testing.T) {
	settled(t)
	for _, two := range []bool{false, true} {
		up, cfg := secure(t, two, echo)
		tr := newTransport(t, func(c *Config) { c.TLS = cfg })
		peers := make(map[string]bool)
		for _, size := range []int{0, 1, 5000, 20_000, 300_000} {
			for range 3 {
				body := strings.Repeat("x", size)
				var n notes
				res, err := tr.Do(newRequest(t, "POST", up.URL, body), &n)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(res.Body)
				if err != nil || string(b) != body || res.ProtoMajor == 2 != two || res.TLS == nil || len(n.sent) != 1 {
					t.Errorf("HTTP/2 %t: %d bytes of %d, %v, %s, sent %v", two, len(b), size, err, res.Proto, n.sent)
				}
				peers[res.Header.Get("X-Peer")] = true
				res, _ = do(t, tr, streaming(t, up.URL, strings.NewReader(body), -1))
				peers[res.Header.Get("X-Peer")] = true
			}
		}
		if len(peers) != 1 {
			t.Errorf("HTTP/2 %t: connections %v", two, peers)
		}
		if two && len(tr.protocols.ready) != 0 {
			t.Error("a connection waits for nobody")
		}
		tr.CloseIdleConnections()
	}
}

// TestTLSPoisoned: bytes behind an answer may also lie within TLS.
func TestTLSPoisoned(t *testing.T) {
	settled(t)
	s, cfg := secure(t, false, nil)
	for _, when := range []string{"together", "later", "closed"} {
		late := make(chan bool)
		up := listen(t, func(p *peer) {
			c := tls.Server(p.Conn, s.TLS.Clone())
			b := make([]byte, 4096)
			for {
				if n, err := c.Read(b); n == 0 || err != nil {
					return
				}
				if p.no > 1 {
					_, _ = io.WriteString(c, ok)
					continue
				}
				if when == "together" {
					// In one record, behind a body that fills the reader's buffer.
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n"+strings.Repeat("x", 9000)+"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
					continue
				}
				_, _ = io.WriteString(c, ok)
				<-late
				if when == "closed" {
					c.Close()
				} else {
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
				}
				late <- true
			}
		})
		tr := newTransport(t, func(c *Config) { c.TLS = cfg })
		url := "https" + strings.TrimPrefix(up.url, "http")
		do(t, tr, newRequest(t, "POST", url, "x"))
		if when != "together" {
			late <- true
			<-late
			time.Sleep(5 * time.Millisecond)
		}
		if _, b := do(t, tr, newRequest(t, "POST", url, "x")); b != "ok" || up.conns.Load() != 2 {
			t.Errorf("%s: %q, over connection %d", when, b, up.conns.Load())
		}
	}
}

// TestProtocolKnown: which protocol a host speaks is asked once, also by many at
// the same time, and learned anew when it changes.
func TestProtocolKnown(t *testing.T) {
	settled(t)
	up, cfg := secure(t, true, echo)
	tr := newTransport(t, func(c *Config) { c.TLS = cfg })
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 4 {
				if res, b := do(t, tr, newRequest(t, "POST", up.URL, "abc")); b != "abc" || res.ProtoMajor != 2 {
					t.Errorf("%q over %s", b, res.Proto)
				}
			}
		})
	}
	wg.Wait()
	if len(tr.protocols.ready) != 0 {
		t.Error("a connection waits for nobody")
	}
	// The host comes back without HTTP/2.
	address := strings.TrimPrefix(up.URL, "https://")
	up.CloseClientConnections()
	up.Close()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skip("the port was taken by somebody else: ", err)
	}
	old := &http.Server{Handler: http.HandlerFunc(echo), TLSConfig: &tls.Config{Certificates: up.TLS.Certificates, NextProtos: []string{"http/1.1"}}, TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}}
	go old.ServeTLS(l, "", "")
	defer old.Close()
	eventually(t, "net/http knows that its connection is closed", func() bool {
		res, err := tr.RoundTrip(newRequest(t, "GET", "https://"+address, ""))
		if err == nil {
			res.Body.Close()
		}
		return err == nil
	})
	for range 3 {
		if res, b := do(t, tr, newRequest(t, "PUT", "https://"+address, "abc")); b != "abc" || res.ProtoMajor != 1 {
			t.Errorf("%q over %s", b, res.Proto)
		}
	}
	if tr.protocols.is2(address) || tr.idleConns() == 0 {
		t.Errorf("it is still thought to speak HTTP/2; %d idle connections", tr.idleConns())
	}
}

// TestTLSSwitch: there is no upgrade in HTTP/2, so it is not offered then.
func TestTLSSwitch(t *testing.T) {
	settled(t)
	up, cfg := secure(t, true, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			echo(w, r)
			return
		}
		c, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		_, _ = io.Copy(c, buf)
	})
	tr := newTransport(t, func(c *Config) { c.TLS = cfg })
	do(t, tr, newRequest(t, "GET", up.URL, ""))
	r := newRequest(t, "GET", up.URL, "")
	r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
	res, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	rw := res.Body.(io.ReadWriteCloser)
	_, _ = io.WriteString(rw, "abc")
	_ = rw.(interface{ CloseWrite() error }).CloseWrite()
	if b, _ := io.ReadAll(rw); string(b) != "abc" {
		t.Errorf("%q", b)
	}
	rw.Close()
	if res, _ := do(t, tr, newRequest(t, "GET", up.URL, "")); res.ProtoMajor != 2 {
		t.Error("HTTP/2 was forgotten")
	}
}

// TestTLSFails: a certificate that is not known, and a peer that does not speak
// TLS, or not in time.
func TestTLSFails(t *testing.T) {
	settled(t)
	up, _ := secure(t, true, echo)
	silent := listen(t, func(p *peer) { p.gone() })
	plain := answering(t, ok)
	for _, url := range []string{up.URL, "https" + silent.url[4:], "https" + plain.url[4:]} {
		tr := newTransport(t, func(c *Config) { c.HandshakeTimeout = 50 * time.Millisecond })
		if _, err := tr.RoundTrip(newRequest(t, "GET", url, "")); err == nil || tr.knownHosts() != 0 {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// TestH2C goes on through net/http.
func TestH2C(t *testing.T) {
	settled(t)
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(103)
		w.Header().Set("X-Agent", strings.Join(r.Header["User-Agent"], ","))
		echo(w, r)
	}), Protocols: p}
	go srv.Serve(l)
	defer srv.Close()
	tr := newTransport(t, func(c *Config) { c.H2C = true })
	var n notes
	res, err := tr.Do(newRequest(t, "POST", "http://"+l.Addr().String(), "abc"), &n)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(res.Body)
	if string(b) != "abc" || res.ProtoMajor != 2 || res.Header.Get("X-Agent") != "" || len(n.sent) != 1 || len(n.codes) != 1 {
		t.Errorf("%q over %s, %v, observed %v %v", b, res.Proto, res.Header, n.sent, n.codes)
	}
	tr.CloseIdleConnections()
}

// TestLateTicket: what TLS itself sends after the handshake is nothing that was
// said unasked.
func TestLateTicket(t *testing.T) {
	settled(t)
	up := httptest.NewUnstartedServer(http.HandlerFunc(echo))
	up.TLS = &tls.Config{ClientAuth: tls.RequestClientCert} // then tickets come behind the client's last word
	up.StartTLS()
	t.Cleanup(func() { up.CloseClientConnections(); up.Close() })
	tr := newTransport(t, func(c *Config) { c.TLS = up.Client().Transport.(*http.Transport).TLSClientConfig })
	h, err := tr.enter(t.Context(), hostKey{"https", strings.TrimPrefix(up.URL, "https://"), false})
	if err != nil {
		t.Fatal(err)
	}
	c, err := tr.dial(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // for the tickets to arrive
	tr.put(c)
	for range 3 {
		var n notes
		res, err := tr.Do(newRequest(t, "POST", up.URL, "abc"), &n)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(res.Body); string(b) != "abc" || err != nil || len(n.sent) != 1 {
			t.Errorf("%q, %v, sent %v", b, err, n.sent)
		}
	}
}

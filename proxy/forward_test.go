package proxy

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proxy/hosts"
)

func TestRequireUser(t *testing.T) {
	settled(t)
	var leaked atomic.Bool
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		leaked.Store(leaked.Load() || r.Header.Get("Proxy-Authorization") != "")
		_, _ = io.WriteString(w, "ok")
	})
	s := start(t, "", func(c *Config) {
		c.Forward.Users, c.Forward.RequireUser = Users{"ann": sha256.Sum256([]byte("pass:Word9"))}, true
	})
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, c := range []struct {
		header string
		status string
	}{
		{"", "407"}, {basic("ann:pass:Word9"), "200"}, {basic("ann:Word9"), "407"}, {basic("bob:pass:Word9"), "407"}, {basic("ann"), "407"}, {basic("ann:"), "407"},
		{"Bearer x", "407"}, {"Basic !", "407"}, {basic("ann:pass:Word9") + "\r\nProxy-Authorization: " + basic("bob:x"), "407"},
	} {
		for _, line := range []string{"GET " + up + "/", "CONNECT " + strings.TrimPrefix(up, "http://")} {
			n := len(s.rec.all())
			h := c.header
			if h != "" {
				h = "Proxy-Authorization: " + h + "\r\n"
			}
			cc := dial(t, s.addr)
			cc.send(line + " HTTP/1.1\r\nHost: " + hostOf(line) + "\r\n" + h + "\r\n")
			head := cc.head()
			if !strings.HasPrefix(head, "HTTP/1.1 "+c.status+" ") || (c.status == "407") != strings.Contains(head, "Proxy-Authenticate: Basic realm=") {
				t.Errorf("%q: %q", c.header, head)
			}
			cc.Close()
			s.rec.wait(t, n+2)
			q, p := s.rec.last(t)
			rq := q.rec.GetRequest()
			if w, d := rq.GetWho(), rq.GetDecision(); w.GetVerified() != (c.status == "200") || d.GetRule() != "forward.require_user" || d.GetAllowed() != w.GetVerified() {
				t.Errorf("%q: %v", c.header, rq)
			}
			if c.status == "407" {
				wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_DENIED)
			}
			if c.header != "" && q.credentials()["header:proxy-authorization"] == "" {
				t.Errorf("%q leaves no digest", c.header)
			}
		}
	}
	if leaked.Load() {
		t.Error("the upstream got the credential")
	}
	if _, err := New(Config{Recorder: newMemory(), DigestKey: make([]byte, 16), Forward: Forward{RequireUser: true}}); !errors.Is(err, ErrConfig) {
		t.Errorf("no users: %v", err)
	}
}

func TestForwardRules(t *testing.T) {
	settled(t)
	to := echo(t)
	_, port, _ := net.SplitHostPort(to)
	n := netip.MustParseAddrPort(to).Port()
	s := start(t, "", func(c *Config) {
		c.Forward.Ports = []hosts.Ports{{From: 443, To: 443}, {From: n, To: n}}
		c.Forward.AllowHosts, c.Forward.DenyHosts = []string{"localhost", "*.example"}, []string{"bad.example"}
	})
	for _, c := range []struct {
		target, rule string
		allowed      bool
	}{
		{"LOCALHOST:" + port, "forward.hosts.allow", true},
		{"localhost.:" + port, "forward.hosts.allow", true},
		{to, "forward.hosts.allow", false},
		{"localhost:25", "forward.ports", false},
		{"BAD.example.:443", "forward.hosts.deny", false},
		{"other.org:443", "forward.hosts.allow", false},
		{"0x7f.1:443", "forward.form", false},
	} {
		k := len(s.rec.all())
		cc := dial(t, s.addr)
		cc.send("CONNECT " + c.target + " HTTP/1.1\r\nHost: x\r\n\r\n")
		if h := cc.head(); strings.HasPrefix(h, "HTTP/1.1 403 ") == c.allowed {
			t.Errorf("%s: %q", c.target, h)
		}
		cc.Close()
		s.rec.wait(t, k+2)
		q, _ := s.rec.last(t)
		if d := q.rec.GetRequest().GetDecision(); d.GetRule() != c.rule || d.GetAllowed() != c.allowed {
			t.Errorf("%s: %v", c.target, d)
		}
	}
}

// TestSpellings: no way to write an address gets around what is denied.
func TestSpellings(t *testing.T) {
	settled(t)
	up := backend(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "inside") })
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(up, "http://"))
	// The client is elsewhere, by a trusted peer's word, and so reaches no loopback.
	s := start(t, "", func(c *Config) { c.TrustedPeers = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	for _, host := range []string{
		"127.0.0.1", "127.0.0.1.", "localhost", "LocalHost.", "0x7f.1", "0x7f000001", "2130706433", "017700000001", "127.1", "127.0.1", "0177.0.0.1", "127.0.0.0x1", "0", "0.0.0.0",
		"[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[::1%25lo]", "[::1%lo]",
		"[fe80::1%25lo]", "169.254.169.254.", "2852039166", "0xa9fea9fe", "[::ffff:169.254.169.254]",
	} {
		for _, line := range []string{"CONNECT " + host + ":" + port, "GET http://" + host + ":" + port + "/"} {
			cc := dial(t, s.addr)
			cc.send(line + " HTTP/1.1\r\nHost: " + hostOf(line) + "\r\nX-Forwarded-For: 192.0.2.1\r\nConnection: close\r\n\r\n")
			h := cc.head()
			dotted := strings.HasSuffix(host, "t.") && strings.HasPrefix(h, "HTTP/1.1 502 ") // not every resolver knows it
			if !strings.HasPrefix(h, "HTTP/1.1 403 ") && !strings.HasPrefix(h, "HTTP/1.1 400 ") && !dotted {
				t.Errorf("%s: %q", line, h)
			}
			cc.Close()
		}
	}
}

// TestRebinding: names are judged by the address that is dialled, whatever they
// resolved to before, and however many there are.
func TestRebinding(t *testing.T) {
	settled(t)
	up := backend(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "inside") })
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(up, "http://"))
	var asked atomic.Int32
	resolve(t, func(name string) []string {
		switch asked.Add(1); name {
		case "many.test.":
			return []string{"169.254.169.254", "127.0.0.1", "100.100.100.200"}
		case "turns.test.":
			if asked.Load()%2 == 1 {
				return []string{"192.0.2.1"}
			}
		}
		return []string{"127.0.0.1"}
	})
	s := start(t, "", func(c *Config) { c.TrustedPeers = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	for _, host := range []string{"many.test", "one.test"} {
		for _, line := range []string{"CONNECT " + host + ":" + port, "GET http://" + host + ":" + port + "/"} {
			for range 2 {
				cc := dial(t, s.addr)
				cc.send(line + " HTTP/1.1\r\nHost: " + hostOf(line) + "\r\nX-Forwarded-For: 192.0.2.1\r\nConnection: close\r\n\r\n")
				if h := cc.head(); !strings.HasPrefix(h, "HTTP/1.1 403 ") {
					t.Errorf("%s: %q", line, h)
				}
				cc.Close()
			}
		}
	}
	// Nothing that was looked up before is believed: both answers go through the
	// check of the address that is dialled.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range 4 {
		if names, err := net.DefaultResolver.LookupHost(ctx, "turns.test"); err != nil || len(names) != 1 {
			t.Fatal(names, err)
		}
		asked.Store(int32(2*i + 1)) // the next answer is the loopback one
		if _, err := s.targets.far.dialer.DialContext(ctx, "tcp", "turns.test:"+port); !errors.As(err, new(deniedError)) {
			t.Errorf("%v", err)
		}
	}
	if asked.Load() == 0 {
		t.Error("the resolver was not asked")
	}
}

// resolve answers all look-ups for names of the test by f, until that ends.
func resolve(t *testing.T, f func(name string) []string) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if out := answerDNS(b[:n], f); out != nil {
				_, _ = c.WriteTo(out, from)
			}
		}
	}()
	old := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", c.LocalAddr().String())
	}}
	t.Cleanup(func() { net.DefaultResolver = old; c.Close(); <-done })
}

// answerDNS answers a question for addresses (RFC 1035, section 4).
func answerDNS(q []byte, f func(name string) []string) []byte {
	end, name := 12, ""
	for end < len(q) && q[end] != 0 {
		n := int(q[end])
		if end+1+n > len(q) {
			return nil
		}
		name += string(q[end+1:end+1+n]) + "."
		end += 1 + n
	}
	if end += 5; end > len(q) {
		return nil
	}
	out := append([]byte{q[0], q[1], 0x84, 0, 0, 1, 0, 0, 0, 0, 0, 0}, q[12:end]...)
	if q[end-3] == 1 { // A
		for _, text := range f(name) {
			out[7]++
			out = append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
			out = append(out, netip.MustParseAddr(text).AsSlice()...)
		}
	}
	return out
}

// hostOf is the host in the beginning of a request line.
func hostOf(line string) string {
	_, target, _ := strings.Cut(line, " ")
	return strings.Trim(strings.TrimPrefix(target, "http:"), "/")
}

package proxy

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestPlaces(t *testing.T) {
	for name, want := range map[string]string{
		"access_token": "access_token", "user[password]": "user[password]", "__Host-sid": "__Host-sid", "": "",
		"token=hunter2": "…", "cb?code=hunter2&session_state": "…", "a/b": "…", "ann@example.com": "…", strings.Repeat("a", 65): "…", "pässe": "…",
	} {
		if got := placeName(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

// TestDetailsHoldNoAddresses: the address of a client, which is sealed, does not
// stand in the words about how its exchange ended.
func TestDetailsHoldNoAddresses(t *testing.T) {
	settled(t)
	up := rawBackend(t, func(c net.Conn, r *http.Request) {
		if r.ContentLength > 0 {
			_, _ = io.Copy(io.Discard, r.Body)
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for err := error(nil); err == nil; {
			_, err = io.WriteString(c, "400\r\n"+strings.Repeat("x", 1024)+"\r\n")
		}
	})
	reverse, forward := start(t, up, nil), start(t, "", nil)
	socks := forward.startSOCKS(t)
	target := echo(t)
	for _, c := range []struct {
		name string
		s    *server
		addr string
		send string
		head bool
	}{
		{"answer", reverse, reverse.addr, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", true},
		{"body", reverse, reverse.addr, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nabc", false},
		{"small body", reverse, reverse.addr, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc", false},
		{"tunnel", forward, forward.addr, "CONNECT " + target + " HTTP/1.1\r\nHost: x\r\n\r\n", true},
		{"SOCKS", forward, socks, "\x05", false},
	} {
		n := len(c.s.rec.all())
		cc := dial(t, c.addr)
		own := cc.LocalAddr().String()
		cc.send(c.send)
		if c.head {
			cc.head()
		}
		time.Sleep(20 * time.Millisecond) // so that it waits by then
		_ = cc.Conn.(*net.TCPConn).SetLinger(0)
		cc.Close()
		c.s.rec.wait(t, n+2)
		_, p := c.s.rec.last(t)
		if d := p.rec.GetResponse().GetDetail(); d == "" || strings.Contains(d, own) {
			t.Errorf("%s: %q", c.name, d)
		}
	}
	// The address that could not be dialled stays: it says what is wrong.
	_, err := net.DialTimeout("tcp", strings.TrimPrefix(dead(t), "http://"), time.Second)
	if err == nil || brief(err) != err.Error() {
		t.Errorf("%v became %s", err, brief(err))
	}
	if got := brief(errors.New(`http2: server sent GOAWAY and closed the connection; LastStreamID=1, ErrCode=NO_ERROR, debug="hunter2"`)); strings.Contains(got, "hunter2") {
		t.Error(got)
	}
}

// TestErrorPagesTellNoAddresses: where a reverse proxy asks is in the record, and
// not for everybody to read.
func TestErrorPagesTellNoAddresses(t *testing.T) {
	settled(t)
	cut := rawBackend(t, func(c net.Conn, _ *http.Request) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")
	})
	for _, up := range []string{dead(t), cut} {
		s := start(t, up, nil)
		res, body := get(t, client(t), request(t, "GET", s.url("/"), nil))
		host := strings.TrimPrefix(up, "http://")
		if res.StatusCode != http.StatusBadGateway || bytes.Contains(body, []byte(host)) || !bytes.Contains(body, []byte("the upstream gave no answer")) && !bytes.Contains(body, []byte("did not come to its end")) {
			t.Errorf("%d %s", res.StatusCode, body)
		}
		_, p := s.rec.last(t)
		if d := p.rec.GetResponse().GetDetail(); up != cut && !strings.Contains(d, host) {
			t.Errorf("the record says %q", d)
		}
		wantBody(t, "sent", p.rec.GetResponse().GetSent(), body)
	}
}

// TestUserHeaderTwice: of two names of the user one may be the client's own.
func TestUserHeaderTwice(t *testing.T) {
	s := start(t, backend(t, func(http.ResponseWriter, *http.Request) {}), func(c *Config) {
		c.UserHeader, c.TrustedPeers = "X-User", []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	req := request(t, "GET", s.url("/"), nil)
	req.Header["X-User"] = []string{"admin", "bob"}
	get(t, client(t), req)
	if q, _ := s.rec.last(t); q.rec.GetRequest().GetWho() != nil {
		t.Errorf("%v", q.rec.GetRequest().GetWho())
	}
}

// TestNoSPIFFEByOtherNames: what reads like a SPIFFE ID and is no URI of a
// certificate names nobody as one.
func TestNoSPIFFEByOtherNames(t *testing.T) {
	const forged = "spiffe://acme.example/admin"
	a, _ := url.Parse("spiffe://acme.example/a")
	for _, c := range []x509.Certificate{
		{Subject: pkix.Name{CommonName: forged}},
		{Subject: pkix.Name{CommonName: "SPIFFE://acme.example/admin"}, URIs: []*url.URL{a, a}},
		{EmailAddresses: []string{forged}, DNSNames: []string{forged}},
	} {
		if name := certificateName(&c); spiffeLike(name) {
			t.Errorf("%q", name)
		}
	}
	c := x509.Certificate{Subject: pkix.Name{CommonName: forged}, DNSNames: []string{"a.example"}}
	if name := certificateName(&c); name != "a.example" {
		t.Errorf("%q", name)
	}
	for _, header := range []string{`Subject="CN=` + forged + `"`, `Subject="CN=` + forged + `";DNS=` + forged, `DNS=` + forged, `URI=spiffe://a/b;URI=spiffe://a/c;Subject="` + forged + `"`} {
		if e, ok := parseXFCC(header); !ok || spiffeLike(e.name()) {
			t.Errorf("%s: %q", header, e.name())
		}
	}
}

// TestDeniedAsTheyAre: ranges of IPv6 are denied though their addresses stand for
// IPv4 ones.
func TestDeniedAsTheyAre(t *testing.T) {
	p := start(t, "", nil).Proxy
	for _, c := range []struct {
		addr, deny string
		want       bool
	}{
		{"[64:ff9b::808:808]:80", "64:ff9b::/96", false},
		{"[64:ff9b::808:808]:80", "8.8.8.0/24", false},
		{"[64:ff9b::808:808]:80", "10.0.0.0/8", true},
		{"[2002:808:808::1]:80", "2002::/16", false},
		{"[::ffff:8.8.8.8]:80", "8.8.8.8/32", false},
		{"[::ffff:0:169.254.169.254]:80", "10.0.0.0/8", false}, // RFC 2765
		{"[2001:db8::1]:80", "2002::/16", true},
	} {
		p.cfg.Forward.DenyCIDRs = []netip.Prefix{netip.MustParsePrefix(c.deny)}
		if err := p.checkTarget(netip.MustParseAddrPort(c.addr), false); (err == nil) != c.want {
			t.Errorf("%+v: %v", c, err)
		}
	}
	p.cfg.Forward = Forward{}
}

// TestOwnListeners: what else the process listens on is not reached either.
func TestOwnListeners(t *testing.T) {
	settled(t)
	admin := backend(t, func(http.ResponseWriter, *http.Request) { t.Error("reached") })
	host := strings.TrimPrefix(admin, "http://")
	s := start(t, "", func(c *Config) { c.Forward.Own = []netip.AddrPort{netip.MustParseAddrPort(host)} })
	c := dial(t, s.addr)
	c.send("GET " + admin + "/ HTTP/1.1\r\nHost: " + host + "\r\n\r\n")
	if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 403 ") {
		t.Error(h)
	}
}

// TestRedactingTakesNoTime: no text keeps the search for secrets busy for longer
// than its length deserves.
func TestRedactingTakesNoTime(t *testing.T) {
	const most = 64 << 10 // bytes of a head
	for _, unit := range []string{"a=%", "=", "%", "a=", "%25", "%253D", ":", `":`, `"a":"`, "eyJ", "eyJ.", "eyJa.b.", "://", "://@", "@", "?", "a%3D=", "&a=%3D", "a=%3D%26", "%3Da", ";", "x=y%", `\"`, "a: "} {
		text := strings.Repeat(unit, most/len(unit))
		for name, f := range map[string]func(){
			"text":  func() { redactText(text, func(string, string) {}) },
			"query": func() { redactQuery(text, func(string, string) {}) },
			"value": func() { redactQuery("x="+text, func(string, string) {}) },
			"name":  func() { secretName(text) },
			"JSON":  func() { secretMember(text) },
		} {
			start := time.Now()
			f()
			if took := time.Since(start); took > 2*time.Second { // some milliseconds, or else days
				t.Errorf("%s of %q takes %v", name, unit, took)
			}
		}
	}
}

// TestManyCookies: the credentials that are too many stand together in one digest,
// which changes with each of them.
func TestManyCookies(t *testing.T) {
	settled(t)
	s := start(t, backend(t, func(http.ResponseWriter, *http.Request) {}), nil)
	others := func(last string) string {
		var b strings.Builder
		for i := range 5000 {
			fmt.Fprintf(&b, "a%d=%d; ", i, i)
		}
		r := request(t, "GET", s.url("/"), nil)
		r.Header.Set("Cookie", b.String()+"z="+last)
		res, _ := get(t, client(t), r)
		if res.StatusCode != http.StatusOK {
			t.Fatal(res.Status)
		}
		q, _ := s.rec.last(t)
		list := q.rec.GetRequest().GetCredentials()
		if n := len(list); n != maxCredentials || list[n-1].GetPlace() != "others" || list[n-2].GetPlace() == "others" {
			t.Fatalf("%d credentials, the last at %q", n, list[n-1].GetPlace())
		}
		return string(list[maxCredentials-1].GetDigest())
	}
	if a, again, b := others("1"), others("1"), others("2"); a != again || a == b {
		t.Errorf("digests %x, %x, %x", a, again, b)
	}
}

// TestSuspicious: what secretMember would find is looked for.
func TestSuspicious(t *testing.T) {
	for _, s := range []string{`{"token":"abc"}`, `{"token" : "abc"}`, "{\"password\"\t: \"hunter2\"}", `{token: "abc"}`, `x token:"abc"`, `{\"token\": 7}`} {
		if !secretMember(s) || !suspicious(s) {
			t.Errorf("%q: a secret %t, suspicious %t", s, secretMember(s), suspicious(s))
		}
	}
}

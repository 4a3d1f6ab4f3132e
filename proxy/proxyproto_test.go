package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func v2(command, family byte, body string) string {
	return proxySignature + string([]byte{command, family, byte(len(body) >> 8), byte(len(body))}) + body
}

const (
	body4 = "\xc0\x00\x02\x01\x0a\x00\x00\x01\x30\x39\x00\x50" // 192.0.2.1:12345 to 10.0.0.1:80
	tlv   = "\x04\x00\x03abc"
)

func body6() string {
	b := make([]byte, 36)
	b[0], b[1], b[15] = 0x20, 0x01, 9
	binary.BigEndian.PutUint16(b[32:], 443)
	return string(b)
}

func checksummed() string {
	h := []byte(v2(0x21, 0x11, body4+tlv+"\x03\x00\x04\x00\x00\x00\x00"))
	binary.BigEndian.PutUint32(h[len(h)-4:], crc32.Checksum(h, crc32.MakeTable(crc32.Castagnoli)))
	return string(h)
}

func TestProxyHeader(t *testing.T) {
	unix := string(append([]byte("/run/app.sock"), make([]byte, 216-13)...))
	for in, want := range map[string]string{
		"PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\n":                   "192.0.2.1:12345",
		"PROXY TCP6 2001::9 ::1 443 80\r\n":                            "[2001::9]:443",
		"PROXY UNKNOWN\r\n":                                            "",
		"PROXY UNKNOWN whatever may stand here\r\n":                    "",
		v2(0x21, 0x11, body4):                                          "192.0.2.1:12345",
		v2(0x21, 0x11, body4+tlv):                                      "192.0.2.1:12345",
		v2(0x21, 0x21, body6()):                                        "[2001::9]:443",
		v2(0x21, 0x31, unix):                                           "unix:/run/app.sock",
		v2(0x20, 0x00, ""):                                             "",
		v2(0x20, 0x11, body4):                                          "",
		v2(0x21, 0x00, "anything"):                                     "",
		v2(0x21, 0x11, body4+"\x04\x0e\x00"+strings.Repeat("x", 3584)): "192.0.2.1:12345",
		checksummed():                                                  "192.0.2.1:12345",
	} {
		r := strings.NewReader(in + "GET")
		got, err := readProxyHeader(r)
		rest, _ := io.ReadAll(r)
		if err != nil || string(got) != want || string(rest) != "GET" {
			t.Errorf("%.60q: %q, %v, behind it %q", in, got, err, rest)
		}
	}
	for _, bad := range []string{
		"", "GET / HTTP/1.1\r\n", "PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\n", "PROXY TCP4 192.0.2.1 10.0.0.1 012345 80\r\n", "PROXY TCP4 192.0.2.1 10.0.0.1 99999 80\r\n",
		"PROXY TCP4 192.0.2.01 10.0.0.1 1 80\r\n", "PROXY TCP4 ::1 ::1 1 80\r\n", "PROXY TCP6 1.2.3.4 1.2.3.4 1 80\r\n", "PROXY TCP6 fe80::1%eth0 ::1 1 80\r\n",
		"PROXY  TCP4 192.0.2.1 10.0.0.1 1 80\r\n", "PROXY TCP4 192.0.2.1 10.0.0.1 1 80 \r\n", "PROXY UNKNOWNX\r\n", "proxy TCP4 192.0.2.1 10.0.0.1 1 80\r\n", "PROXY UNKNOWN " + strings.Repeat("x", 200) + "\r\n",
		v2(0x22, 0x11, body4), v2(0x11, 0x11, body4), v2(0x21, 0x12, body4), v2(0x21, 0x11, body4[:11]), v2(0x21, 0x11, body4)[:20], v2(0x21, 0x11, body4+"\x04\x00"),
		v2(0x21, 0x11, body4+"\x04\x00\x09abc"), v2(0x21, 0x11, body4+strings.Repeat("x", longestV2)), strings.Replace(checksummed(), "abc", "abd", 1),
		v2(0x21, 0x11, body4+"\x03\x00\x02ab"),
	} {
		if got, err := readProxyHeader(strings.NewReader(bad)); err == nil {
			t.Errorf("%.60q is taken for %q", bad, got)
		}
	}
}

func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\n"))
	f.Add([]byte(v2(0x21, 0x21, body6()+tlv)))
	f.Add([]byte(checksummed()))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		got, err := readProxyHeader(r)
		if read := len(data) - r.Len(); read > longestV2+16 {
			t.Errorf("%d bytes were read", read)
		}
		if err == nil && got != "" && !strings.HasPrefix(string(got), "unix:") {
			if _, err := netip.ParseAddrPort(string(got)); err != nil {
				t.Error(err)
			}
		}
	})
}

func greeting(peers string, more func(*Config)) func(*Config) {
	return func(c *Config) {
		c.ProxyProtocol = []netip.Prefix{netip.MustParsePrefix(peers)}
		c.Timeouts.RequestHeader = 500 * time.Millisecond
		if more != nil {
			more(c)
		}
	}
}

const plainGet = "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 9.9.9.9\r\nConnection: close\r\n\r\n"

func TestProxyProtocol(t *testing.T) {
	settled(t)
	var forwarded string
	up := backend(t, func(_ http.ResponseWriter, r *http.Request) { forwarded = r.Header.Get("X-Forwarded-For") })
	// The peer is trusted itself; whom it speaks for is not.
	s := start(t, up, greeting("127.0.0.0/8", func(c *Config) { c.TrustedPeers = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} }))
	for header, want := range map[string]string{"PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\n": "192.0.2.1:12345", v2(0x21, 0x21, body6()+tlv): "[2001::9]:443"} {
		c := dial(t, s.addr)
		for _, b := range []byte(header) { // a byte at a time
			c.send(string([]byte{b}))
			time.Sleep(time.Millisecond)
		}
		c.send(plainGet)
		if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 200") {
			t.Fatal(head)
		}
		if q, _ := s.rec.last(t); q.opening(t, "source") != want || forwarded != netip.MustParseAddrPort(want).Addr().String() {
			t.Errorf("source %q, forwarded for %q", q.opening(t, "source"), forwarded)
		}
	}
	c := dial(t, s.addr)
	c.send(v2(0x20, 0, "") + plainGet) // the peer for itself
	if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 200") {
		t.Fatal(head)
	}
	if q, _ := s.rec.last(t); q.opening(t, "source") != "9.9.9.9" {
		t.Errorf("source %q", q.opening(t, "source"))
	}
	before := len(s.rec.all())
	for _, bad := range []string{plainGet, "PROXY garbage\r\n" + plainGet, v2(0x21, 0x11, body4+strings.Repeat("x", 5000)) + plainGet, "PROXY TC"} {
		c := dial(t, s.addr)
		if _, err := io.WriteString(c, bad); err != nil {
			continue
		}
		if rest, err := c.rest(); rest != "" || isTimeout(err) { // it ends, at the latest when time is up
			t.Errorf("%.20q is answered %q, %v", bad, rest, err)
		}
	}
	if len(s.rec.all()) != before {
		t.Error("a connection without its header leads to an exchange")
	}
	// One that is silent does not hold up the proxy's stop.
	s = start(t, up, greeting("127.0.0.0/8", func(c *Config) { c.Timeouts.RequestHeader = time.Minute }))
	c = dial(t, s.addr)
	time.Sleep(50 * time.Millisecond)
	s.stop()
	if _, err := c.rest(); isTimeout(err) {
		t.Error("a connection stays open when the proxy has stopped")
	}
}

func TestProxyProtocolOfOthers(t *testing.T) {
	settled(t)
	ca := newPKI(t)
	up := backend(t, func(http.ResponseWriter, *http.Request) {})
	s := start(t, up, greeting("10.0.0.0/8", nil))
	c := dial(t, s.addr)
	c.send("PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\n" + plainGet)
	if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 400") {
		t.Error(head)
	}
	c = dial(t, s.addr)
	c.send(plainGet)
	if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 200") {
		t.Error(head)
	}
	if q, _ := s.rec.last(t); !strings.HasPrefix(q.opening(t, "source"), "127.0.0.1:") {
		t.Errorf("source %q", q.opening(t, "source"))
	}
	// TLS begins behind the header.
	s = start(t, up, greeting("127.0.0.0/8", func(c *Config) { c.TLS = ca.server() }))
	behind := &http.Client{Transport: &http.Transport{TLSClientConfig: ca.client(t, true).Transport.(*http.Transport).TLSClientConfig, DisableKeepAlives: true,
		DialContext: dialBehind(s.addr, "PROXY TCP4 192.0.2.7 10.0.0.1 1 80\r\n")}}
	get(t, behind, request(t, "GET", "https://proxy/", nil))
	if q, _ := s.rec.last(t); q.opening(t, "source") != "192.0.2.7:1" || q.rec.GetRequest().GetWho().GetHow() != "mtls" {
		t.Errorf("%v", q.rec)
	}
}

func dialBehind(addr, header string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			_, err = io.WriteString(c, header)
		}
		return c, err
	}
}

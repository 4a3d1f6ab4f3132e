package proxy

import (
	"context"
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

	"filippo.io/age"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proxy/route"
	"github.com/sealtap/sealtap/proxy/rules"
	"github.com/sealtap/sealtap/proxy/spool"
	"github.com/sealtap/sealtap/record"
)

// spooled is a recorder that has everything in memory, and in a real spool as well.
type spooled struct {
	*memory
	spool *spool.Spool
}

func (s spooled) Record(ctx context.Context, r *sealtapv1.Record, openings []*sealtapv1.Opening) error {
	return errors.Join(s.memory.Record(ctx, r, openings), s.spool.Record(ctx, r, openings))
}

// openSmallSpool opens a spool whose files are as small as the configuration lets
// them be.
func openSmallSpool(t *testing.T) *spool.Spool {
	t.Helper()
	key, err := keys.Generate("example.com/proxy", keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	s, err := spool.Open(spool.Config{Dir: t.TempDir(), Key: key, Recipients: []age.Recipient{reader.Recipient()}, SegmentSize: 1 << 20, MaxBytes: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background(), "test"); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestEntryFits: whatever a client and an upstream send, with everything at its
// longest at once, what is recorded of it fits an entry, and its openings the
// smallest spool.
func TestEntryFits(t *testing.T) {
	settled(t)
	const most = 1 << 20 // of a head: the configuration allows no more
	long := func(s string, n int) string { return strings.Repeat(s, n) }
	var b strings.Builder
	for i := range 350 {
		fmt.Fprintf(&b, "X-%s: %s\r\n", long("a", 200), long("v", 950))
		fmt.Fprintf(&b, "X-Token-%s-%d: \xff%s\r\n", long("n", 200), i, long("v", 100))
		if i <= maxChanges {
			fmt.Fprintf(&b, "Sealtap-%s-%d: pw=1&pw=2\r\n", long("n", 200), i)
		}
	}
	up := rawBackend(t, func(c net.Conn, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(c, long("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 9)+"HTTP/1.1 103 Early Hints\r\n"+b.String()+
			"\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Late\r\n"+b.String()+"\r\n1\r\nx\r\n0\r\nLate: "+long("l", 60_000)+"\r\n"+b.String()+"\r\n")
	})
	idp, names := newIssuer(t, "k"), []string(nil)
	claims := map[string]any{"sub": long("s", 600), "iss": long("i", 300)}
	for i := range maxClaims {
		names = append(names, fmt.Sprintf("%d%s", i, long("c", maxClaimName-1)))
		claims[names[i]] = long("C", 300)
	}
	call := `[{"jsonrpc":"2.0","method":"` + long("m", 300) + `"},{"jsonrpc":"2.0","method":"tools/call","params":{"name":"` + long("t", 300) + `"}}]`
	head := "POST /" + long("p\xff", 100_000) + "?" + long("q\xfe&", 60_000) + "password=z" + " HTTP/1.1\r\nHost: " + long("h", 60_000) + "\r\n" +
		"Authorization: Bearer " + idp.token(claims) + "\r\nContent-Type: application/json\r\n" + fmt.Sprintf("Content-Length: %d\r\n", len(call)) + b.String() + "\r\n"
	if len(head) > most {
		t.Fatalf("the head has %d bytes", len(head))
	}
	for name, seal := range map[string][]string{"default": nil, "nothing": {}, "everything": {"source", "query", "headers", "path", "who"}} {
		m := newMemory()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := startOn(t, l, func(c *Config) {
			c.Recorder, c.MaxHeaderBytes, c.Seal, c.Service = spooled{m, openSmallSpool(t)}, most, seal, ""
			c.OpenHeaders = []string{"X-" + long("a", 200)}
			c.JWT = &JWT{Keys: idp.set(), Claims: names}
			c.ProxyProtocol = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
			target := to(t, up)
			c.Pools = []Pool{{Name: "a", Targets: []*url.URL{target, target}}}
			c.Routes = []Route{{Rule: route.Rule{Prefix: "/"}, Service: long("s", 253), Upstream: "a", Templates: []string{"/{" + long("t", 600) + "...}"},
				Policy: Policy{Rules: []rules.Rule{{Name: long("r", rules.MaxName), Allow: "true"}}}}}
		})
		c := dial(t, s.addr)
		// From a Unix socket whose name is no text, as a trusted peer says.
		c.send(proxySignature + "\x21\x31\x00\xd8" + long("\xff", 216) + head + call)
		if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 103 ") {
			t.Fatalf("%s: %.300s", name, h)
		}
		q, p := m.last(t)
		if len(q.entry) > record.MaxEntry || len(p.entry) > record.MaxEntry {
			t.Errorf("%s: %d, %d bytes", name, len(q.entry), len(p.entry))
		}
		r := q.rec.GetRequest()
		if name == "nothing" && (len(q.entry) < 60_000 || len(r.GetHeaders()) <= maxHeaderLines || len(r.GetCredentials()) != maxCredentials || len(r.GetChanges()) != maxChanges+1 ||
			len(r.GetWho().GetClaims()) != maxClaims || !r.GetWho().GetVerified() || r.GetDecision() == nil || len(r.GetOperation().GetTarget()) != maxOperation || len(r.GetTemplate()) != maxTemplate) {
			t.Errorf("not everything is at its longest: %d bytes, %d headers, %d credentials, %d changes, %d claims", len(q.entry), len(r.GetHeaders()), len(r.GetCredentials()), len(r.GetChanges()), len(r.GetWho().GetClaims()))
		}
		for what, text := range map[string]string{"path": r.GetPath(), "authority": r.GetAuthority()} {
			if (name != "everything" || what != "path") && !strings.Contains(text, digestMark) {
				t.Errorf("%s: that the %s is longer is not said: %.80q", name, what, text)
			}
		}
		if n := len(p.rec.GetResponse().GetHeaders()); name == "nothing" && n <= maxHeaderLines {
			t.Errorf("not everything of the answer is at its longest: %d headers", n)
		}
		q.headers(t)
		p.headers(t)
		if name != "nothing" && !strings.Contains(q.opening(t, record.FieldQuery), digestMark) {
			t.Errorf("%s: that the sealed query is longer is not said", name)
		}
	}
}

// TestProgressFits: nothing that others choose stands in a record of progress, nor
// in the end of a tunnel but the server name.
func TestProgressFits(t *testing.T) {
	settled(t)
	s := start(t, "", func(c *Config) { c.Progress.Every = 10 * time.Millisecond })
	target := echo(t)
	c := dial(t, s.addr)
	c.send("CONNECT " + target + " HTTP/1.1\r\nHost: x\r\n\r\n")
	c.head()
	c.send(string(hello(t, strings.Repeat("a.", 120)+"example")))
	for end := time.Now().Add(10 * time.Second); len(s.rec.all()) < 2 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	_, _ = c.rest()
	_, p := s.rec.last(t)
	for _, k := range s.rec.all()[1:] {
		if len(k.entry) > 1<<10 {
			t.Errorf("%d bytes: %v", len(k.entry), k.rec)
		}
	}
	if name := p.rec.GetResponse().GetTunnel().GetSni(); len(name) > maxServerName || !strings.HasPrefix(name, "a.a.") {
		t.Errorf("%q", name)
	}
}

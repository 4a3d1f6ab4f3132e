package proxy

import (
	"crypto/sha256"
	"net"
	"net/netip"
	"strings"
	"testing"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proxy/hosts"
)

// startSOCKS serves SOCKS5 beside the proxy, and returns the address.
func (s *server) startSOCKS(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ctx := t.Context()
	go func() { done <- s.RunSOCKS(ctx, l) }()
	t.Cleanup(func() { // after the context of the test has ended
		if err := <-done; err != nil {
			t.Errorf("RunSOCKS: %v", err)
		}
	})
	return l.Addr().String()
}

func socksTarget(t *testing.T, to string) string {
	ap := netip.MustParseAddrPort(to)
	return "\x01" + string(ap.Addr().AsSlice()) + string([]byte{byte(ap.Port() >> 8), byte(ap.Port())})
}

func socksName(name string, port int) string {
	return "\x03" + string([]byte{byte(len(name))}) + name + string([]byte{byte(port >> 8), byte(port)})
}

const socksDone = "\x00\x01\x00\x00\x00\x00\x00\x00"

func TestSOCKS(t *testing.T) {
	settled(t)
	to := echo(t)
	s := start(t, "", func(c *Config) { c.Forward.Users = Users{"ann": sha256.Sum256([]byte("pw"))} })
	addr := s.startSOCKS(t)
	for i, named := range []bool{false, true} {
		c := dial(t, addr)
		if named {
			c.send("\x05\x02\x00\x02")
			c.expect("\x05\x02")
			c.send("\x01\x03ann\x02pw")
			c.expect("\x01\x00")
			c.send("\x05\x01\x00" + socksName("localhost", int(netip.MustParseAddrPort(to).Port())))
		} else {
			c.send("\x05\x01\x00")
			c.expect("\x05\x00")
			c.send("\x05\x01\x00" + socksTarget(t, to))
		}
		c.expect("\x05\x00" + socksDone)
		c.send("hello")
		c.expect("HELLO")
		_ = c.Conn.(*net.TCPConn).CloseWrite()
		c.expect("bye")
		if rest, err := c.rest(); rest != "" || err != nil {
			t.Errorf("%q %v", rest, err)
		}
		s.rec.wait(t, 2*i+2)
		q, p := s.rec.last(t)
		wantOutcome(t, p, complete)
		rq := q.rec.GetRequest()
		wantBody(t, "up", p.rec.GetResponse().GetTunnel().GetUp(), []byte("hello"))
		if rq.GetMethod() != "CONNECT" || rq.GetProtocol() != "SOCKS5" || rq.GetScheme() != "" || q.opening(t, "source") == "" {
			t.Errorf("%v", rq)
		}
		who := rq.GetWho()
		if named != (who.GetId() == "ann" && who.GetHow() == "socks" && who.GetVerified()) || named != (q.credentials()["socks5:password"] != "") || !named && rq.GetAuthority() != to {
			t.Errorf("named %t: %v", named, rq)
		}
	}
}

func TestSOCKSRefused(t *testing.T) {
	settled(t)
	s := start(t, "", func(c *Config) {
		c.Forward.Users = Users{"ann": sha256.Sum256([]byte("pw"))}
		c.Forward.DenyHosts = []string{"*.evil.example"}
	})
	addr := s.startSOCKS(t)
	hi := "\x05\x01\x00"
	denied, refused := sealtapv1.Outcome_OUTCOME_DENIED, sealtapv1.Outcome_OUTCOME_REFUSED
	for _, c := range []struct {
		name, send, want string
		outcome          sealtapv1.Outcome
		method           string
	}{
		{"metadata", hi + "\x05\x01\x00" + socksTarget(t, "169.254.169.254:80"), "\x05\x00\x05\x02" + socksDone, denied, "CONNECT"},
		{"mapped", hi + "\x05\x01\x00\x04" + string(netip.MustParseAddr("::ffff:169.254.169.254").AsSlice()) + "\x00P", "\x05\x00\x05\x02" + socksDone, denied, "CONNECT"},
		{"decimal", hi + "\x05\x01\x00" + socksName("2852039166", 80), "\x05\x00\x05\x02" + socksDone, denied, "CONNECT"},
		{"denied host", hi + "\x05\x01\x00" + socksName("a.EVIL.example.", 80), "\x05\x00\x05\x02" + socksDone, denied, "CONNECT"},
		{"mail", hi + "\x05\x01\x00" + socksName("localhost", 25), "\x05\x00\x05\x02" + socksDone, denied, "CONNECT"},
		{"bind", hi + "\x05\x02\x00" + socksTarget(t, "127.0.0.1:80"), "\x05\x00\x05\x07" + socksDone, refused, "BIND"},
		{"udp", hi + "\x05\x03\x00" + socksTarget(t, "127.0.0.1:80"), "\x05\x00\x05\x07" + socksDone, refused, "UDP ASSOCIATE"},
		{"command", hi + "\x05\x09\x00" + socksTarget(t, "127.0.0.1:80"), "\x05\x00\x05\x07" + socksDone, refused, ""},
		{"type", hi + "\x05\x01\x00\x02", "\x05\x00\x05\x08" + socksDone, refused, ""},
		{"port 0", hi + "\x05\x01\x00" + socksTarget(t, "127.0.0.1:0"), "\x05\x00\x05\x01" + socksDone, refused, "CONNECT"},
		{"name with NUL", hi + "\x05\x01\x00" + socksName("a\x00b", 80), "\x05\x00\x05\x02" + socksDone, denied, "CONNECT"},
		{"password", "\x05\x01\x02\x01\x03ann\x02no", "\x05\x02\x01\x01", denied, ""},
		{"user", "\x05\x01\x02\x01\x03bob\x02pw", "\x05\x02\x01\x01", denied, ""},
		{"method", "\x05\x01\x01", "\x05\xff", denied, ""},
		{"http", "GET / HTTP/1.1\r\n\r\n", "", refused, ""},
		{"version 4", "\x04\x01\x00P\x7f\x00\x00\x01\x00", "", refused, ""},
	} {
		n := len(s.rec.all())
		cc := dial(t, addr)
		cc.send(c.send)
		_ = cc.Conn.(*net.TCPConn).CloseWrite()
		cc.expect(c.want)
		s.rec.wait(t, n+2)
		q, p := s.rec.last(t)
		if p.rec.GetResponse().GetOutcome() != c.outcome || q.rec.GetRequest().GetMethod() != c.method || q.rec.GetRequest().GetScheme() != "" {
			t.Errorf("%s: %v %v", c.name, q.rec.GetRequest(), p.rec.GetResponse())
		}
		if strings.Contains(p.rec.GetResponse().GetDetail(), "pw") {
			t.Errorf("%s: %q", c.name, p.rec.GetResponse().GetDetail())
		}
	}
}

// TestSOCKSRequireUser: nobody passes without a name, who has one does.
func TestSOCKSRequireUser(t *testing.T) {
	settled(t)
	s := start(t, "", func(c *Config) {
		c.Forward.Users, c.Forward.RequireUser = Users{"ann": sha256.Sum256([]byte("pw"))}, true
	})
	c := dial(t, s.startSOCKS(t))
	c.send("\x05\x01\x00")
	c.expect("\x05\xff")
	q, p := s.rec.last(t)
	wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_DENIED)
	if d := q.rec.GetRequest().GetDecision(); d.GetRule() != "forward.require_user" || d.GetAllowed() {
		t.Errorf("%v", d)
	}
}

// TestSOCKSFollows: a connection of SOCKS5 is held to the configuration that there
// was when it began, and its listener is never a target, whoever follows.
func TestSOCKSFollows(t *testing.T) {
	settled(t)
	to := echo(t)
	s, v := startLive(t, func(*Config) {})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ctx := t.Context()
	go func() { done <- v.RunSOCKS(ctx, l) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Errorf("RunSOCKS: %v", err)
		}
	})
	ask := func(target string) *raw {
		c := dial(t, l.Addr().String())
		c.send("\x05\x01\x00")
		c.expect("\x05\x00")
		c.send("\x05\x01\x00" + socksTarget(t, target))
		return c
	}
	old := ask(to)
	old.expect("\x05\x00" + socksDone)
	over := v.Replace(s.follower(t, func(c *Config) { c.Forward.Ports = []hosts.Ports{{From: 1, To: 2}} }))
	ask(to).expect("\x05\x02" + socksDone)
	old.send("hello")
	old.expect("HELLO")
	select {
	case <-over:
		t.Error("a tunnel of the proxy before is under way, and it is said to be over")
	default:
	}
	_ = old.Conn.(*net.TCPConn).CloseWrite()
	old.expect("bye")
	<-over
	v.Replace(s.follower(t, func(*Config) {}))
	for _, own := range []string{l.Addr().String(), s.addr} {
		ask(own).expect("\x05\x02" + socksDone)
	}
}

package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proxy/hosts"
	"github.com/sealtap/sealtap/proxy/intercept"
	h1 "github.com/sealtap/sealtap/proxy/upstream"
)

// Intercept says which tunnels a forward proxy ends itself, to record what
// passes inside. Its clients have to trust the authority.
type Intercept struct {
	Authority *intercept.Authority
	// Hosts are patterns (hosts.Set) of targets; where a client asks for an
	// address, of the server name in its TLS hello. At least one.
	Hosts []string
	// Except are patterns of what of them is left alone.
	Except []string
	// Roots verify the upstreams; nil means the system's. They are always verified.
	Roots *x509.CertPool
}

// interception is an Intercept at work.
type interception struct {
	authority     *intercept.Authority
	hosts, except hosts.Set
	roots         *x509.CertPool
}

func newInterception(c *Intercept) (*interception, error) {
	if c == nil {
		return nil, nil
	}
	in := &interception{authority: c.Authority, roots: c.Roots}
	var err error
	if in.hosts, err = hosts.Parse(c.Hosts); err != nil {
		return nil, fmt.Errorf("%w: forward.intercept.hosts: %w", ErrConfig, err)
	}
	if in.except, err = hosts.Parse(c.Except); err != nil {
		return nil, fmt.Errorf("%w: forward.intercept.except: %w", ErrConfig, err)
	}
	if in.authority == nil || in.hosts.Empty() {
		return nil, fmt.Errorf("%w: forward.intercept: it needs an authority and hosts", ErrConfig)
	}
	return in, nil
}

// of says what is to become of a tunnel to target whose client sent a hello with
// the given server name: the host that the proxy stands for, no host if the
// tunnel is left alone, or why it is refused. Who names two hosts could
// otherwise choose the one that is not intercepted.
func (in *interception) of(target hosts.Host, name string) (stand hosts.Host, why string) {
	sni, err := hosts.New(name)
	if name != "" && err != nil {
		sni = hosts.Host{}
	}
	matches := func(h hosts.Host) bool { return in.hosts.Match(h) && !in.except.Match(h) }
	switch {
	case target.Addr.IsValid() && sni.Name != "":
		if in.except.Match(target) || !in.hosts.Match(sni) && !in.hosts.Match(target) || in.except.Match(sni) {
			return hosts.Host{}, ""
		}
		return sni, ""
	case !matches(target) && !matches(sni):
		return hosts.Host{}, ""
	case name != "" && sni != target:
		return hosts.Host{}, "the server name in the client's TLS hello is not the host of the tunnel"
	}
	return target, ""
}

// inside is a tunnel that the proxy has ended. The requests in it are exchanges
// of their own, on a connection that points here.
type inside struct {
	host   hosts.Host // that the proxy stands for
	port   uint16
	addr   string // of the upstream: what the tunnel was opened to, whatever the name leads to later
	who    identity
	source string
	local  bool

	transport *h1.Transport
	spare     chan net.Conn // the connection that the tunnel was opened with
	exchanges atomic.Int64
	active    atomic.Int64
}

// spareLife is how old a connection can be on which nothing was sent and still
// be of use.
const spareLife = 5 * time.Second

// intercept ends a tunnel to a host that is to be intercepted, once the client has
// sent its hello, and joins any other. head is sent to the client first.
func (x *exchange) intercept(client net.Conn, buf *bufio.Reader, up net.Conn, head []byte) {
	join := func(c net.Conn, up net.Conn) {
		x.splice(c, bufio.NewReader(c), up, nil, new(helloSniffer))
	}
	x.answer.tunnelled = true
	x.st.reset()
	x.st.tunnel.Reset()
	if _, err := client.Write(head); err != nil {
		_ = x.finish(sealtapv1.Outcome_OUTCOME_CLIENT_ABORT, "writing to the client: "+brief(err))
		return
	}
	first, err := x.peek(client, buf, up)
	if err != nil {
		outcome, detail := x.ending(err)
		_ = x.finish(outcome, detail)
		return
	}
	client = &prefixed{Conn: client, rest: first.sent}
	target, port, err := hosts.Split(x.r.Host, 0)
	if err != nil || !looksLikeTLS(first.sent) {
		join(client, &prefixed{Conn: up, rest: first.early})
		return
	}
	x.st.tunnel.Sni = capped(first.hello.name, maxServerName)
	host, why := x.p.forwarding.intercept.of(target, first.hello.name)
	switch {
	case why != "":
		_ = x.finish(sealtapv1.Outcome_OUTCOME_REFUSED, why)
		return
	case host.Name == "":
		join(client, &prefixed{Conn: up, rest: first.early})
		return
	}
	in := x.newInside(host, port, up, len(first.early) == 0)
	defer in.close()
	x.terminate(in, client)
}

// ending is the outcome of a tunnel whose client did not get as far as it had to.
func (x *exchange) ending(err error) (sealtapv1.Outcome, string) {
	switch {
	case errors.Is(context.Cause(x.r.Context()), errStopping):
		return sealtapv1.Outcome_OUTCOME_UNKNOWN, errStopping.Error()
	case isTimeout(err):
		return sealtapv1.Outcome_OUTCOME_TIMEOUT, "the client did not begin to speak in time"
	}
	return sealtapv1.Outcome_OUTCOME_CLIENT_ABORT, "with the client: " + brief(err)
}

// terminate speaks TLS with the client, and serves what it asks for inside.
func (x *exchange) terminate(in *inside, client net.Conn) {
	counted := &counted{Conn: client}
	conn := tls.Server(counted, &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		// One tunnel has one handshake: its tickets are of no use in another.
		SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return x.p.forwarding.intercept.authority.Leaf(in.host.Name)
		},
	})
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(x.r.Context(), x.p.cfg.Timeouts.RequestHeader)
	defer cancel()
	said := func(outcome sealtapv1.Outcome, detail string) {
		words := fmt.Sprintf("intercepted: %d exchanges, %d bytes from the client, %d to it", in.exchanges.Load(), counted.in.Load(), counted.out.Load())
		if detail != "" {
			words += "; " + detail
		}
		_ = x.finish(outcome, words)
	}
	if err := conn.HandshakeContext(ctx); err != nil {
		outcome, detail := x.ending(err)
		said(outcome, "TLS "+detail)
		return
	}
	clear, err := newClear(conn, x.p.cfg.Timeouts.ClientIdle)
	switch {
	case errors.Is(err, errNotHTTP):
		said(sealtapv1.Outcome_OUTCOME_REFUSED, err.Error())
		return
	case err != nil && isTimeout(err), clear == nil:
		said(sealtapv1.Outcome_OUTCOME_COMPLETE, "")
		return
	case err != nil:
		said(x.ending(err))
		return
	}
	cc := &clientConn{Conn: clear, addr: x.conn.addr, text: x.conn.text, run: x.conn.run, inside: in}
	x.p.serveConn(x.r.Context(), cc, clear.closed)
	if errors.Is(context.Cause(x.r.Context()), errStopping) {
		said(sealtapv1.Outcome_OUTCOME_UNKNOWN, errStopping.Error())
		return
	}
	said(sealtapv1.Outcome_OUTCOME_COMPLETE, "")
}

// newInside prepares for the requests in a tunnel. up is the connection that it
// was opened with.
func (x *exchange) newInside(host hosts.Host, port uint16, up net.Conn, fresh bool) *inside {
	in := &inside{host: host, port: port, addr: up.RemoteAddr().String(), source: x.source(), local: x.local(), who: x.identity(), spare: make(chan net.Conn, 1)}
	to := x.p.targets.far
	if in.local {
		to = x.p.targets.near
	}
	if fresh {
		in.spare <- up
	}
	since := time.Now()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		select {
		case c := <-in.spare:
			if time.Since(since) < spareLife {
				return c, nil
			}
			c.Close()
		default:
		}
		return to.dialer.DialContext(ctx, "tcp", in.addr)
	}
	in.transport = x.p.newTransport(h1.Config{
		Dial: dial,
		TLS:  &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x.p.forwarding.intercept.roots, ServerName: host.Name},
	})
	return in
}

func (in *inside) close() {
	in.transport.CloseIdleConnections()
	select {
	case c := <-in.spare:
		c.Close()
	default:
	}
}

// reachInside sends a request of a tunnel on to where that leads.
func (x *exchange) reachInside(out *http.Request) (*http.Response, error) {
	in := x.conn.inside
	x.aim(out, nil)
	out.URL.Scheme, out.URL.Host = "https", in.host.Join(in.port)
	t := x.tries.begin(in.addr)
	res, err := in.transport.Do(out, t)
	t.finish(res, err)
	return res, err
}

// malformedInside says why a request in a tunnel is not to be forwarded.
func (x *exchange) malformedInside() string {
	switch r := x.r; {
	case containsAt(r.Host):
		return "the authority holds a user name"
	case r.Method == http.MethodConnect:
		return "there is a tunnel already: it takes no other"
	case r.RequestURI == "*":
		return "the server as a whole cannot be asked through this proxy"
	case r.URL.Host != "":
		return "inside a tunnel targets have no authority"
	}
	return ""
}

// misdirected reports whether a request in a tunnel is for another host than
// that: the upstream might answer it, and the records would name who was not
// asked (RFC 9110, section 7.4).
func (x *exchange) misdirected() bool {
	in := x.conn.inside
	if in == nil {
		return false
	}
	h, port, err := hosts.Split(x.r.Host, 443)
	return err != nil || h != in.host || port != in.port
}

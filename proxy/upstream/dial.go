package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"time"
)

// errHTTP2 says that the upstream chose HTTP/2. The connection waits for
// net/http's transport, which goes on with it.
var errHTTP2 = errors.New("the upstream speaks HTTP/2")

const (
	proto1 = "http/1.1"
	proto2 = "h2"
	// maxRemembered bounds for how many hosts it is known that they speak HTTP/2.
	maxRemembered = 1024
)

// protocols knows which hosts speak HTTP/2, and holds the connections on which
// that turned out.
type protocols struct {
	mu    sync.Mutex
	two   map[string]bool        // by the host of the URL
	ready map[string][]*tls.Conn // by address
}

func (p *protocols) is2(host string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.two[host]
}

func (p *protocols) learn(host string, two bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !two {
		delete(p.two, host)
		return
	}
	if p.two == nil || len(p.two) >= maxRemembered {
		p.two = make(map[string]bool)
	}
	p.two[host] = true
}

func (p *protocols) store(address string, c *tls.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ready == nil {
		p.ready = make(map[string][]*tls.Conn)
	}
	p.ready[address] = append(p.ready[address], c)
}

func (p *protocols) fetch(address string) *tls.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.ready[address]
	if len(list) == 0 {
		return nil
	}
	c := list[len(list)-1]
	if list = list[:len(list)-1]; len(list) == 0 {
		delete(p.ready, address)
	} else {
		p.ready[address] = list
	}
	return c
}

// address returns what to dial for the host of a URL.
func (k hostKey) address() (string, error) {
	name, port, err := splitHost(k.host)
	if err != nil {
		return "", err
	}
	if port == "" {
		port = "80"
		if k.scheme == "https" {
			port = "443"
		}
	}
	return net.JoinHostPort(name, port), nil
}

// splitHost takes the host of a URL to pieces; brackets are removed.
func splitHost(hostport string) (name, port string, err error) {
	colon := strings.LastIndexByte(hostport, ':')
	name = hostport
	if colon > strings.LastIndexByte(hostport, ']') {
		name, port = hostport[:colon], hostport[colon+1:]
	}
	if len(name) > 1 && name[0] == '[' && name[len(name)-1] == ']' {
		name = name[1 : len(name)-1]
	}
	if !validHost(name) {
		return "", "", fmt.Errorf("%w: its URL names no host in ASCII", ErrRequest)
	}
	return name, port, nil
}

// dial opens a connection.
func (t *Transport) dial(ctx context.Context, h *host) (*conn, error) {
	address, err := h.key.address()
	if err != nil {
		return nil, err
	}
	link, err := t.cfg.Dial(ctx, "tcp", address)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	now := time.Now()
	c := &conn{t: t, h: h, nc: link, link: link, made: now, idle: now}
	if h.key.scheme == "https" {
		over, err := t.handshake(ctx, link, h.key.host, h.key.only1)
		if err != nil {
			return nil, err
		}
		state := over.ConnectionState()
		two := state.NegotiatedProtocol == proto2
		if !h.key.only1 {
			t.protocols.learn(h.key.host, two)
		}
		if two {
			t.protocols.store(address, over)
			return nil, errHTTP2
		}
		c.nc, c.tls = over, &state
	}
	c.raw = c.rawConn()
	return c, nil
}

// handshake begins TLS, and closes the connection if that fails.
func (t *Transport) handshake(ctx context.Context, link net.Conn, host string, only1 bool) (*tls.Conn, error) {
	cfg := t.cfg.TLS.Clone()
	if cfg.ServerName == "" {
		cfg.ServerName, _, _ = splitHost(host)
	}
	cfg.NextProtos = []string{proto2, proto1}
	if only1 {
		cfg.NextProtos = cfg.NextProtos[1:]
	}
	limited, cancel := context.WithTimeout(ctx, t.cfg.HandshakeTimeout)
	defer cancel()
	over := tls.Client(link, cfg)
	if err := over.HandshakeContext(limited); err != nil {
		_ = link.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		} else if limited.Err() != nil {
			err = limited.Err()
		}
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return over, nil
}

// newHTTP2 returns net/http's transport, for what is spoken over HTTP/2.
func (t *Transport) newHTTP2() *http.Transport {
	tr := &http.Transport{
		DialContext: t.cfg.Dial,
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return t.dialTLS(ctx, network, address)
		},
		DisableCompression:     true, // or it asks for gzip and unpacks it unseen
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    1024,
		IdleConnTimeout:        t.cfg.IdleTimeout,
		ResponseHeaderTimeout:  t.cfg.ResponseHeaderTimeout,
		ExpectContinueTimeout:  continueWait,
		MaxResponseHeaderBytes: int64(t.cfg.MaxHeaderBytes),
	}
	if t.cfg.H2C {
		tr.Protocols = new(http.Protocols)
		tr.Protocols.SetUnencryptedHTTP2(true)
	}
	return tr
}

// dialTLS opens connections for net/http's transport, beginning with those on
// which HTTP/2 was agreed already.
func (t *Transport) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	if c := t.protocols.fetch(address); c != nil {
		return c, nil
	}
	link, err := t.cfg.Dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	over, err := t.handshake(ctx, link, address, false)
	if err != nil {
		return nil, err
	}
	if over.ConnectionState().NegotiatedProtocol != proto2 {
		// It speaks HTTP/1 now: the requests after this one find out.
		t.protocols.forget(address)
	}
	return over, nil
}

// forget makes the next request ask again what a host speaks.
func (p *protocols) forget(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for host := range p.two {
		if a, err := (hostKey{scheme: "https", host: host}).address(); err == nil && a == address {
			delete(p.two, host)
		}
	}
}

// roundTrip2 leaves a request to net/http's transport.
func (t *Transport) roundTrip2(req *http.Request, o Observer) (*http.Response, error) {
	ctx := req.Context()
	if o != nil {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			GotConn:              func(i httptrace.GotConnInfo) { o.Sent(i.Conn, i.Reused) },
			GotFirstResponseByte: o.Answered,
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				if code == http.StatusSwitchingProtocols { // which HTTP/2 does not know (RFC 9113, section 8.6)
					return malformed("it switches to another protocol unasked")
				}
				return o.Informational(code, http.Header(h))
			},
		})
	}
	out := req.WithContext(ctx)
	if b, ok := req.Body.(*Buffered); ok {
		data := b.data
		out.GetBody = func() (io.ReadCloser, error) {
			c := new(Buffered)
			c.Reset(data)
			return c, nil
		}
	}
	if out.GetBody != nil {
		// What there was of it may have been read already.
		body, err := out.GetBody()
		if err != nil {
			return nil, refuse(req, err)
		}
		out.Body = body
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		// Else it sends its own.
		out.Header = out.Header.Clone()
		if out.Header == nil {
			out.Header = make(http.Header)
		}
		out.Header["User-Agent"] = nil
	}
	res, err := t.h2.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	if err := oneLength(res.Header); err != nil {
		_ = res.Body.Close()
		return nil, err
	}
	return res, nil
}

// oneLength returns an error unless an answer gives one length, if any. HTTP/2 does
// not need it, and net/http does not look; but whoever gets the answer over HTTP/1 does.
func oneLength(h http.Header) error {
	if len(h["Content-Length"]) > 1 {
		return malformed("the length of the body is given more than once")
	}
	_, err := contentLength(h)
	return err
}

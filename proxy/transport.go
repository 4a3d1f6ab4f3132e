package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	h1 "github.com/sealtap/sealtap/proxy/upstream"
)

// upstream is what a reverse proxy forwards to.
type upstream struct {
	scheme, host string
	prefix       string // of paths, escaped, without a slash at its end
	transport    *h1.Transport
}

func (p *Proxy) newUpstream(u *url.URL) (upstream, error) {
	switch {
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "h2c":
		return upstream{}, fmt.Errorf("%w: upstream %q: the scheme must be http, https or h2c", ErrConfig, u.Redacted())
	case u.Host == "" || u.Opaque != "":
		return upstream{}, fmt.Errorf("%w: upstream %q names no host", ErrConfig, u.Redacted())
	case !ascii(u.Host):
		return upstream{}, fmt.Errorf("%w: upstream %q: write the host's name in its xn-- form", ErrConfig, u.Redacted())
	case u.User != nil:
		return upstream{}, fmt.Errorf("%w: upstream %q: a user name or password does not belong there", ErrConfig, u.Redacted())
	case u.RawQuery != "" || u.Fragment != "":
		return upstream{}, fmt.Errorf("%w: upstream %q: only a path can stand behind the host", ErrConfig, u.Redacted())
	}
	up := upstream{scheme: u.Scheme, host: u.Host, prefix: strings.TrimRight(u.EscapedPath(), "/")}
	if u.Scheme == "h2c" {
		up.scheme = "http"
	}
	up.transport = p.newTransport(nil, u.Scheme == "h2c")
	return up, nil
}

// newTransport returns a transport that changes no byte of a body.
func (p *Proxy) newTransport(control func(network, address string, c syscall.RawConn) error, h2c bool) *h1.Transport {
	t := &p.cfg.Timeouts
	dialer := &net.Dialer{Timeout: t.Dial, Control: control}
	return h1.New(h1.Config{
		Dial:                  dialer.DialContext,
		TLS:                   p.cfg.UpstreamTLS,
		HandshakeTimeout:      t.Dial,
		ResponseHeaderTimeout: t.ResponseHeader,
		MaxHeaderBytes:        p.cfg.MaxHeaderBytes,
		H2C:                   h2c,
	})
}

func (p *Proxy) closeIdle() {
	for _, t := range []*h1.Transport{p.upstream.transport, p.targets.near.transport, p.targets.far.transport} {
		if t != nil {
			t.CloseIdleConnections()
		}
	}
}

// roundTrip sends the request on and returns the answer's beginning.
func (x *exchange) roundTrip(upgrade bool) (*http.Response, error) {
	x.tries = &attempts{w: x.w, h: x.r.Header}
	if x.r.ProtoMajor == 1 && x.r.ProtoMinor == 0 || len(x.r.Header["Expect"]) > 0 {
		// HTTP/1.0 knows no 1xx; and beside an expectation the server sends its
		// own at any time.
		x.tries.w = nil
	}
	x.tries.rules = x.p.headers
	out := &x.tries.out
	*out = *x.r
	transport := x.aim(out)
	out.RequestURI, out.RemoteAddr, out.TLS = "", "", nil
	out.Close, out.TransferEncoding = false, nil
	out.Header = x.forwardHeaders(upgrade)
	x.attachBody(out)
	res, err := transport.Do(out, x.tries)
	x.tries.end() // what comes now belongs to nobody
	return res, err
}

// aim gives the request its target and returns the transport that leads there.
func (x *exchange) aim(out *http.Request) *h1.Transport {
	_, path, query := x.target()
	u := &x.tries.url
	*u = url.URL{Scheme: "http", Host: x.r.Host, Path: x.r.URL.Path, RawPath: x.r.URL.RawPath, RawQuery: query, ForceQuery: x.r.URL.ForceQuery}
	out.URL = u
	up := &x.p.upstream
	if x.p.cfg.Upstream == nil {
		if path == "" {
			path = "/"
		}
	} else {
		u.Scheme, u.Host = up.scheme, up.host
		path = up.prefix + path
	}
	// The path goes on as it was received, byte by byte. An opaque URL does that,
	// except for a path that starts like an authority.
	if up.prefix != "" || u.EscapedPath() != path {
		if strings.HasPrefix(path, "//") {
			u.Path, u.RawPath = unescapePath(path), path
		} else {
			u.Opaque = path
		}
	}
	switch {
	case x.p.cfg.Upstream != nil:
		return up.transport
	case x.local():
		return x.p.targets.near.transport
	}
	return x.p.targets.far.transport
}

func (x *exchange) attachBody(out *http.Request) {
	b := &x.body
	out.Trailer = x.trailer()
	switch b.kind {
	case bodyNone:
		out.Body, out.ContentLength = http.NoBody, 0
	case bodyBuffered:
		x.trailerValues(out.Trailer)
		out.ContentLength = int64(b.size)
		if len(out.Trailer) > 0 {
			out.ContentLength = -1
		}
		x.tries.body.Reset(b.data) // which is not pooled: HTTP/2 may read it later
		out.Body = &x.tries.body
	case bodyStreamed:
		out.Body, out.ContentLength = b.stream, x.r.ContentLength
		if t := out.Trailer; len(t) > 0 {
			r := x.r
			b.stream.trailer = func() {
				for name := range t {
					if v := r.Trailer[name]; len(v) > 0 {
						t[name] = v
					}
				}
			}
		}
	}
}

// failUpstream ends an exchange whose upstream gave no answer.
func (x *exchange) failUpstream(err error) {
	if outcome, detail, cut := x.cause(); cut {
		switch {
		case x.r.Context().Err() != nil:
			_ = x.finish(outcome, detail)
			x.abort()
		case outcome == sealtapv1.Outcome_OUTCOME_TIMEOUT:
			x.fail(http.StatusRequestTimeout, codeTimeout, outcome, detail)
		default:
			x.fail(http.StatusBadRequest, codeRefused, outcome, detail)
		}
		return
	}
	var denied deniedError
	switch {
	case errors.As(err, &denied):
		x.fail(http.StatusForbidden, codeDenied, sealtapv1.Outcome_OUTCOME_DENIED, denied.Error())
	case isTimeout(err):
		x.fail(http.StatusGatewayTimeout, codeTimeout, sealtapv1.Outcome_OUTCOME_TIMEOUT, "asking the upstream: "+brief(err))
	default:
		x.fail(http.StatusBadGateway, codeUnreachable, sealtapv1.Outcome_OUTCOME_UPSTREAM_UNREACHABLE, "asking the upstream: "+brief(err))
	}
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

// attempts is the request as it goes out. It watches what the transport does by
// itself: it sends requests again that can be, and swallows 1xx answers. It is
// not part of the exchange because the transport may still use it afterwards.
type attempts struct {
	out   http.Request
	url   url.URL
	body  h1.Buffered
	conns atomic.Int32
	rules *headerRules

	mu   sync.Mutex
	w    http.ResponseWriter // nil once the answer itself is there
	h    http.Header
	info []byte // the codes
	over bool
}

const maxInformational = 16

// Sent counts attempts.
func (t *attempts) Sent(net.Conn, bool) { t.conns.Add(1) }

// Informational passes on an informational answer, except 100: that the server sends
// itself when the transport begins to read the body.
func (t *attempts) Informational(code int, header http.Header) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over || code == http.StatusContinue {
		return nil
	}
	if strings.Count(string(t.info), ",") >= maxInformational {
		return errors.New("the upstream sends one informational answer after the other")
	}
	if len(t.info) > 0 {
		t.info = append(t.info, ", "...)
	}
	t.info = strconv.AppendInt(t.info, int64(code), 10)
	if t.w == nil {
		return nil
	}
	h := t.w.Header()
	for name, values := range header {
		if r := t.rules.of(name); r.fate != fateHop && r.fate != fateOwned {
			h[name] = values
		}
	}
	removeNamed(h, header["Connection"])
	t.w.WriteHeader(code)
	clear(h)
	return nil
}

// end lets nothing more pass to the client.
func (t *attempts) end() {
	if t == nil {
		return
	}
	t.mu.Lock()
	t.over, t.w = true, nil
	t.mu.Unlock()
}

func (t *attempts) count() int {
	if t == nil {
		return 0
	}
	return int(t.conns.Load())
}

func (t *attempts) informational() string {
	if t == nil {
		return ""
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.info)
}

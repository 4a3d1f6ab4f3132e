package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// upstream is what a reverse proxy forwards to.
type upstream struct {
	scheme, host string
	prefix       string // of paths, escaped, without a slash at its end
	transport    *http.Transport
}

func (p *Proxy) newUpstream(u *url.URL) (upstream, error) {
	switch {
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "h2c":
		return upstream{}, fmt.Errorf("%w: upstream %q: the scheme must be http, https or h2c", ErrConfig, u.Redacted())
	case u.Host == "" || u.Opaque != "":
		return upstream{}, fmt.Errorf("%w: upstream %q names no host", ErrConfig, u.Redacted())
	case u.User != nil:
		return upstream{}, fmt.Errorf("%w: upstream %q: a user name or password does not belong there", ErrConfig, u.Redacted())
	case u.RawQuery != "" || u.Fragment != "":
		return upstream{}, fmt.Errorf("%w: upstream %q: only a path can stand behind the host", ErrConfig, u.Redacted())
	}
	up := upstream{scheme: u.Scheme, host: u.Host, prefix: strings.TrimRight(u.EscapedPath(), "/")}
	up.transport = p.newTransport(nil)
	if u.Scheme == "h2c" {
		up.scheme = "http"
		up.transport.Protocols = new(http.Protocols)
		up.transport.Protocols.SetUnencryptedHTTP2(true)
	}
	return up, nil
}

// newTransport returns a transport that changes no byte of a body.
func (p *Proxy) newTransport(control func(network, address string, c syscall.RawConn) error) *http.Transport {
	t := &p.cfg.Timeouts
	dialer := &net.Dialer{Timeout: t.Dial, Control: control}
	tr := &http.Transport{
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    t.Dial,
		DisableCompression:     true, // or it asks for gzip and unpacks it unseen
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    1024,
		IdleConnTimeout:        90 * time.Second,
		ResponseHeaderTimeout:  t.ResponseHeader,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: int64(p.cfg.MaxHeaderBytes),
	}
	if p.cfg.UpstreamTLS != nil {
		tr.TLSClientConfig = p.cfg.UpstreamTLS.Clone()
	}
	return tr
}

func (p *Proxy) closeIdle() {
	for _, t := range []*http.Transport{p.upstream.transport, p.targets.near.transport, p.targets.far.transport} {
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
	x.tries.trace = httptrace.ClientTrace{GotConn: x.tries.gotConn, Got1xxResponse: x.tries.got1xx}
	out := x.r.WithContext(httptrace.WithClientTrace(x.r.Context(), &x.tries.trace))
	transport := x.aim(out)
	out.RequestURI, out.RemoteAddr, out.TLS = "", "", nil
	out.Close, out.TransferEncoding = false, nil
	out.Header = x.forwardHeaders(upgrade)
	x.attachBody(out)
	res, err := transport.RoundTrip(out)
	x.tries.end() // what comes now belongs to nobody
	return res, err
}

// aim gives the request its target and returns the transport that leads there.
func (x *exchange) aim(out *http.Request) *http.Transport {
	_, path, query := x.target()
	u := &url.URL{Scheme: "http", Host: x.r.Host, Path: x.r.URL.Path, RawPath: x.r.URL.RawPath, RawQuery: query, ForceQuery: x.r.URL.ForceQuery}
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
		data := b.data // b is used again once the round trip is over
		out.Body = bodyOf(data)
		out.GetBody = func() (io.ReadCloser, error) { return bodyOf(data), nil }
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

// attempts watches what the transport does by itself: it sends requests again
// that can be, and swallows 1xx answers. It is not part of the exchange because
// the transport may still call it afterwards.
type attempts struct {
	trace httptrace.ClientTrace
	conns atomic.Int32
	rules *headerRules

	mu   sync.Mutex
	w    http.ResponseWriter // nil once the answer itself is there
	h    http.Header
	info []byte // the codes
	over bool
}

const maxInformational = 16

func (t *attempts) gotConn(httptrace.GotConnInfo) { t.conns.Add(1) }

// got1xx passes on an informational answer, except 100: that the server sends
// itself when the transport begins to read the body.
func (t *attempts) got1xx(code int, header textproto.MIMEHeader) error {
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

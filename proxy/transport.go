package proxy

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	h1 "github.com/sealtap/sealtap/proxy/upstream"
)

// newTransport returns a transport that changes no byte of a body. What the
// configuration leaves out is that of the proxy.
func (p *Proxy) newTransport(c h1.Config) *h1.Transport {
	t := &p.cfg.Timeouts
	c.HandshakeTimeout = cmp.Or(c.HandshakeTimeout, t.Dial)
	c.ResponseHeaderTimeout = cmp.Or(c.ResponseHeaderTimeout, t.ResponseHeader)
	c.MaxHeaderBytes = p.cfg.MaxHeaderBytes
	if c.TLS == nil {
		c.TLS = p.cfg.UpstreamTLS
	}
	return h1.New(c)
}

func (p *Proxy) closeIdle() {
	for _, q := range p.pools {
		q.closeIdle()
	}
	for _, t := range []*h1.Transport{p.targets.near.transport, p.targets.far.transport} {
		if t != nil {
			t.CloseIdleConnections()
		}
	}
}

// roundTrip sends the request on and returns the answer's beginning.
func (x *exchange) roundTrip(upgrade bool) (*http.Response, error) {
	x.tries = newAttempts(x.w, x.p.headers, x.p.cfg.MaxHeaderBytes)
	if x.r.ProtoMajor == 1 && x.r.ProtoMinor == 0 || len(x.r.Header["Expect"]) > 0 {
		// HTTP/1.0 knows no 1xx; and beside an expectation the server sends its
		// own at any time.
		x.tries.w = nil
	}
	out := &x.tries.out
	*out = *x.r
	out.URL = &x.tries.url
	out.RequestURI, out.RemoteAddr, out.TLS = "", "", nil
	out.Close, out.TransferEncoding = false, nil
	out.Header = x.forwardHeaders(upgrade)
	x.attachBody(out)
	send := x.reach
	if x.route != nil {
		send = x.attempt
	}
	res, err := send(out, upgrade)
	x.tries.end() // what comes now belongs to nobody
	return res, err
}

// reach sends a request of a forward proxy to where it wants.
func (x *exchange) reach(out *http.Request, _ bool) (*http.Response, error) {
	if x.conn.inside != nil {
		return x.reachInside(out)
	}
	transport := x.p.targets.far.transport
	if x.local() {
		transport = x.p.targets.near.transport
	}
	x.aim(out, nil)
	t := x.tries.begin(out.URL.Host)
	res, err := transport.Do(out, t)
	t.finish(res, err)
	return res, err
}

// aim gives the request its target: one of a pool, or of a forward proxy that
// which it names.
func (x *exchange) aim(out *http.Request, up *upstream) {
	_, path, query := x.target()
	u := out.URL
	*u = url.URL{Scheme: "http", Host: x.r.Host, Path: x.r.URL.Path, RawPath: x.r.URL.RawPath, RawQuery: query, ForceQuery: x.r.URL.ForceQuery}
	if up != nil {
		u.Scheme, u.Host = up.scheme, up.host
		path = x.sentPath(path, up)
	} else if path == "" {
		path = "/"
	}
	// The path goes on as it was received, byte by byte. An opaque URL does that,
	// except for a path that starts like an authority.
	if u.EscapedPath() != path {
		if strings.HasPrefix(path, "//") {
			u.Path, u.RawPath = unescapePath(path), path
		} else {
			u.Opaque = path
		}
	}
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
			s := b.stream
			s.trailer = func() {
				for name := range t {
					if v := s.trailers[name]; len(v) > 0 {
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
			status := http.StatusBadRequest
			failed, _ := x.body.stream.failed()
			if bad := badBody(failed); bad != nil {
				status = bad.Status
			}
			x.fail(status, codeRefused, outcome, detail)
		}
		return
	}
	var denied deniedError
	switch {
	case errors.Is(err, errNoTarget):
		x.failBehind(http.StatusServiceUnavailable, codeNoUpstream, sealtapv1.Outcome_OUTCOME_UPSTREAM_UNREACHABLE, "upstream "+x.route.pool.name+": "+err.Error())
	case errors.As(err, &denied):
		x.fail(http.StatusForbidden, codeDenied, sealtapv1.Outcome_OUTCOME_DENIED, denied.Error())
	case isTimeout(err):
		x.failBehind(http.StatusGatewayTimeout, codeTimeout, sealtapv1.Outcome_OUTCOME_TIMEOUT, "asking the upstream: "+brief(err))
	default:
		x.failBehind(http.StatusBadGateway, codeUnreachable, sealtapv1.Outcome_OUTCOME_UPSTREAM_UNREACHABLE, "asking the upstream: "+brief(err))
	}
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

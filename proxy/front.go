package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proxy/http1"
)

// front returns the server of one run, in which v says who answers: HTTP/1 is read by package http1, HTTP/2 by
// net/http.
func (p *Proxy) front(base context.Context, rn *run, v *Live) *http1.Server {
	contexts := func(ctx context.Context, c net.Conn) context.Context {
		cc := &clientConn{Conn: c, text: peerText(c), run: rn}
		cc.addr = parseAddr(cc.text)
		return context.WithValue(ctx, connKey{}, cc)
	}
	cfg := p.frontOf(base, v, v.refused, contexts)
	cfg.Attempted = v.attempted
	cfg.TLS = v.tls([]string{"h2", "http/1.1"})
	cfg.Admit = func(remote string) (func(), bool) { return v.now.Load().admit(remote) }
	srv := http1.New(cfg)
	limits := p.serverLimits()
	v.fronted(func(next *Proxy) {
		if l := next.serverLimits(); l != limits {
			limits = l
			srv.Follow(l, next.second(base, v, contexts))
		}
	})
	return srv
}

// frontOf configures a server whose connections have contexts that connContext makes.
func (p *Proxy) frontOf(base context.Context, handler http.Handler, refused func(http.ResponseWriter, *http.Request, *http1.Error),
	connContext func(context.Context, net.Conn) context.Context) http1.Config {
	return http1.Config{
		Handler:     handler,
		Refused:     refused,
		Attempted:   p.attempted,
		HTTP2:       p.second(base, handler, connContext),
		Base:        base,
		ConnContext: connContext,
		Limits:      p.serverLimits(),
		Logger:      p.log,
	}
}

// frameSize is the largest frame of HTTP/2 that clients may send.
const frameSize = 64 << 10

// second returns a server of HTTP/2.
func (p *Proxy) second(base context.Context, handler http.Handler, connContext func(context.Context, net.Conn) context.Context) *http.Server {
	t := &p.cfg.Timeouts
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:   handler,
		Protocols: protocols,
		// What net/http would answer by itself would pass unrecorded.
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            t.RequestHeader,
		IdleTimeout:                  t.ClientIdle,
		MaxHeaderBytes:               2 * p.cfg.MaxHeaderBytes, // so that the exchange is what refuses
		// A stream has a deadline of its own; what else is written, to a client that
		// reads nothing, would wait for ever. And a connection keeps a buffer for the
		// largest frame that came, of up to 1 MiB without a limit.
		HTTP2:       &http.HTTP2Config{WriteByteTimeout: t.ClientStall, MaxReadFrameSize: frameSize},
		ErrorLog:    slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return base },
		ConnContext: connContext,
	}
}

// malformedTwo says why a request of HTTP/2 is not forwarded that net/http has let
// through: those behind the proxy would be told by HTTP/1, where it could be read in
// two ways. What it checks package http1 checks of HTTP/1.
func (x *exchange) malformedTwo() string {
	r := x.r
	if r.ProtoMajor < 2 {
		return ""
	}
	if v := r.Header["Content-Length"]; len(v) > 0 {
		// Of one that is no number net/http makes zero, and the body is not there.
		if n, ok := http1.ParseLength(v[0]); !ok || n != r.ContentLength {
			return "the Content-Length is not a number that everybody reads alike, or not the length of the body"
		}
	}
	switch absolute := r.URL.Host != "" && r.Method != http.MethodConnect; {
	case r.Host != "" && !http1.ValidHost(r.Host):
		return "the authority cannot be read"
	case r.Method == http.MethodConnect || r.RequestURI == "*":
	case !http1.ValidTarget(r.RequestURI):
		return "a character is not allowed in the target"
	case !strings.HasPrefix(r.RequestURI, "/") && !absolute:
		return "the target has none of the forms that there are"
	case absolute && !strings.EqualFold(r.URL.Host, r.Host):
		return "the target and the authority name different hosts"
	}
	return ""
}

// refused records a request that cannot be read as exactly one thing, and says
// so to the client.
func (p *Proxy) refused(w http.ResponseWriter, r *http.Request, e *http1.Error) {
	p.handle(w, r, func(x *exchange) { x.refuse(e.Status, e.Reason) })
}

// attempted records requests that were refused before anything of them was known.
func (p *Proxy) attempted(r *http.Request, why string) {
	p.handle(nobody{}, r, func(x *exchange) {
		x.body.broken() // nothing of it was read
		if x.open() {
			_ = x.finish(sealtapv1.Outcome_OUTCOME_REFUSED, why)
		}
	})
}

// nobody is the client of an answer that nobody waits for.
type nobody struct{}

// Header implements [http.ResponseWriter].
func (nobody) Header() http.Header { return make(http.Header) }

// WriteHeader implements [http.ResponseWriter].
func (nobody) WriteHeader(int) {}

// Write implements [http.ResponseWriter].
func (nobody) Write(p []byte) (int, error) { return len(p), nil }

// badBody is the error of a body that cannot be read as exactly one thing, if
// that is what err is.
func badBody(err error) *http1.Error {
	var bad *http1.Error
	if errors.As(err, &bad) {
		return bad
	}
	return nil
}

package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/sealtap/sealtap/proxy/socks"
)

// protoSOCKS is what records call the protocol.
const protoSOCKS = "SOCKS5"

// socksUser is what a client of SOCKS5 says of itself: without a name nothing.
type socksUser struct{ name, password string }

// RunSOCKS serves SOCKS5 (RFC 1928) on the listener as [Proxy.Run] serves HTTP:
// each connection is an exchange with the method CONNECT, for which all rules and
// interception hold. The proxy must be a forward proxy.
func (p *Proxy) RunSOCKS(ctx context.Context, l net.Listener) error {
	return NewLive(p).RunSOCKS(ctx, l)
}

// RunSOCKS serves SOCKS5 as [Proxy.RunSOCKS] does: a connection is the newest
// proxy's, as it was when the connection began. It can be called for several
// listeners, beside [Live.Run].
func (v *Live) RunSOCKS(ctx context.Context, l net.Listener) error {
	if v.now.Load().reverse() {
		return fmt.Errorf("%w: a reverse proxy does not speak SOCKS5", ErrConfig)
	}
	defer v.now.Load().listeners.add(parseAddr(l.Addr().String()))()
	base, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	rn := &run{stopping: ctx}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	err := v.acceptSOCKS(base, l, rn)
	if ctx.Err() != nil {
		err = nil
		drain, cancel := context.WithTimeout(base, v.now.Load().cfg.Timeouts.Drain)
		defer cancel()
		rn.wait(drain)
	} else {
		err = fmt.Errorf("serving %s: %w", l.Addr(), err)
		_ = l.Close()
	}
	cut(errStopping)
	return errors.Join(err, v.now.Load().settle(rn))
}

func (v *Live) acceptSOCKS(base context.Context, l net.Listener, rn *run) error {
	const longestPause = time.Second
	pause := time.Millisecond
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			// Out of file descriptors, say: it passes.
			v.now.Load().log.Warn("accepting a SOCKS5 connection", "error", err)
			time.Sleep(pause)
			pause = min(2*pause, longestPause)
			continue
		}
		pause = time.Millisecond
		rn.active.Add(1)
		go func() {
			defer rn.active.Add(-1)
			defer c.Close()
			p := v.enter()
			defer p.active.Add(-1)
			leave, ok := p.admit(c.RemoteAddr().String())
			if !ok {
				return
			}
			defer leave()
			p.serveSOCKS(base, c, rn)
		}()
	}
}

// serveSOCKS serves one connection.
func (p *Proxy) serveSOCKS(base context.Context, c net.Conn, rn *run) {
	_ = c.SetDeadline(time.Now().Add(p.cfg.Timeouts.RequestHeader))
	stop := context.AfterFunc(base, func() { _ = c.SetDeadline(past()) })
	user := new(socksUser)
	buf := bufio.NewReader(c)
	cc := &clientConn{Conn: c, text: peerText(c), run: rn, socks: user}
	cc.addr = parseAddr(cc.text)
	q, f := p.negotiate(c, buf, user)
	stop()
	ctx := context.WithValue(base, connKey{}, cc)
	r := &http.Request{Method: http.MethodConnect, Proto: protoSOCKS, ProtoMajor: 1, ProtoMinor: 1, URL: new(url.URL), Header: make(http.Header), Body: http.NoBody, RemoteAddr: cc.text}
	w := &socksWriter{conn: c, buf: buf, header: make(http.Header)}
	if f != nil {
		w.code, w.raw = f.code, f.raw
		r.Method = f.method
	}
	if q.Host != "" {
		r.Host = q.Authority()
		r.URL.Host = r.Host
	}
	x := p.exchanges.Get().(*exchange)
	x.begin(w, r.WithContext(ctx))
	defer func() { _ = recover() }() // of an exchange that was cut, which has ended itself
	defer x.end()
	switch {
	case f == nil:
		x.serve()
	case f.user:
		x.verdict = verdict{rule: ruleUser}
		x.deny(http.StatusProxyAuthRequired, codeDenied, f.why)
	default:
		x.refuse(f.status, f.why)
	}
}

// socksFailure says why a client does not get as far as a tunnel.
type socksFailure struct {
	method string
	status int
	code   socks.Reply
	raw    []byte // what the client gets where no reply fits, nil where one does
	user   bool   // for want of a user
	why    string
}

// negotiate reads what a client wants.
func (p *Proxy) negotiate(c net.Conn, buf *bufio.Reader, user *socksUser) (q socks.Request, f *socksFailure) {
	silent := []byte{}
	malformed := func(err error, raw []byte) *socksFailure {
		status := http.StatusBadRequest
		if isTimeout(err) {
			status = http.StatusRequestTimeout
		}
		return &socksFailure{status: status, raw: raw, why: brief(err)}
	}
	methods, err := socks.ReadMethods(buf)
	if err != nil {
		return q, malformed(err, silent)
	}
	fw := &p.cfg.Forward
	named := bytes.IndexByte(methods, socks.UserPassword) >= 0
	switch {
	case named && len(fw.Users) > 0:
		if f := p.negotiateUser(c, buf, user); f != nil {
			return q, f
		}
	case fw.RequireUser, bytes.IndexByte(methods, socks.NoAuth) < 0:
		why := "the client offers no method of authentication that fits"
		return q, &socksFailure{status: http.StatusProxyAuthRequired, user: true, raw: socks.Method(socks.NoneFits), why: why}
	default:
		if _, err := c.Write(socks.Method(socks.NoAuth)); err != nil {
			return q, malformed(err, silent)
		}
	}
	q, code, err := socks.ReadRequest(buf)
	if err != nil {
		f := malformed(err, nil)
		f.code = code
		return q, f
	}
	switch q.Command {
	case socks.Connect:
		return q, nil
	case socks.Bind:
		return q, &socksFailure{method: "BIND", status: http.StatusNotImplemented, code: socks.CommandUnsupported, why: "of the commands of SOCKS5 only CONNECT is served"}
	case socks.UDPAssociate:
		return q, &socksFailure{method: "UDP ASSOCIATE", status: http.StatusNotImplemented, code: socks.CommandUnsupported, why: "of the commands of SOCKS5 only CONNECT is served"}
	}
	return q, &socksFailure{status: http.StatusBadRequest, code: socks.CommandUnsupported, why: "the command is none of SOCKS5"}
}

func (p *Proxy) negotiateUser(c net.Conn, buf *bufio.Reader, user *socksUser) *socksFailure {
	if _, err := c.Write(socks.Method(socks.UserPassword)); err != nil {
		return &socksFailure{status: http.StatusBadRequest, raw: []byte{}, why: brief(err)}
	}
	name, password, err := socks.ReadUser(buf)
	if err != nil {
		return &socksFailure{status: http.StatusBadRequest, raw: []byte{}, why: brief(err)}
	}
	user.name, user.password = name, password
	if !p.cfg.Forward.Users.check(name, password) {
		return &socksFailure{status: http.StatusProxyAuthRequired, user: true, raw: socks.User(false), why: "the user is not known, or the password is another"}
	}
	if _, err := c.Write(socks.User(true)); err != nil {
		return &socksFailure{status: http.StatusBadRequest, raw: []byte{}, why: brief(err)}
	}
	return nil
}

// socksWriter tells a client of SOCKS5 in its own words what an exchange answers.
type socksWriter struct {
	conn   net.Conn
	buf    *bufio.Reader
	header http.Header
	code   socks.Reply // in the place of what a status says
	raw    []byte      // in the place of a reply
}

// Header implements [http.ResponseWriter].
func (w *socksWriter) Header() http.Header { return w.header }

// Write implements [http.ResponseWriter]: SOCKS5 has no words.
func (w *socksWriter) Write(p []byte) (int, error) { return len(p), nil }

// SetWriteDeadline serves [http.ResponseController].
func (w *socksWriter) SetWriteDeadline(t time.Time) error { return w.conn.SetWriteDeadline(t) }

// WriteHeader implements [http.ResponseWriter].
func (w *socksWriter) WriteHeader(status int) {
	out := w.raw
	if out == nil {
		code := w.code
		if code == socks.Succeeded {
			code = replyOf(status)
		}
		out = socks.Answer(code)
	}
	_ = w.conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = w.conn.Write(out)
}

// Hijack implements [http.Hijacker].
func (w *socksWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.conn, bufio.NewReadWriter(w.buf, bufio.NewWriter(w.conn)), nil
}

// replyOf is what a status of CONNECT is called in SOCKS5.
func replyOf(status int) socks.Reply {
	switch status {
	case http.StatusForbidden, http.StatusProxyAuthRequired:
		return socks.NotAllowed
	case http.StatusBadGateway:
		return socks.HostUnreachable
	case http.StatusGatewayTimeout:
		return socks.Expired
	}
	return socks.GeneralFailure
}

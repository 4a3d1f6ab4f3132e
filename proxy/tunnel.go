package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proxy/hosts"
)

// halfOpen is the longest silence of a tunnel of which one side has ended.
const halfOpen = time.Minute

// connect opens a tunnel (RFC 9110, section 9.3.6): recorded, dialled, and only
// then confirmed.
func (x *exchange) connect() {
	r := x.r
	_, port, err := net.SplitHostPort(r.Host)
	switch n, bad := strconv.ParseUint(port, 10, 16); {
	case err != nil || bad != nil || n == 0 || r.URL.Path != "":
		x.refuse(http.StatusBadRequest, "CONNECT needs a host and a port")
		return
	case r.ContentLength != 0 && r.ProtoMajor == 1:
		x.refuse(http.StatusBadRequest, "CONNECT takes no body")
		return
	case r.ProtoMajor != 1:
		x.refuse(http.StatusNotImplemented, "CONNECT is taken over HTTP/1.1 only")
		return
	}
	x.body.none()
	if !x.open() {
		return
	}
	to := x.p.targets.far
	if x.local() {
		to = x.p.targets.near
	}
	up, err := to.dialer.DialContext(r.Context(), "tcp", r.Host)
	if err != nil {
		x.failUpstream(err)
		return
	}
	defer up.Close()
	client, buf := x.hijack()
	if client == nil {
		return
	}
	defer client.Close()
	x.answer.status = http.StatusOK
	if x.p.forwarding.intercept != nil {
		x.intercept(client, buf, up, x.established())
		return
	}
	x.splice(client, buf, up, x.established(), new(helloSniffer))
}

// upgrade passes on a request for a WebSocket, and the connection if the
// upstream agrees.
func (x *exchange) upgrade() {
	res, err := x.roundTrip(true)
	if err != nil {
		x.failUpstream(err)
		return
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusSwitchingProtocols {
		if res.StatusCode < 200 || res.StatusCode > 999 {
			x.fail(http.StatusBadGateway, codeUnreachable, sealtapv1.Outcome_OUTCOME_UPSTREAM_UNREACHABLE, "the upstream answered with status "+strconv.Itoa(res.StatusCode))
			return
		}
		x.takeHeaders(res)
		x.relay(res)
		return
	}
	up, ok := res.Body.(io.ReadWriteCloser)
	if !ok || !hasToken(res.Header["Upgrade"], "websocket") || len(res.Header["Upgrade"]) != 1 {
		x.fail(http.StatusBadGateway, codeUnreachable, sealtapv1.Outcome_OUTCOME_UPSTREAM_UNREACHABLE, "the upstream switched to another protocol than was asked for")
		return
	}
	x.takeHeaders(res)
	h := x.w.Header()
	h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	delete(h, "Content-Length")
	delete(h, "Content-Type")
	x.showReceipts(false)
	head := bytes.NewBufferString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = h.Write(head) // to memory
	head.WriteString("\r\n")
	client, buf := x.hijack()
	if client == nil {
		return
	}
	defer client.Close()
	x.splice(client, buf, up, head.Bytes(), nil)
}

// hijack takes the client's connection from the server.
func (x *exchange) hijack() (net.Conn, *bufio.Reader) {
	conn, buf, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		x.fail(http.StatusInternalServerError, codeRefused, sealtapv1.Outcome_OUTCOME_REFUSED, "taking over the connection: "+err.Error())
		return nil, nil
	}
	x.begun = true
	_ = conn.SetDeadline(time.Time{})
	return conn, buf.Reader
}

// direction is what passes one way through a tunnel.
type direction struct {
	digest   digest
	messages messages
}

func (d *direction) passed() passed { return passed{d.digest.size, d.digest.sum(), d.messages.count} }

// tunnel joins two connections.
type tunnel struct {
	client net.Conn
	server io.ReadWriteCloser
	ctx    context.Context
	hello  *helloSniffer // nil if what passes is not TLS
	pool   *sync.Pool
	idle   *time.Timer

	progress *progress

	mu       sync.Mutex // guards what follows
	up, down direction
	silence  time.Duration
	outcome  sealtapv1.Outcome // of what ended it first
	detail   string
}

// splice joins the client's connection with the upstream's until both have
// ended, and records what passed. head is sent to the client first.
func (x *exchange) splice(client net.Conn, buf *bufio.Reader, up io.ReadWriteCloser, head []byte, hello *helloSniffer) {
	t := &tunnel{client: client, server: up, ctx: x.r.Context(), hello: hello, pool: &x.p.copies, silence: x.p.cfg.Timeouts.TunnelIdle}
	if hello == nil {
		t.up.messages.reset(framingWebSocket)
		t.down.messages.reset(framingWebSocket)
	}
	x.tunnel = t
	x.lasts(t.look, func() { t.end(sealtapv1.Outcome_OUTCOME_UNKNOWN, errUnrecorded.Error()) })
	t.progress = x.progress
	if _, err := client.Write(head); err != nil {
		t.end(sealtapv1.Outcome_OUTCOME_CLIENT_ABORT, "writing to the client: "+brief(err))
	} else {
		t.run(buf)
	}
	x.progress.stop()
	a, s := &x.answer, &x.st
	if !a.captured {
		s.reset()
	}
	a.tunnelled = true
	s.tunnel.Reset()
	s.tunnel.Up = &sealtapv1.Body{Size: t.up.digest.size, Sha256: sumBytes(&t.up.digest)}
	s.tunnel.Down = &sealtapv1.Body{Size: t.down.digest.size, Sha256: sumBytes(&t.down.digest)}
	if hello != nil {
		s.tunnel.Sni = capped(hello.name, maxServerName)
	}
	outcome, detail := t.outcome, x.noteHello(hello, t.detail)
	if outcome == 0 {
		outcome = sealtapv1.Outcome_OUTCOME_COMPLETE
	}
	_ = x.finish(outcome, detail)
}

// noteHello adds what a client's hello says to the words about a tunnel.
func (x *exchange) noteHello(hello *helloSniffer, words string) string {
	add := func(s string) {
		if words != "" {
			words += "; "
		}
		words += s
	}
	if hello == nil {
		return words
	}
	if hello.encrypted {
		add("the client's hello has an encrypted part (ECH), and the server name stands outside of it")
	}
	target, _, err := hosts.Split(x.r.Host, 443)
	if name, bad := hosts.New(hello.name); hello.name != "" && err == nil && !target.Addr.IsValid() && (bad != nil || name != target) {
		add("the server name in the client's hello is not the host of the tunnel")
	}
	return words
}

func sumBytes(d *digest) []byte {
	sum := d.sum()
	return sum[:]
}

func (t *tunnel) run(buf *bufio.Reader) {
	// The server does not watch the client any more: only the proxy's stop ends
	// the context.
	stop := context.AfterFunc(t.ctx, func() { t.end(sealtapv1.Outcome_OUTCOME_UNKNOWN, errStopping.Error()) })
	defer stop()
	t.idle = time.AfterFunc(t.silence, func() { t.end(sealtapv1.Outcome_OUTCOME_TIMEOUT, "nothing passed for too long") })
	defer t.idle.Stop()
	// What the client sent together with its request lies in the server's buffer.
	early, _ := buf.Peek(buf.Buffered())
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.copy(t.server, io.MultiReader(bytes.NewReader(early), t.client), true)
	}()
	t.copy(t.client, t.server, false)
	<-done
}

// copy passes bytes in one direction until it ends.
func (t *tunnel) copy(dst io.Writer, src io.Reader, upward bool) {
	b := t.pool.Get().(*buffer)
	defer b.put()
	reading, writing := sealtapv1.Outcome_OUTCOME_UPSTREAM_TRUNCATED, sealtapv1.Outcome_OUTCOME_CLIENT_ABORT
	if upward {
		reading, writing = writing, reading
	}
	for {
		n, err := src.Read(b.b)
		if n > 0 {
			t.alive()
			if upward && t.hello != nil {
				t.hello.feed(b.b[:n])
			}
			m, stuck := dst.Write(b.b[:n])
			t.note(b.b[:m], upward)
			if stuck != nil {
				t.end(writing, "writing: "+brief(stuck))
				return
			}
		}
		if err == io.EOF {
			t.half(dst)
			return
		}
		if err != nil {
			t.end(reading, "reading: "+brief(err))
			return
		}
	}
}

// note takes down what has passed.
func (t *tunnel) note(p []byte, upward bool) {
	t.mu.Lock()
	d := &t.down
	if upward {
		d = &t.up
	}
	d.digest.add(p)
	d.messages.feed(p)
	t.mu.Unlock()
	t.progress.moved(len(p))
}

// look returns what has passed so far.
func (t *tunnel) look() (up, down passed) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.up.passed(), t.down.passed()
}

func (t *tunnel) alive() {
	t.mu.Lock()
	d := t.silence
	t.mu.Unlock()
	t.idle.Reset(d)
}

// half passes on the end of one direction; the other may go on.
func (t *tunnel) half(dst io.Writer) {
	t.mu.Lock()
	t.silence = min(t.silence, halfOpen)
	t.mu.Unlock()
	t.alive()
	if c, ok := dst.(interface{ CloseWrite() error }); ok {
		if err := c.CloseWrite(); !errors.Is(err, http.ErrNotSupported) {
			return
		}
	}
	t.end(sealtapv1.Outcome_OUTCOME_COMPLETE, "")
}

// end cuts both connections. The first call says how the tunnel ended.
func (t *tunnel) end(outcome sealtapv1.Outcome, detail string) {
	t.mu.Lock()
	if t.outcome == 0 {
		t.outcome, t.detail = outcome, detail
	}
	t.mu.Unlock()
	_ = t.client.Close()
	_ = t.server.Close()
}

package proxy

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"strconv"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// exchange is one request with its response. It is pooled: nothing that can
// outlive the handler may point into it.
type exchange struct {
	p     *Proxy
	w     http.ResponseWriter
	r     *http.Request
	conn  *clientConn
	ctl   *http.ResponseController // of HTTP/2 requests, made when needed
	start time.Time

	id       [16]byte
	idText   string
	trace    [16]byte
	parent   string // the traceparent that goes on
	newTrace string // that one, where the request had no valid one
	trusted  bool   // the peer is

	crowded    bool // there are more than there may be
	retryAfter int  // in seconds, of what is refused for now

	route *routed   // that it takes; nil of a forward proxy, and where there is none
	at    *upstream // where it is in flight

	verdict verdict  // of rules
	known   identity // who it comes from, once that was asked
	asked   bool

	opened bool // the request record is durable
	closed bool // the response record is durable, or failed
	begun  bool // something of the answer was sent
	reuse  bool // nobody else can still hold the exchange

	caller   [16]byte // the exchange of the proxy before
	receipts []string // of the records so far, where the answer carries them

	drop   []string // headers of the request that end here
	body   requestBody
	answer answer
	st     statement
	tries  *attempts

	progress *progress // of an exchange that lasts

	unrecorded bool    // a record could not be made, and the exchange passes all the same
	tunnel     *tunnel // once the connections are joined
}

func (p *Proxy) newExchange() *exchange {
	x := &exchange{p: p}
	x.answer.x = x
	return x
}

func (x *exchange) begin(w http.ResponseWriter, r *http.Request) {
	x.w, x.r, x.start = w, r, time.Now()
	x.opened, x.closed, x.begun, x.reuse = false, false, false, true
	x.ctl, x.tries, x.newTrace, x.progress, x.tunnel = nil, nil, "", nil, nil
	x.route, x.at, x.unrecorded, x.verdict = nil, nil, false, verdict{}
	x.known, x.asked = identity{}, false
	x.crowded, x.retryAfter = x.p.occupied.exchanges.Add(1) > int64(x.p.cfg.Limits.Exchanges), 0
	x.drop, x.receipts = x.drop[:0], x.receipts[:0]
	x.body = requestBody{}
	x.answer.reset()
	var ok bool
	if x.conn, ok = r.Context().Value(connKey{}).(*clientConn); !ok {
		x.conn = &clientConn{text: r.RemoteAddr, addr: parseAddr(r.RemoteAddr)}
	}
	x.trusted = x.conn.inside == nil && x.conn.addr.IsValid() && x.p.trusts(x.conn.addr.Addr())
	x.id = x.p.ids.next(x.start)
	var buf [36]byte
	x.idText = string(appendUUID(buf[:0], x.id))
	ok = false
	if v := r.Header["Traceparent"]; len(v) == 1 && x.keepsTrace() && !hasToken(r.Header["Connection"], "traceparent") {
		x.parent = v[0]
		x.trace, ok = parseTraceparent(v[0])
	}
	if !ok {
		x.trace, x.newTrace = newTraceparent(x.p.samples)
		x.parent = x.newTrace
	}
}

// end leaves a response record for whatever ended the handler, and gives the
// exchange back to the pool.
func (x *exchange) end() {
	e := recover()
	x.progress.stop()
	if x.opened && !x.closed {
		detail := "the proxy gave up on the exchange"
		if e != nil && e != any(http.ErrAbortHandler) {
			detail = fmt.Sprintf("internal error: %v", e)
		}
		x.answer.stop()
		_ = x.finish(sealtapv1.Outcome_OUTCOME_UNKNOWN, detail)
	}
	x.p.occupied.exchanges.Add(-1)
	x.answer.release()
	x.body.release()
	x.tries.end()
	x.leave()
	if e != nil {
		panic(e)
	}
	if x.reuse {
		x.w, x.r, x.conn, x.ctl, x.tries = nil, nil, nil, nil, nil
		x.body = requestBody{}
		x.p.exchanges.Put(x)
	}
}

func (x *exchange) serve() {
	if why := x.malformed(); why != "" {
		x.refuse(http.StatusBadRequest, why)
		return
	}
	if status, why := x.oversized(); why != "" {
		x.refuse(status, why)
		return
	}
	if x.misdirected() {
		x.refuse(http.StatusMisdirectedRequest, "the authority is not that of the tunnel")
		return
	}
	if !x.fits() || !x.choose() || x.route != nil && !x.within(x.route.rate) || !x.admit() || !x.permit() {
		return
	}
	if x.r.Method == http.MethodConnect {
		x.connect()
		return
	}
	upgrade := wantsWebSocket(x.r)
	if !x.boundBody() {
		return
	}
	if err := x.takeBody(); err != nil {
		x.abandon(err)
		return
	}
	if !x.permitBody() || !x.open() {
		return
	}
	if upgrade {
		x.upgrade()
		return
	}
	x.forward()
}

// malformed says why a request is not to be forwarded. What can be read in two
// ways is not: somebody behind this proxy could read it the other way.
func (x *exchange) malformed() string {
	r := x.r
	if hosts := r.Header["Host"]; len(hosts) > 1 || len(hosts) == 1 && hosts[0] != r.Host {
		return "there is more than one host"
	}
	if len(r.Header["Content-Length"]) > 0 && (len(r.TransferEncoding) > 0 || len(r.Header["Content-Length"]) > 1) {
		return "the length of the body is given in two ways"
	}
	if len(r.Header["Transfer-Encoding"]) > 0 {
		return "the coding of the body is not known"
	}
	if why := x.malformedTwo(); why != "" {
		return why
	}
	if x.conn.inside != nil {
		return x.malformedInside()
	}
	reverse := x.p.reverse()
	switch absolute := r.URL.Host != "" && r.Method != http.MethodConnect; {
	case containsAt(r.Host):
		return "the authority holds a user name"
	case r.RequestURI == "*":
		return "the server as a whole cannot be asked through this proxy"
	case reverse && r.Method == http.MethodConnect:
		return "this is a reverse proxy: it opens no tunnels"
	case reverse && absolute:
		return "this is a reverse proxy: it takes no targets in absolute form"
	case !reverse && !absolute && r.Method != http.MethodConnect:
		return "this is a forward proxy: it needs targets in absolute form"
	case !reverse && absolute && r.URL.Scheme != "http":
		return "this proxy forwards http only, and opens tunnels with CONNECT"
	}
	return ""
}

func containsAt(host string) bool {
	for i := range len(host) {
		if host[i] == '@' {
			return true
		}
	}
	return false
}

// open makes the request record durable. If it cannot be, the client is told
// and open reports false.
func (x *exchange) open() bool {
	x.captureRequest()
	if x.body.kind != bodyStreamed {
		x.st.request.Body = x.st.body(0, x.body.size, x.body.sum)
	}
	if err := x.record(x.start); err != nil {
		if x.pass(err) {
			return true
		}
		x.unavailable(err)
		return false
	}
	x.opened = true
	return true
}

func (x *exchange) record(at time.Time) error {
	x.st.rec.Time = at.UnixNano()
	x.st.rec.Exchange = x.id[:]
	// What happened is recorded even if the client does not wait for it.
	if err := x.keep(); err != nil {
		if !x.failsOpen() {
			x.p.log.Error("recording failed", "exchange", x.idText, "error", err)
		}
		return err
	}
	return nil
}

// finish makes the response record durable. The headers of the answer are
// captured by then, if there is one.
func (x *exchange) finish(outcome sealtapv1.Outcome, detail string) error {
	x.closed = true
	x.progress.stop()
	s := &x.st
	p := &s.response
	a := &x.answer
	p.Reset()
	if !a.captured {
		s.reset()
	}
	if x.body.kind == bodyStreamed {
		size, sum := x.body.stream.snapshot()
		p.RequestBody = s.body(2, size, sum)
		x.captureStreamedTrailers()
	}
	x.captureInformational()
	s.sealHeaders()
	p.Status = uint32(a.status)
	p.Headers, p.Credentials, p.Changes = s.headers, x.allCredentials(), s.changes
	if a.captured {
		came := a.whatCame()
		p.Received = s.body(0, came.size, came.sum())
	}
	if a.status != 0 {
		p.Sent = s.body(1, a.sent.size, a.sent.sum())
	}
	p.MessagesUp, p.MessagesDown = x.countMessages()
	if a.tunnelled {
		p.Tunnel = &s.tunnel
	}
	x.captureAttempts(p)
	p.Outcome = outcome
	p.Detail = capped(x.detail(detail), maxDetail)
	now := time.Now()
	p.DurationNs = uint64(max(now.Sub(x.start), 0))
	s.answered.Response = p
	s.rec.Reset()
	s.rec.About = &s.answered
	if !x.opened {
		return nil // there is no request that it could be the answer to
	}
	// By the monotonic clock: an answer is never recorded before its request.
	err := x.record(x.start.Add(now.Sub(x.start)))
	if err != nil && x.pass(err) {
		if !x.begun {
			x.markUnrecorded(x.w.Header())
		}
		return nil
	}
	if err == nil {
		x.ended(outcome, now.Sub(x.start))
	}
	return err
}

// detail adds what the transport did to the words about an outcome.
func (x *exchange) detail(words string) string {
	add := func(s string) {
		if words != "" {
			words += "; "
		}
		words += s
	}
	if n := x.tries.count(); n > 1 {
		add(strconv.Itoa(n) + " attempts")
	}
	if list := x.tries.informational(); len(list) > 0 {
		add("informational answers: " + codesOf(list))
	}
	return words
}

func emptySum() [sha256.Size]byte {
	return [sha256.Size]byte{
		0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
		0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
	}
}

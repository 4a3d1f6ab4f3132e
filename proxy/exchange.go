package proxy

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// The values of Sealtap-Error.
const (
	codeAudit       = "audit-unavailable"
	codeRefused     = "refused"
	codeDenied      = "denied"
	codeUnreachable = "upstream-unreachable"
	codeTruncated   = "upstream-truncated"
	codeTimeout     = "timeout"
	codeNoUpstream  = "no-upstream"
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

// refuse records a request that is not forwarded, and says why.
func (x *exchange) refuse(status int, why string) {
	if x.body.none(); x.r.ContentLength != 0 {
		x.body.broken() // nothing of it was read
	}
	if !x.open() {
		return
	}
	x.fail(status, codeRefused, sealtapv1.Outcome_OUTCOME_REFUSED, why)
}

// abandon records a request whose body did not arrive. The upstream does not
// learn of it.
func (x *exchange) abandon(err error) {
	x.body.broken()
	if !x.open() {
		return
	}
	if isTimeout(err) {
		x.fail(http.StatusRequestTimeout, codeTimeout, sealtapv1.Outcome_OUTCOME_TIMEOUT, "the client sent no more of its request's body")
		return
	}
	if bad := badBody(err); bad != nil {
		x.fail(bad.Status, codeRefused, sealtapv1.Outcome_OUTCOME_REFUSED, bad.Reason)
		return
	}
	x.fail(http.StatusBadRequest, codeRefused, sealtapv1.Outcome_OUTCOME_CLIENT_ABORT, "reading the request's body: "+brief(err))
}

// fail answers in place of the upstream, as RFC 9457 describes, once that is
// recorded.
func (x *exchange) fail(status int, code string, outcome sealtapv1.Outcome, detail string) {
	x.failSaying(status, code, outcome, detail, detail)
}

// failBehind answers where an upstream is at fault. What stands behind a reverse
// proxy, and where, is nothing to tell everybody: that is in the record.
func (x *exchange) failBehind(status int, code string, outcome sealtapv1.Outcome, detail string) {
	said := detail
	if x.p.reverse() {
		switch code {
		case codeTimeout:
			said = "the upstream took too long"
		case codeTruncated:
			said = "the answer of the upstream did not come to its end"
		case codeNoUpstream:
			said = "no upstream is healthy"
		default:
			said = "the upstream gave no answer"
		}
	}
	x.failSaying(status, code, outcome, detail, said)
}

// failSaying is fail with other words to the client than to the record.
func (x *exchange) failSaying(status int, code string, outcome sealtapv1.Outcome, detail, said string) {
	x.answer.stop()
	x.progress.stop()
	if x.begun {
		_ = x.finish(outcome, detail)
		x.abort()
	}
	body := x.problem(status, said)
	a := &x.answer
	a.status = status
	a.part()
	a.sent.reset()
	if x.r.Method != http.MethodHead && x.conn.socks == nil {
		a.sent.whole(body)
	}
	if err := x.finish(outcome, detail); err != nil {
		x.unavailable(err)
		return
	}
	x.writeProblem(status, code, body)
}

// unavailable answers that nothing passes because it cannot be recorded. This
// answer is the one that leaves no record.
func (x *exchange) unavailable(error) {
	x.answer.stop()
	if x.begun {
		x.abort()
	}
	const status = http.StatusServiceUnavailable
	x.writeProblem(status, codeAudit, x.problem(status, "the exchange cannot be recorded, so it does not take place"))
}

func (x *exchange) problem(status int, detail string) []byte {
	body, err := json.Marshal(struct {
		Type     string `json:"type"`
		Title    string `json:"title"`
		Status   int    `json:"status"`
		Detail   string `json:"detail"`
		Exchange string `json:"exchange"`
	}{"about:blank", http.StatusText(status), status, capped(detail, maxDetail), x.idText})
	if err != nil {
		return nil // strings and numbers always encode
	}
	return append(body, '\n')
}

func (x *exchange) writeProblem(status int, code string, body []byte) {
	h := x.w.Header()
	clear(h)
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Sealtap-Error", code)
	h.Set("Sealtap-Exchange", x.idText)
	x.markUnrecorded(h)
	x.retryHeader(h)
	if status == http.StatusProxyAuthRequired {
		h.Set("Proxy-Authenticate", `Basic realm="sealtap", charset="UTF-8"`)
	}
	x.showReceipts(false)
	if x.body.pending() {
		h.Set("Connection", "close")
	}
	x.begun = true
	x.writeDeadline(true)
	x.w.WriteHeader(status)
	if x.r.Method != http.MethodHead {
		_, _ = x.w.Write(body)
	}
}

// abort cuts the answer, so that the client sees that it is not whole.
func (x *exchange) abort() {
	if x.r.ProtoMajor == 1 && x.r.ProtoMinor == 0 {
		// Closing the connection is how HTTP/1.0 ends an answer. A reset is not.
		reset(x.conn.Conn)
	}
	panic(http.ErrAbortHandler)
}

// cause says how an exchange ended if the client ended it, or the proxy's own
// stop, and reports whether that is so. What the server notices of a client it
// tells by ending the context, whatever it was.
func (x *exchange) cause() (sealtapv1.Outcome, string, bool) {
	x.answer.mu.Lock()
	ctx, stuck := x.r.Context(), x.answer.stuck
	x.answer.mu.Unlock()
	failed, stalled := x.body.stream.failed()
	switch {
	case errors.Is(context.Cause(ctx), errStopping):
		return sealtapv1.Outcome_OUTCOME_UNKNOWN, errStopping.Error(), true
	case stalled:
		return sealtapv1.Outcome_OUTCOME_TIMEOUT, x.body.stream.whyStalled(), true
	case errors.Is(stuck, errUnrecorded):
		return sealtapv1.Outcome_OUTCOME_UNKNOWN, errUnrecorded.Error(), true
	case isTimeout(stuck):
		return sealtapv1.Outcome_OUTCOME_TIMEOUT, "the client took no more of the answer", true
	case stuck != nil:
		return sealtapv1.Outcome_OUTCOME_CLIENT_ABORT, "writing to the client: " + brief(stuck), true
	case badBody(failed) != nil:
		return sealtapv1.Outcome_OUTCOME_REFUSED, failed.Error(), true
	case failed != nil:
		return sealtapv1.Outcome_OUTCOME_CLIENT_ABORT, "reading the request's body: " + brief(failed), true
	case ctx.Err() != nil:
		return sealtapv1.Outcome_OUTCOME_CLIENT_ABORT, "the client went away", true
	}
	return 0, "", false
}

func emptySum() [sha256.Size]byte {
	return [sha256.Size]byte{
		0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
		0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
	}
}

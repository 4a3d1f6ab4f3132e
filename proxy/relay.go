package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// answer is the upstream's answer on its way to the client.
//
// What is small is held until it is whole, recorded, and written at once. It is
// held for no longer than patience: then a timer lets pass what is there, and
// from there on bytes pass as they come. In every case the end waits for the
// record.
type answer struct {
	x        *exchange
	captured bool // its headers are in the statement
	status   int  // as sent, or about to be sent, to the client
	major    int  // version of HTTP in which it came; 0 while there is none
	sent     digest
	received digest // if it is apart; else it is what was sent
	apart    bool
	got      uint64 // bytes of a body that flows
	declared uint64 // how many there are to be; 0 if that is not known

	tunnelled bool
	messages  messages // of those that were sent

	data  *buffer
	timer *time.Timer
	hush  hush

	mu      sync.Mutex // guards what follows while the timer runs
	n       int        // bytes in data that are not sent
	flowing bool       // headers were sent, and bytes pass as they come
	over    bool       // the timer has nothing to do any more
	stuck   error      // of writing to the client
}

func (a *answer) reset() {
	a.captured, a.status, a.major, a.tunnelled = false, 0, 0, false
	a.sent.reset()
	a.apart, a.got, a.declared = false, 0, 0
	a.n, a.flowing, a.over, a.stuck = 0, false, true, nil
	a.hush.reset()
	a.messages.reset(framingNone)
}

// release gives back what the answer holds.
func (a *answer) release() {
	if a.data != nil {
		a.data.put()
		a.data = nil
	}
}

// arm starts the timer.
func (a *answer) arm() {
	a.over = false
	if a.timer == nil {
		a.timer = time.AfterFunc(patience, a.lapse)
		return
	}
	a.timer.Reset(patience)
}

// stop ends the timer. When it returns nobody else uses the answer.
func (a *answer) stop() {
	a.endHush()
	if a.over {
		return
	}
	if !a.timer.Stop() {
		// Its function may only begin now, and must not find another exchange.
		a.x.reuse = false
	}
	a.mu.Lock()
	a.over = true
	a.mu.Unlock()
}

// lapse lets pass what is held.
func (a *answer) lapse() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.over && !a.flowing {
		a.flow()
	}
}

// flow sends the headers and what is held, and lets what follows pass.
func (a *answer) flow() {
	a.flowing = true
	a.beginHush()
	x := a.x
	x.streams()
	x.begun = true
	x.showReceipts(true)
	x.writeDeadline(true)
	x.w.WriteHeader(a.status)
	held := a.data.b[:a.n]
	a.got, a.n = uint64(a.n), 0
	a.passAll(held)
}

// passAll writes to the client, but for the last byte that was declared: that waits
// for the record, at the beginning of data.
func (a *answer) passAll(p []byte) {
	rest := len(p)
	if a.declared > 0 && a.got >= a.declared && rest > 0 {
		rest--
	}
	a.pass(p[:rest])
	a.flush()
	if rest < len(p) {
		a.data.b[0], a.n = p[rest], 1
	}
}

// pass writes to the client.
func (a *answer) pass(p []byte) {
	if len(p) == 0 {
		return
	}
	if a.stuck != nil {
		a.keep(p)
		return
	}
	n, err := a.x.w.Write(p)
	a.sent.add(p[:n])
	a.messages.feed(p[:n])
	a.stuck = err
	a.keep(p[n:])
	a.x.progress.moved(n)
}

// keep adds to what was received bytes that were not sent. What passes is hashed
// once as long as there are none.
func (a *answer) keep(p []byte) {
	if len(p) > 0 {
		a.part()
		a.received.add(p)
	}
}

// part lets what was sent go on without what was received.
func (a *answer) part() {
	if !a.apart {
		a.received.set(&a.sent)
		a.apart = true
	}
}

// whatCame is the digest of what was received.
func (a *answer) whatCame() *digest {
	if a.apart {
		return &a.received
	}
	return &a.sent
}

func (a *answer) flush() {
	if a.stuck == nil {
		if f, ok := a.x.w.(interface{ FlushError() error }); ok {
			a.stuck = f.FlushError()
		}
	}
	a.x.writeDeadline(false)
}

// forward sends the request on and its answer back.
func (x *exchange) forward() {
	if x.body.kind == bodyStreamed {
		x.streams()
	}
	res, err := x.roundTrip(false)
	if err != nil {
		x.failUpstream(err)
		return
	}
	defer res.Body.Close()
	if res.StatusCode < 200 || res.StatusCode > 999 {
		x.fail(http.StatusBadGateway, codeUnreachable, sealtapv1.Outcome_OUTCOME_UPSTREAM_UNREACHABLE,
			"the upstream answered with status "+strconv.Itoa(res.StatusCode)+", which was not asked for")
		return
	}
	x.takeHeaders(res)
	x.relay(res)
}

// takeHeaders records the headers of the answer and prepares them for the client.
func (x *exchange) takeHeaders(res *http.Response) {
	x.st.reset()
	x.answer.captured = true
	x.answer.status, x.answer.major = res.StatusCode, res.ProtoMajor
	x.answer.mu.Lock() // a progress record may be looking
	x.answer.messages.reset(framingOf(res.Header.Get("Content-Type")))
	x.answer.mu.Unlock()
	dst := x.w.Header()
	x.captureHeaders(res.Header, "", func(name string, rule headerRule) {
		if x.answerHeader(name, rule) {
			dst[name] = res.Header[name]
		}
	})
	x.answerChanges(res.Header, res.StatusCode)
	removeNamed(dst, res.Header["Connection"])
	v := new([2]string)
	v[0] = x.idText
	dst["Sealtap-Exchange"] = v[:1:1]
	x.markUnrecorded(dst)
	if _, ok := dst["Content-Type"]; !ok {
		dst["Content-Type"] = nil // else the server guesses one
	}
	if res.StatusCode == http.StatusNoContent {
		delete(dst, "Content-Length")
	}
	for name := range res.Trailer {
		if x.p.headers.trails(name) {
			dst.Add("Trailer", name)
		}
	}
	if x.body.pending() && x.r.ProtoMajor == 1 {
		v[1] = "close"
		dst["Connection"] = v[1:2:2]
	}
}

// relay passes the body of the answer. Its end waits for the record.
func (x *exchange) relay(res *http.Response) {
	a := &x.answer
	declared := res.ContentLength
	if res.Body == http.NoBody || x.r.Method == http.MethodHead || !bodyAllowed(res.StatusCode) {
		declared = 0
	}
	a.hush.body, a.declared = res.Body, uint64(max(declared, 0))
	switch {
	case declared == 0:
		x.deliver(res, nil)
		return
	case declared > int64(x.p.cfg.BufferLimit), endless(res):
		a.data = x.p.copies.Get().(*buffer)
		a.over = true
		a.mu.Lock()
		a.flow()
		a.mu.Unlock()
	case declared > 0:
		a.data = x.p.bufferFor(int(declared) + 1)
		a.arm()
	default:
		a.data = x.p.copies.Get().(*buffer)
		a.arm()
	}
	err := x.pump(res.Body, declared)
	a.stop()
	x.progress.stop()
	x.captureTrailers(res)
	switch {
	case err == io.EOF && !a.flowing:
		if declared < 0 && len(res.Trailer) == 0 {
			x.w.Header()["Content-Length"] = []string{strconv.Itoa(a.n)}
			if res.ProtoMajor == 1 {
				x.st.changed(reframed, "body")
			}
		}
		x.deliver(res, a.data.b[:a.n])
	case err == io.EOF:
		x.deliverEnd(res)
	default:
		a.keep(a.data.b[:a.n])
		x.failBody(err)
	}
}

func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// endless reports whether an answer is made to be read as it comes, so that
// even its headers must not wait.
func endless(res *http.Response) bool {
	kind := res.Header["Content-Type"]
	return len(kind) > 0 && (hasFoldPrefix(kind[0], "text/event-stream") || hasFoldPrefix(kind[0], "application/grpc"))
}

func hasFoldPrefix(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// pump reads the body until its end and lets pass what is not held. It returns
// io.EOF at the end of a whole body; what is then left in data is held.
func (x *exchange) pump(body io.Reader, declared int64) error {
	a := &x.answer
	for {
		off := a.held()
		if off == len(a.data.b) {
			return errors.New("the answer is longer than its length")
		}
		a.hush.waits(x.start)
		n, err := body.Read(a.data.b[off:])
		if a.hush.over(); err != nil && err != io.EOF && a.silenced() {
			err = errSilent
		}
		if stuck := a.take(off, n, declared, err); stuck != nil {
			return stuck
		}
		if err != nil {
			return err
		}
	}
}

func (a *answer) held() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.n
}

// take adds n bytes that were read at off, and passes on what must not wait.
func (a *answer) take(off, n int, declared int64, end error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	fresh := a.data.b[off : off+n]
	if !a.flowing {
		a.n = off + n
		if end == nil && declared < 0 && n > 0 {
			// Its length is not known, so the client may wait for just this.
			a.flow()
		}
		return a.stuck
	}
	if n == 0 {
		return a.stuck
	}
	a.got += uint64(n)
	if a.n != off {
		copy(a.data.b[a.n:], fresh) // the timer sent what stood before them, or all but a byte of it
	}
	fresh = a.data.b[:a.n+n]
	a.n = 0
	a.x.writeDeadline(true)
	a.passAll(fresh)
	return a.stuck
}

// deliver records an answer that is whole and held, and sends it.
func (x *exchange) deliver(res *http.Response, body []byte) {
	a := &x.answer
	x.progress.stop()
	a.sent.whole(body)
	a.messages.feed(body)
	if err := x.finish(sealtapv1.Outcome_OUTCOME_COMPLETE, ""); err != nil {
		x.unavailable(err)
		return
	}
	x.begun = true
	x.announceTrailers(res)
	x.showReceipts(false)
	x.writeDeadline(true)
	x.w.WriteHeader(a.status)
	if len(body) > 0 {
		_, _ = x.w.Write(body)
	}
	if x.r.ProtoMajor > 1 && len(res.Trailer) > 0 {
		// net/http would give a length to an answer that ends now, and there are clients
		// (curl) that read no further than that.
		_ = x.control().Flush() // what is wrong shows when the handler returns
	}
	x.sendTrailers(res)
}

// deliverEnd records an answer of which all but the end was sent, and sends
// that: the last byte, where there is one held, and on return of the handler the
// terminating chunk with the trailers, or END_STREAM.
func (x *exchange) deliverEnd(res *http.Response) {
	a := &x.answer
	last := a.data.b[:a.n]
	a.sent.add(last)
	a.messages.feed(last)
	if err := x.finish(sealtapv1.Outcome_OUTCOME_COMPLETE, ""); err != nil {
		x.abort()
	}
	x.writeDeadline(true)
	if len(last) > 0 {
		_, _ = x.w.Write(last)
	}
	x.trailReceipt()
	x.sendTrailers(res)
}

// failBody ends an answer of which not everything came, or could be sent.
func (x *exchange) failBody(err error) {
	outcome, detail, cut := x.cause()
	switch {
	case cut:
	case isTimeout(err):
		outcome, detail = sealtapv1.Outcome_OUTCOME_TIMEOUT, "reading the answer: "+brief(err)
	default:
		outcome, detail = sealtapv1.Outcome_OUTCOME_UPSTREAM_TRUNCATED, "reading the answer: "+brief(err)
	}
	if x.begun || cut {
		if !x.begun {
			x.answer.status = 0
		}
		_ = x.finish(outcome, detail)
		x.abort()
	}
	x.failBehind(http.StatusBadGateway, codeTruncated, outcome, detail)
}

// writeDeadline bounds how long the client may take to make room for what is
// written next. On HTTP/2 a deadline ends the stream even while nothing is
// written, so it is lifted in between; on HTTP/1 the server lifts it.
func (x *exchange) writeDeadline(set bool) {
	if x.r.ProtoMajor == 1 {
		if set && x.conn.Conn != nil {
			_ = x.conn.SetWriteDeadline(time.Now().Add(x.waits().write))
		}
		return
	}
	var t time.Time
	if set {
		t = time.Now().Add(x.waits().write)
	}
	_ = x.control().SetWriteDeadline(t)
}

// readDeadline bounds how long the client may take with a small body.
func (x *exchange) readDeadline(set bool) {
	var t time.Time
	if set {
		t = time.Now().Add(x.waits().body)
	}
	if x.r.ProtoMajor != 1 {
		_ = x.control().SetReadDeadline(t)
	} else if x.conn.Conn != nil {
		_ = x.conn.SetReadDeadline(t)
	}
}

func (x *exchange) control() *http.ResponseController {
	if x.ctl == nil {
		x.ctl = http.NewResponseController(x.w)
	}
	return x.ctl
}

// reset makes the closing of a connection one that no peer takes for an end.
func reset(c net.Conn) {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = t.NetConn()
	}
	if t, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = t.SetLinger(0)
	}
}

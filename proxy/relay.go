package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

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

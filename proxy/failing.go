package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

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

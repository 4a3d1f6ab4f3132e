package proxy

import (
	"net/http"
	"slices"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// What a proxy always does is implied, and stands in no record: docs/formats.md,
// "Changes". The rest is recorded, up to maxChanges; one more stands for all that
// are too many.
const maxChanges = 32

const (
	removed  = sealtapv1.ChangeKind_CHANGE_KIND_REMOVED
	replaced = sealtapv1.ChangeKind_CHANGE_KIND_REPLACED
	reframed = sealtapv1.ChangeKind_CHANGE_KIND_REFRAMED
)

// changed notes a change of the message that the statement is about. There are
// few: the first ones cost nothing.
func (s *statement) changed(kind sealtapv1.ChangeKind, name string) {
	n := len(s.changes)
	if n > maxChanges {
		return
	}
	if n == maxChanges {
		kind, name = sealtapv1.ChangeKind_CHANGE_KIND_UNSPECIFIED, "others"
	}
	c := new(sealtapv1.Change)
	if n < len(s.changeSlab) {
		c = &s.changeSlab[n]
		c.Reset()
	}
	c.Kind, c.Name = kind, capped(name, maxHeaderName)
	s.changes = append(s.changes, c)
}

// connectionOnly are the headers about the connection that a message came over
// (RFC 9110, section 7.6.1), and those that say how its body is delimited: no
// proxy passes them.
func connectionOnly(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Transfer-Encoding", "Content-Length", "Host", "Te", "Trailer", "Expect", "Upgrade", "Http2-Settings":
		return true
	}
	return false
}

// requestChanges records what of the request does not go on as it came. The
// headers are captured by then.
func (x *exchange) requestChanges(q *sealtapv1.Request) {
	s, r := &x.st, x.r
	s.changes = s.changes[:0]
	if x.route != nil && (x.route.strip > 0 || x.route.pool.prefix) {
		s.changed(replaced, "path")
	}
	for _, name := range x.drop {
		if !connectionOnly(name) && !(name == exchangeHeader && q.GetCaller() != nil) {
			s.changed(removed, x.p.headers.of(name).lower)
		}
	}
	if c := r.Header["Connection"]; len(c) > 0 {
		connectionTokens(c, func(name string) {
			if _, ok := r.Header[name]; ok && !connectionOnly(name) && !slices.Contains(x.drop, name) && !(name == "Traceparent" && x.newTrace != "") {
				s.changed(removed, x.p.headers.of(name).lower)
			}
		})
	}
	if x.newTrace != "" {
		if _, ok := r.Header["Traceparent"]; ok {
			s.changed(replaced, "traceparent")
		}
		if _, ok := r.Header["Tracestate"]; ok {
			s.changed(removed, "tracestate")
		}
	}
	x.bodyChanges()
	q.Changes = s.changes
}

// bodyChanges records what becomes of framing and trailers of a request's body.
func (x *exchange) bodyChanges() {
	s, r := &x.st, x.r
	if len(r.Trailer) == 0 {
		if x.body.kind == bodyBuffered && r.ContentLength < 0 && r.ProtoMajor == 1 {
			s.changed(reframed, "body")
		}
		return
	}
	pass := x.trailer()
	for _, name := range sortedNames(r.Trailer) {
		if _, ok := pass[name]; !ok {
			s.changed(removed, "trailer:"+x.p.headers.of(name).lower)
		}
	}
}

func sortedNames(h http.Header) []string {
	list := make([]string, 0, len(h))
	for name := range h {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// answerHeader takes note of a header of an answer, and reports whether it passes.
func (x *exchange) answerHeader(name string, rule headerRule) bool {
	if rule.fate == fateHop && name != "Content-Length" || rule.fate == fateOwned {
		if !connectionOnly(name) {
			x.st.changed(removed, rule.lower)
		}
		return false
	}
	return true
}

// answerChanges records what else becomes of the head of an answer.
func (x *exchange) answerChanges(h http.Header, status int) {
	if c := h["Connection"]; len(c) > 0 {
		connectionTokens(c, func(name string) {
			if _, ok := h[name]; ok && x.p.headers.of(name).fate == fatePass {
				x.st.changed(removed, x.p.headers.of(name).lower)
			}
		})
	}
	if _, ok := h["Content-Length"]; ok && status == http.StatusNoContent {
		x.st.changed(removed, "content-length")
	}
}

// trailerChanges records which trailers of an answer do not pass: none where there is
// no place for them.
func (x *exchange) trailerChanges(h http.Header, some bool) {
	for _, name := range sortedNames(h) {
		if rule := x.p.headers.of(name); len(h[name]) > 0 && (!some || rule.fate == fateHop || rule.fate == fateOwned) {
			x.st.changed(removed, "trailer:"+rule.lower)
		}
	}
}

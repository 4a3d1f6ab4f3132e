package proxy

import (
	"errors"
	"net/http"
	"strconv"
)

// informational is a 1xx answer. Such answers pass at once; what they said stands in
// the response record, with their status before the names of their headers.
type informational struct {
	code   int
	header http.Header // as it came
	passed bool        // to the client; one of HTTP/1.0 knows none
}

const maxInformational = 16

var errManyInformational = errors.New("the upstream sends one informational answer after the other")

// Informational passes on an informational answer, except 100: that the server sends
// itself when the transport begins to read the body.
func (r *tracer) Informational(code int, header http.Header) error {
	t := r.all
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over || r.over || code == http.StatusContinue {
		return nil
	}
	if t.room -= sizeOfHeader(header); t.room < 0 || len(t.info) == maxInformational {
		return errManyInformational
	}
	t.info = append(t.info, informational{code, header, t.w != nil})
	if t.w == nil {
		return nil
	}
	h := t.w.Header()
	for name, values := range header {
		if r := t.rules.of(name); r.fate != fateHop && r.fate != fateOwned {
			h[name] = values
		}
	}
	removeNamed(h, header["Connection"])
	// A server leaves the length out. That of HTTP/2 makes a copy for that, and only then:
	// of a stream that is reset it may write h after it has returned.
	h["Content-Length"] = []string{"0"}
	t.w.WriteHeader(code)
	clear(h)
	return nil
}

// sizeOfHeader is about how many bytes the lines of a header have.
func sizeOfHeader(h http.Header) (n int) {
	for name, values := range h {
		for _, v := range values {
			n += len(name) + len(v) + len(": \r\n")
		}
	}
	return n
}

// informational returns the 1xx answers that came. There will be no more of them once
// the answer itself is there.
func (t *attempts) informational() []informational {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.info
}

// codesOf lists the codes of 1xx answers.
func codesOf(list []informational) string {
	var b []byte
	for i := range list {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = strconv.AppendInt(b, int64(list[i].code), 10)
	}
	return string(b)
}

// captureInformational records the headers of 1xx answers behind those of the answer.
func (x *exchange) captureInformational() {
	for _, a := range x.tries.informational() {
		code := strconv.Itoa(a.code)
		x.captureHeaders(a.header, code+":", nil)
		if !a.passed {
			x.st.changed(removed, code)
			continue
		}
		named := make(map[string]bool)
		connectionTokens(a.header["Connection"], func(name string) { named[name] = true })
		for _, name := range sortedNames(a.header) {
			rule := x.p.headers.of(name)
			if (named[name] || rule.fate == fateHop || rule.fate == fateOwned) && !connectionOnly(name) {
				x.st.changed(removed, code+":"+rule.lower)
			}
		}
	}
}

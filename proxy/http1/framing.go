package http1

import (
	"io"
	"net/http"
	"strings"
)

// framing collects the headers of a request that say whom it is for and where it
// ends (RFC 9112, sections 3.2 and 6).
type framing struct {
	q                              *request
	hosts, lengths, codings        []string
	host, length                   [1]string // room for the common case
	connection, trailer, expecting bool
}

// field adds a header. slot, if there is one, holds its value already.
func (f *framing) field(name, value string, slot []string) {
	switch name {
	case "Host":
		if f.hosts == nil {
			f.hosts = f.host[:0]
		}
		f.hosts = append(f.hosts, value)
		return
	case "Transfer-Encoding":
		f.codings = append(f.codings, value)
		return
	case "Content-Length":
		if f.lengths == nil {
			f.lengths = f.length[:0]
		}
		f.lengths = append(f.lengths, value)
	case "Connection":
		f.connection = true
	case "Trailer":
		f.trailer = true
	case "Expect":
		f.expecting = true
	}
	h := f.q.Header
	switch old, ok := h[name]; {
	case ok:
		h[name] = append(old, value)
	case slot != nil:
		h[name] = slot
	default:
		h[name] = []string{value}
	}
}

// keep puts into the headers of a request that is refused what it is not a
// request for: it is to be written down.
func (f *framing) keep(err *Error) *Error {
	if err == nil {
		return nil
	}
	if len(f.hosts) > 1 {
		f.q.Header["Host"] = append([]string(nil), f.hosts...)
	}
	if len(f.codings) > 0 {
		f.q.Header["Transfer-Encoding"] = f.codings
	}
	return err
}

// settle decides what the request is for and where it ends.
func (f *framing) settle() *Error {
	q := f.q
	for _, decide := range [...]func() *Error{f.settleHost, f.settleLength} {
		if err := decide(); err != nil {
			return err
		}
	}
	q.Close = q.ProtoMinor == 0
	if f.connection {
		values := q.Header["Connection"]
		q.Close = listed(values, "close") || q.ProtoMinor == 0 && !listed(values, "keep-alive")
	}
	if f.trailer && q.body.chunked {
		if err := f.settleTrailer(); err != nil {
			return err
		}
	}
	if f.expecting && q.ProtoMinor > 0 {
		if v := q.Header["Expect"]; len(v) != 1 || !strings.EqualFold(v[0], "100-continue") {
			return &Error{http.StatusExpectationFailed, "the expectation is not known"}
		}
		q.body.expect = q.ContentLength != 0
	}
	return nil
}

func (f *framing) settleHost() *Error {
	q := f.q
	switch {
	case len(f.hosts) > 1:
		return bad("there is more than one Host")
	case len(f.hosts) == 1 && !ValidHost(f.hosts[0]):
		return bad("the Host cannot be read")
	case len(f.hosts) == 0 && q.ProtoMinor > 0:
		return bad("there is no Host")
	}
	if len(f.hosts) == 1 {
		q.Host = f.hosts[0]
	}
	if q.u.Host == "" {
		return nil
	}
	// A CONNECT has no other place for its target, and its Host goes nowhere.
	if len(f.hosts) == 1 && q.Method != http.MethodConnect && !strings.EqualFold(q.Host, q.u.Host) {
		return bad("the target and the Host name different hosts")
	}
	q.Host = q.u.Host
	return nil
}

func (f *framing) settleLength() *Error {
	q := f.q
	switch {
	case len(f.codings) > 0 && len(f.lengths) > 0:
		return bad("the body has both a Content-Length and a Transfer-Encoding")
	case len(f.codings) > 1:
		return bad("there is more than one Transfer-Encoding")
	case len(f.codings) == 1 && q.ProtoMinor == 0:
		return bad("HTTP/1.0 knows no Transfer-Encoding")
	case len(f.codings) == 1 && !strings.EqualFold(f.codings[0], "chunked"):
		return bad("the Transfer-Encoding is not chunked")
	case len(f.codings) == 1:
		q.TransferEncoding = []string{"chunked"}
		q.ContentLength, q.Body, q.body.chunked = -1, &q.body, true
		return nil
	case len(f.lengths) > 1:
		return bad("there is more than one Content-Length")
	case len(f.lengths) == 1:
		n, ok := ParseLength(f.lengths[0])
		if !ok {
			return bad("the Content-Length is not a number that everybody reads alike")
		}
		if q.ContentLength, q.body.left = n, n; n > 0 {
			q.Body = &q.body
			return nil
		}
	}
	q.body.err = io.EOF
	q.body.done.Store(true)
	return nil
}

// ParseLength reads a length. Leading zeros are digits too, but some take what
// follows them for octal.
func ParseLength(s string) (n int64, ok bool) {
	const most = 18 // digits; more might not fit
	if s == "" || len(s) > most || s[0] == '0' && len(s) > 1 {
		return 0, false
	}
	for i := range len(s) {
		if !digit(s[i]) {
			return 0, false
		}
		n = 10*n + int64(s[i]-'0')
	}
	return n, true
}

// settleTrailer takes note of the trailers that are announced.
func (f *framing) settleTrailer() (err *Error) {
	q := f.q
	t := make(http.Header)
	splitList(q.Header["Trailer"], func(name string) bool {
		if !validToken(name) {
			err = bad("a trailer is announced that cannot be one")
			return false
		}
		name = http.CanonicalHeaderKey(name)
		if err = checkTrailer(name); err == nil {
			t[name] = nil
		}
		return err == nil
	})
	if err == nil && len(t) > MaxTrailers {
		err = errTrailers
	}
	if err != nil {
		return err
	}
	delete(q.Header, "Trailer")
	if len(t) > 0 {
		q.Trailer = t
	}
	return nil
}

// checkTrailer returns an error if a field would change, behind the body, what
// was decided ahead of it (RFC 9110, section 6.5.1).
func checkTrailer(name string) *Error {
	switch name {
	case "Transfer-Encoding", "Content-Length", "Host", "Trailer", "Connection", "Keep-Alive", "Proxy-Connection", "Upgrade", "Te", "Expect",
		"Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "Content-Encoding", "Content-Type", "Content-Range", "Range", "Max-Forwards",
		"Cache-Control", "Pragma", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Vary":
		return bad("a field stands in the trailers that must not")
	}
	return nil
}

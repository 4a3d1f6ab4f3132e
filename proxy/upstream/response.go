package upstream

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// answer is a response with what belongs to it, in one piece of memory.
type answer struct {
	res    http.Response
	body   body
	values [12]string // of headers, one after the other
}

// framing of the body of an answer (RFC 9112, section 6.3).
type bodyKind uint8

const (
	bodyNone bodyKind = iota
	bodyLength
	bodyChunked
	bodyToClose
)

// readHead reads the status line and the headers of an answer, and finds out how
// its body is framed; keep says whether the connection can be used again behind
// it.
func readHead(in *reader, limit int, method string) (a *answer, kind bodyKind, keep bool, err error) {
	text, lines, err := in.lines(limit)
	if err != nil {
		if err == io.EOF && in.buffered() > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, 0, false, err
	}
	a = new(answer)
	first, rest, _ := strings.Cut(text, "\r\n")
	if err := a.status(first); err != nil {
		return nil, 0, false, err
	}
	if a.res.Header, err = parseFields(rest, lines-1, a.values[:]); err != nil {
		return nil, 0, false, err
	}
	kind, keep, err = a.frame(method)
	return a, kind, keep, err
}

// status reads a status line (RFC 9112, section 4).
func (a *answer) status(s string) error {
	const form = "HTTP/1.x 200"
	switch {
	case len(s) < len(form) || s[:7] != "HTTP/1." || s[8] != ' ' || s[7] != '0' && s[7] != '1':
		return malformed("it does not begin with a version of HTTP/1")
	case s[9] < '1' || s[9] > '9' || s[10] < '0' || s[10] > '9' || s[11] < '0' || s[11] > '9':
		return malformed("the status is not a number from 100 to 999")
	case len(s) > len(form) && s[len(form)] != ' ' || !validText(s):
		return malformed("the status line does not end as it must")
	}
	r := &a.res
	r.Proto, r.Status = s[:8], s[9:]
	r.ProtoMajor, r.ProtoMinor = 1, int(s[7]-'0')
	r.StatusCode = int(s[9]-'0')*100 + int(s[10]-'0')*10 + int(s[11]-'0')
	return nil
}

// parseFields reads header lines (RFC 9112, section 5). Their values share the
// memory of s; the slices of them are cut from values, if that is large enough.
func parseFields(s string, lines int, values []string) (http.Header, error) {
	h := make(http.Header, lines)
	if lines > len(values) {
		values = make([]string, lines)
	}
	for s != "" {
		var l string
		l, s, _ = strings.Cut(s, "\r\n")
		if l == "" || l[0] == ' ' || l[0] == '\t' {
			return nil, malformed("a header goes on over more than one line")
		}
		colon := strings.IndexByte(l, ':')
		if colon < 0 {
			return nil, malformed("a header has no colon")
		}
		name, ok := canonicalName(l[:colon])
		if !ok {
			return nil, malformed("the name of a header is not a token")
		}
		v := trim(l[colon+1:])
		if !validText(v) {
			return nil, malformed("the value of a header holds a control character")
		}
		if prior, ok := h[name]; ok {
			h[name] = append(prior, v)
			continue
		}
		values[0] = v
		h[name], values = values[:1:1], values[1:]
	}
	return h, nil
}

// frame finds the length of the body.
func (a *answer) frame(method string) (kind bodyKind, keep bool, err error) {
	r := &a.res
	h := r.Header
	length, err := contentLength(h)
	if err != nil {
		return 0, false, err
	}
	codings, coded := h["Transfer-Encoding"]
	if coded {
		delete(h, "Transfer-Encoding")
		switch {
		case len(codings) != 1 || !equalFold(codings[0], "chunked"):
			return 0, false, malformed("the coding of the body is not known")
		case length >= 0:
			return 0, false, malformed("the length of the body is given in two ways")
		case r.ProtoMinor == 0 || r.StatusCode < 200 || r.StatusCode == http.StatusNoContent:
			return 0, false, malformed("a coding stands where there can be none")
		}
		r.TransferEncoding = chunkedCoding()
		if err := a.announced(); err != nil {
			return 0, false, err
		}
	}
	if r.StatusCode < 200 && length > 0 {
		return 0, false, malformed("a length stands where there can be none")
	}
	r.Close = r.ProtoMinor == 0 || hasElement(h["Connection"], "close")
	// RFC 9110, section 9.3.2, and RFC 9112, section 6.3.
	head := method == http.MethodHead
	bodiless := r.StatusCode < 200 || r.StatusCode == http.StatusNoContent || r.StatusCode == http.StatusNotModified
	r.ContentLength = length
	switch {
	case head || bodiless:
		r.Body = http.NoBody
		if !head {
			r.ContentLength = 0
		}
		// Who gives a length where there can be no body may send one.
		keep = head || r.StatusCode == http.StatusNotModified || length <= 0
		return bodyNone, keep && !r.Close, nil
	case coded:
		return bodyChunked, !r.Close, nil
	case length == 0:
		r.Body = http.NoBody
		return bodyNone, !r.Close, nil
	case length > 0:
		return bodyLength, !r.Close, nil
	}
	r.Close = true
	return bodyToClose, false, nil
}

func chunkedCoding() []string { return []string{"chunked"} }

// contentLength returns -1 if there is none. The same length twice counts as
// once (RFC 9110, section 8.6), so that only one goes on.
func contentLength(h http.Header) (int64, error) {
	values := h["Content-Length"]
	if len(values) == 0 {
		return -1, nil
	}
	s := values[0]
	for _, v := range values[1:] {
		if v != s {
			return 0, malformed("the length of the body is given more than once")
		}
	}
	h["Content-Length"] = values[:1]
	if len(s) == 0 || len(s) > 18 {
		return 0, malformed("the length of the body is not a number")
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, malformed("the length of the body is not a number")
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: the length of the body is not a number", ErrMalformed)
	}
	return n, nil
}

// announced moves the names of the trailers to where net/http has them.
func (a *answer) announced() error {
	h := a.res.Header
	values, ok := h["Trailer"]
	if !ok {
		return nil
	}
	delete(h, "Trailer")
	bad := false
	elements(values, func(s string) {
		name, ok := canonicalName(s)
		if !ok || framing(name) {
			bad = true
			return
		}
		if a.res.Trailer == nil {
			a.res.Trailer = make(http.Header)
		}
		a.res.Trailer[name] = nil
	})
	if bad {
		return malformed("a trailer is announced that there cannot be")
	}
	return nil
}

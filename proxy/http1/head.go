package http1

import (
	"bytes"
	"net/http"
	"net/url"
	"strings"
)

// request is a request with what belongs to it. It is made as one, and never
// used for another.
type request struct {
	http.Request
	u      url.URL
	body   body
	values [14]string // of headers
}

// head is what is known of a request's head while it arrives.
type head struct {
	pos     int  // behind the last whole line
	end     int  // behind the empty line, once that is there
	skipped bool // an empty line ahead of it
}

// scan takes apart the lines of a head as far as it is there, and reports
// whether it is whole. The lines' ends are in the buffer's scratch.
func (h *head) scan(in *buffer, cfg *Limits) (whole bool, err *Error) {
	if h.pos == 0 {
		in.lines = in.lines[:0]
	}
	b := in.b[in.r:in.w]
	for {
		i := bytes.IndexByte(b[h.pos:], '\n')
		if i < 0 {
			break
		}
		end := h.pos + i
		switch {
		case i == 0 || b[end-1] != '\r':
			return false, errBareLF
		case i > 1:
			in.lines = append(in.lines, end-1)
			h.pos = end + 1
		case len(in.lines) == 0 && !h.skipped:
			// RFC 9112, section 2.2: one of them at least should be ignored.
			h.skipped = true
			in.r += 2
			b = b[2:]
		case len(in.lines) == 0:
			return false, bad("there are empty lines ahead of the request line")
		default:
			h.end = end + 1
			return true, h.large(h.end, in, cfg)
		}
		if len(in.lines) > cfg.MaxHeaders+1 {
			return false, &Error{http.StatusRequestHeaderFieldsTooLarge, "there are too many header lines"}
		}
	}
	if len(in.lines) == 0 && hopeless(b) {
		return false, bad("this is no request line")
	}
	return false, h.large(len(b), in, cfg)
}

// large is the error of a head of n bytes or more that is too large.
func (h *head) large(n int, in *buffer, cfg *Limits) *Error {
	const around = 64 // what the request line is more than its target
	line := n
	if len(in.lines) > 0 {
		line = in.lines[0]
	}
	switch {
	case line > cfg.MaxTarget+around:
		return errLongTarget
	case n > cfg.MaxHeaderBytes:
		return &Error{http.StatusRequestHeaderFieldsTooLarge, "the head of the request is too large"}
	}
	return nil
}

var errLongTarget = &Error{http.StatusRequestURITooLong, "the target of the request is too long"}

// hopeless reports whether the beginning of a line will never be that of a
// request, so that there is no point in waiting for its end.
func hopeless(b []byte) bool {
	for i, c := range b {
		if (c < ' ' || c == 0x7f) && (c != '\r' || i != len(b)-1) {
			return true
		}
	}
	return false
}

// parse turns a head into a request. What was parsed before an error stays.
func (q *request) parse(h *head, in *buffer, cfg *Limits) *Error {
	if len(in.lines) == 0 || h.pos == 0 {
		return nil
	}
	text := string(in.b[in.r : in.r+h.pos])
	if h.end > 0 {
		in.r += h.end
	}
	if err := q.parseLine(text[:in.lines[0]], cfg.MaxTarget); err != nil {
		return err
	}
	f := framing{q: q}
	start := in.lines[0] + 2
	for i, end := range in.lines[1:] {
		name, value, err := parseField(text[start:end])
		if err != nil {
			return f.keep(err)
		}
		start = end + 2
		var slot []string
		if i < len(q.values) {
			q.values[i] = value
			slot = q.values[i : i+1 : i+1]
		}
		f.field(name, value, slot)
	}
	if h.end == 0 {
		return f.keep(nil)
	}
	return f.keep(f.settle())
}

// parseLine takes apart the request line (RFC 9112, section 3). Of a line that is
// none nothing is kept: it can be anything, a secret too.
func (q *request) parseLine(line string, maxTarget int) *Error {
	method, rest, ok := strings.Cut(line, " ")
	switch {
	case !validToken(method):
		return bad("the method is not a token")
	case !ok:
		return bad("the request line has no target")
	}
	target, version, ok := strings.Cut(rest, " ")
	switch {
	case !ok:
		return bad("the request line has no version")
	case strings.IndexByte(version, ' ') >= 0:
		return bad("the request line does not have three parts")
	case len(version) != 8 || version[:5] != "HTTP/" || !digit(version[5]) || version[6] != '.' || !digit(version[7]):
		return bad("the version is not one of HTTP")
	case len(method) > 32:
		return &Error{http.StatusNotImplemented, "the method is too long"}
	}
	q.Method, q.Proto, q.ProtoMajor, q.ProtoMinor = method, version, int(version[5]-'0'), int(version[7]-'0')
	if !ValidTarget(target) {
		return bad("a character is not allowed in the target")
	}
	q.RequestURI = target
	err := q.parseTarget()
	switch {
	case len(target) > maxTarget:
		err = errLongTarget
	case q.ProtoMajor != 1 || q.ProtoMinor > 1:
		err = &Error{http.StatusHTTPVersionNotSupported, "the version is neither HTTP/1.0 nor HTTP/1.1"}
	}
	if err != nil {
		if q.u = (url.URL{}); !strings.HasPrefix(target, "/") {
			q.RequestURI = "" // nobody knows what it says
		}
	}
	return err
}

// ValidTarget reports whether a target holds only what one can: no white space, no
// control characters, no fragment.
func ValidTarget(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == 0x7f || c == '#' {
			return false
		}
	}
	return true
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// parseTarget takes apart the target (RFC 9112, section 3.2).
func (q *request) parseTarget() *Error {
	t := q.RequestURI
	switch {
	case t == "":
		return bad("the target is empty")
	case q.Method == http.MethodConnect:
		return q.parseAuthority(t)
	case t[0] == '/':
		return q.parseOrigin(t)
	case t == "*":
		if q.Method != http.MethodOptions {
			return bad("only OPTIONS asks the server as a whole")
		}
		q.u.Path = "*"
		return nil
	}
	return q.parseAbsolute(t)
}

// parseAuthority takes the target of CONNECT.
func (q *request) parseAuthority(t string) *Error {
	if !ValidHost(t) || strings.LastIndexByte(t, ':') <= strings.LastIndexByte(t, ']') {
		return bad("CONNECT needs a host and a port")
	}
	q.u.Host = t
	return nil
}

func (q *request) parseOrigin(t string) *Error {
	path, query, asked := strings.Cut(t, "?")
	for i := range len(path) {
		if class[path[i]]&plainPath == 0 {
			u, err := url.ParseRequestURI(t)
			if err != nil {
				return bad("the target's escapes cannot be read")
			}
			q.u = *u
			return nil
		}
	}
	q.u.Path, q.u.RawQuery, q.u.ForceQuery = path, query, asked && query == ""
	return nil
}

func (q *request) parseAbsolute(t string) *Error {
	scheme, rest, ok := strings.Cut(t, "://")
	if !ok || scheme == "" {
		return bad("the target has none of the forms that there are")
	}
	authority := rest
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		authority = rest[:i]
	}
	host := authority[strings.LastIndexByte(authority, '@')+1:]
	u, err := url.ParseRequestURI(t)
	if err != nil || u.Host != host || !ValidHost(host) {
		return bad("the target in absolute form cannot be read")
	}
	q.u = *u
	return nil
}

// ValidHost reports whether s is a host, with or without a port, that everybody
// reads alike: a name or an address (RFC 3986, section 3.2.2) without escapes
// and without the characters that names do not have.
func ValidHost(s string) bool {
	rest := s
	if s != "" && s[0] == '[' {
		end := strings.IndexByte(s, ']')
		if end < 3 {
			return false
		}
		for i := 1; i < end; i++ {
			if c := s[i]; c != ':' && c != '.' && hexValue(c) < 0 {
				return false
			}
		}
		rest = s[end+1:]
	} else {
		for rest != "" && class[rest[0]]&hostName != 0 {
			rest = rest[1:]
		}
		if len(rest) == len(s) {
			return false
		}
	}
	if rest == "" {
		return true
	}
	if rest[0] != ':' || len(rest) < 2 || len(rest) > 6 {
		return false
	}
	for i := 1; i < len(rest); i++ {
		if !digit(rest[i]) {
			return false
		}
	}
	return true
}

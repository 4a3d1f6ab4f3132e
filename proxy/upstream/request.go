package upstream

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// inlineLimit is up to how many bytes of a body that is in memory are copied
// behind the headers, so that one write sends the whole request. A copy of that
// size costs less than a second write.
const inlineLimit = 128 << 10

// outbound is a request as it goes out.
type outbound struct {
	b     []byte // the headers, and what is sent with them of the body
	lines []line // to sort

	// What is sent behind b; nil means nothing.
	body    io.ReadCloser
	length  int64 // of body; -1 means chunked
	trailer http.Header
	expect  bool // the upstream is asked whether it wants the body

	sending bool // a goroutine sends it, and may outlive the round trip
}

type line struct {
	name   string
	values []string
}

// clear drops what the request holds, so that the pool does not.
func (o *outbound) clear() {
	clear(o.lines)
	*o = outbound{b: o.b[:0], lines: o.lines[:0]}
}

// write makes o the request.
func (o *outbound) write(req *http.Request) error {
	hostport := req.Host
	if hostport == "" {
		hostport = req.URL.Host
	}
	hostport = withoutZone(hostport)
	method := req.Method
	if method == "" {
		method = http.MethodGet
	}
	switch {
	case !validToken(method) || method == http.MethodConnect:
		return fmt.Errorf("%w: its method is not one that can be sent", ErrRequest)
	case !validHost(hostport):
		return fmt.Errorf("%w: its authority is not one", ErrRequest)
	}
	o.b = append(o.b[:0], method...)
	o.b = append(o.b, ' ')
	at := len(o.b)
	o.appendTarget(req)
	if !validGraphic(o.b[at:]) {
		return fmt.Errorf("%w: its target holds a space or a control character", ErrRequest)
	}
	o.b = append(o.b, " HTTP/1.1\r\nHost: "...)
	o.b = append(o.b, hostport...)
	o.b = append(o.b, "\r\n"...)
	if err := o.appendFields(req.Header); err != nil {
		return err
	}
	if req.Close && len(req.Header["Connection"]) == 0 {
		o.b = append(o.b, "Connection: close\r\n"...)
	}
	return o.appendBody(req, method)
}

// appendTarget appends what url.URL.RequestURI returns.
func (o *outbound) appendTarget(req *http.Request) {
	u := req.URL
	switch path := u.Opaque; {
	case path == "":
		if path = u.EscapedPath(); path == "" {
			path = "/"
		}
		o.b = append(o.b, path...)
	case strings.HasPrefix(path, "//"):
		o.b = append(append(append(o.b, u.Scheme...), ':'), path...)
	default:
		o.b = append(o.b, path...)
	}
	if u.ForceQuery || u.RawQuery != "" {
		o.b = append(append(o.b, '?'), u.RawQuery...)
	}
}

// appendFields appends the fields of a request but those that the transport sets
// itself, in the order of their names.
func (o *outbound) appendFields(h http.Header) error {
	for name, values := range h {
		if !framing(name) && len(values) > 0 {
			o.lines = append(o.lines, line{name, values})
		}
	}
	slices.SortFunc(o.lines, func(a, b line) int { return strings.Compare(a.name, b.name) })
	for i := range o.lines {
		l := &o.lines[i]
		if err := o.appendField(l.name, l.values); err != nil {
			return err
		}
	}
	return nil
}

func (o *outbound) appendField(name string, values []string) error {
	if !validToken(name) {
		return fmt.Errorf("%w: the name of a header is not a token", ErrRequest)
	}
	for _, v := range values {
		if !validText(v) {
			return fmt.Errorf("%w: the value of a header holds a control character", ErrRequest)
		}
		o.b = append(append(o.b, name...), ": "...)
		o.b = append(append(o.b, v...), "\r\n"...)
	}
	return nil
}

// framing reports whether a field is one that the transport sets itself, in
// whatever case: an upstream makes no difference.
func framing(name string) bool {
	switch len(name) {
	case len("Host"):
		return equalFold(name, "Host")
	case len("Trailer"):
		return equalFold(name, "Trailer")
	case len("Content-Length"):
		return equalFold(name, "Content-Length")
	case len("Transfer-Encoding"):
		return equalFold(name, "Transfer-Encoding")
	}
	return false
}

// appendBody ends the headers, and adds the body if it is in memory.
func (o *outbound) appendBody(req *http.Request, method string) error {
	length := req.ContentLength
	buffered, _ := req.Body.(*Buffered)
	switch {
	case req.Body == nil || req.Body == http.NoBody || length == 0 && buffered != nil && len(buffered.data) == 0 && len(req.Trailer) == 0:
		if length > 0 {
			return fmt.Errorf("%w: its length is given, and there is no body", ErrRequest)
		}
		if method == "POST" || method == "PUT" || method == "PATCH" {
			o.b = append(o.b, "Content-Length: 0\r\n"...)
		}
		o.b = append(o.b, "\r\n"...)
		return nil
	case length > 0: // and then there is no room for trailers
		o.b = strconv.AppendInt(append(o.b, "Content-Length: "...), length, 10)
	default:
		length = -1
		o.b = append(o.b, "Transfer-Encoding: chunked"...)
		if err := o.announce(req.Trailer); err != nil {
			return err
		}
	}
	o.b = append(o.b, "\r\n\r\n"...)
	o.expect = buffered == nil && len(req.Header["Expect"]) > 0 && hasElement(req.Header["Expect"], "100-continue")
	if o.length = length; length < 0 {
		o.trailer = req.Trailer
	}
	switch {
	case buffered != nil && len(buffered.data) <= inlineLimit:
		if length > 0 && int64(len(buffered.data)) != length {
			return errLength
		}
		return o.inline(buffered.data)
	case req.GetBody != nil && length > 0 && length <= inlineLimit && !o.expect:
		return o.inlineRead(req.Body)
	}
	o.body = req.Body
	return nil
}

// announce names the trailers (RFC 9110, section 6.6.2).
func (o *outbound) announce(trailer http.Header) error {
	names := make([]string, 0, len(trailer))
	for name := range trailer {
		if !validToken(name) || framing(name) {
			return fmt.Errorf("%w: a trailer has a name that is not allowed", ErrRequest)
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	o.b = append(append(o.b, "\r\nTrailer: "...), strings.Join(names, ", ")...)
	return nil
}

func (o *outbound) inline(data []byte) error {
	if o.length > 0 {
		o.b = append(o.b, data...)
		return nil
	}
	if len(data) > 0 {
		o.b = append(strconv.AppendInt(o.b, int64(len(data)), 16), "\r\n"...)
		o.b = append(append(o.b, data...), "\r\n"...)
	}
	var err error
	o.b, err = appendLast(o.b, o.trailer)
	return err
}

// errLength says that a body has not the length that its request gives.
var errLength = fmt.Errorf("%w: its body has another length than it says", ErrRequest)

// inlineRead adds a body that is known to be in memory.
func (o *outbound) inlineRead(body io.ReadCloser) error {
	at := len(o.b)
	o.b = slices.Grow(o.b, int(o.length))[:at+int(o.length)]
	if _, err := io.ReadFull(body, o.b[at:]); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return errLength
		}
		return err
	}
	if n, err := io.ReadFull(body, new([1]byte)[:]); n > 0 {
		return errLength
	} else if err != io.EOF {
		return err
	}
	return body.Close()
}

// appendLast appends the end of a chunked body (RFC 9112, section 7.1).
func appendLast(b []byte, trailer http.Header) ([]byte, error) {
	b = append(b, "0\r\n"...)
	if len(trailer) > 0 {
		var o outbound
		if err := o.appendFields(trailer); err != nil {
			return nil, err
		}
		b = append(b, o.b...)
	}
	return append(b, "\r\n"...), nil
}

// rewind makes the request ready to be sent once more, if it can be.
func (o *outbound) rewind(req *http.Request) bool {
	switch buffered, _ := o.body.(*Buffered); {
	case o.sending:
		return false
	case o.body == nil:
		return true
	case buffered != nil:
		buffered.off = 0
		return true
	case req.GetBody != nil:
		body, err := req.GetBody()
		if err == nil {
			_ = o.body.Close()
			o.body = body
		}
		return err == nil
	}
	return false
}

// validHost reports whether s can stand as an authority without a user.
func validHost(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ' || c >= 0x7f:
			return false
		case strings.IndexByte("@/\\?#\"<>^`{|}", c) >= 0:
			return false
		}
	}
	return s != ""
}

// withoutZone removes the zone of an IPv6 address, which has a meaning on this
// machine only (RFC 6874, section 4).
func withoutZone(hostport string) string {
	if len(hostport) == 0 || hostport[0] != '[' {
		return hostport
	}
	end := strings.IndexByte(hostport, ']')
	zone := strings.IndexByte(hostport, '%')
	if zone < 0 || end < zone {
		return hostport
	}
	return hostport[:zone] + hostport[end:]
}

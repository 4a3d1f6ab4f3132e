package http1

import (
	"net/http"
	"strings"
)

// What characters are good for.
const (
	token     = 1 << iota // RFC 9110, section 5.6.2
	upper                 // A to Z
	lower                 // a to z
	plainPath             // in a path, without a second thought
	hostName              // in a host's name
)

// class is constant.
var class = func() (t [256]byte) {
	set := func(bits byte, chars string) {
		for i := range len(chars) {
			t[chars[i]] |= bits
		}
	}
	const (
		small  = "abcdefghijklmnopqrstuvwxyz"
		large  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
		digits = "0123456789"
	)
	set(token|lower|plainPath|hostName, small)
	set(token|upper|plainPath|hostName, large)
	set(token|plainPath|hostName, digits)
	set(token, "!#$%&'*+-.^_`|~")
	// Those that net/url writes as they are.
	set(plainPath, "-_.~$&+,/:;=@")
	set(hostName, "-._~")
	return t
}()

func validToken(s string) bool {
	for i := range len(s) {
		if class[s[i]]&token == 0 {
			return false
		}
	}
	return s != ""
}

// parseField takes apart a header line (RFC 9112, section 5). The name is in its
// canonical form.
func parseField(line string) (name, value string, err *Error) {
	i, canonical, start := 0, true, true
	for ; i < len(line); i++ {
		c := line[i]
		bits := class[c]
		if bits&token == 0 {
			break
		}
		if start && bits&lower != 0 || !start && bits&upper != 0 {
			canonical = false
		}
		start = c == '-'
	}
	switch {
	case i == len(line):
		return "", "", bad("a header line has no colon")
	case line[i] != ':':
		return "", "", badName(line, i)
	case i == 0:
		return "", "", bad("a header has no name")
	}
	name, value = line[:i], trim(line[i+1:])
	if !validValue(value) {
		return "", "", bad("a character is not allowed in a header's value")
	}
	if !canonical {
		name = canonicalName(name)
	}
	return name, value, nil
}

func badName(line string, at int) *Error {
	switch c := line[at]; {
	case at == 0 && (c == ' ' || c == '\t'):
		return bad("a header line begins with white space: it is folded, or belongs to nothing")
	case c == ' ' || c == '\t':
		return bad("there is white space between a header's name and the colon")
	}
	return bad("a character is not allowed in a header's name")
}

// trim removes white space around a value.
func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// validValue reports whether a value holds no control characters (RFC 9110,
// section 5.5), of which the tab is none.
func validValue(s string) bool {
	for len(s) >= 8 {
		const ones, high = 0x0101010101010101, 0x8080808080808080
		w := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 | uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		del := w ^ 0x7f*ones
		if ((w-0x20*ones)&^w|(del-ones)&^del)&high != 0 {
			break // at least perhaps
		}
		s = s[8:]
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// canonicalName returns a name as net/http writes it, without an allocation if
// it is a common one in lower case.
func canonicalName(name string) string {
	if c, ok := common[name]; ok {
		return c
	}
	return http.CanonicalHeaderKey(name)
}

// common is constant.
var common = func() map[string]string {
	m := make(map[string]string)
	for _, name := range strings.Fields(`Accept Accept-Charset Accept-Encoding Accept-Language Accept-Ranges Access-Control-Request-Headers
		Access-Control-Request-Method Age Allow Authorization Cache-Control Cdn-Loop Connection Content-Disposition Content-Encoding
		Content-Language Content-Length Content-Location Content-Range Content-Type Cookie Date Dnt Etag Expect Expires Forwarded From
		Grpc-Encoding Grpc-Accept-Encoding Grpc-Timeout Host Http2-Settings Idempotency-Key If-Match If-Modified-Since If-None-Match If-Range
		If-Unmodified-Since Keep-Alive Last-Modified Link Max-Forwards Origin Pragma Priority Proxy-Authorization Proxy-Connection Range
		Referer Sec-Ch-Ua Sec-Ch-Ua-Mobile Sec-Ch-Ua-Platform Sec-Fetch-Dest Sec-Fetch-Mode Sec-Fetch-Site Sec-Fetch-User
		Sec-Websocket-Extensions Sec-Websocket-Key Sec-Websocket-Protocol Sec-Websocket-Version Te Traceparent Tracestate Trailer
		Transfer-Encoding Upgrade Upgrade-Insecure-Requests User-Agent Via Warning X-Amz-Date X-Amz-Content-Sha256 X-Amz-Security-Token
		X-Amzn-Trace-Id X-Api-Key X-B3-Sampled X-B3-Spanid X-B3-Traceid X-Correlation-Id X-Csrf-Token X-Forwarded-For X-Forwarded-Host
		X-Forwarded-Port X-Forwarded-Proto X-Real-Ip X-Request-Id X-Requested-With`) {
		m[strings.ToLower(name)] = name
	}
	return m
}()

// splitList calls f for the elements of a list (RFC 9110, section 5.6.1), until
// it returns false.
func splitList(values []string, f func(string) bool) {
	for _, v := range values {
		for v != "" {
			var e string
			e, v, _ = strings.Cut(v, ",")
			if e = trim(e); e != "" && !f(e) {
				return
			}
		}
	}
}

func listed(values []string, word string) (found bool) {
	splitList(values, func(e string) bool {
		found = strings.EqualFold(e, word)
		return !found
	})
	return found
}

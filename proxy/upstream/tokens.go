package upstream

// isToken reports whether c can stand in a token (RFC 9110, section 5.6.2).
func isToken(c byte) bool {
	const (
		digits = (1<<10 - 1) << '0'
		upper  = (1<<26 - 1) << ('A' - 64)
		lower  = (1<<26 - 1) << ('a' - 64)

		low  uint64 = digits | 1<<'!' | 1<<'#' | 1<<'$' | 1<<'%' | 1<<'&' | 1<<'\'' | 1<<'*' | 1<<'+' | 1<<'-' | 1<<'.'
		high uint64 = upper | lower | 1<<('^'-64) | 1<<('_'-64) | 1<<('`'-64) | 1<<('|'-64) | 1<<('~'-64)
	)
	if c < 64 {
		return low>>c&1 != 0
	}
	return c < 128 && high>>(c-64)&1 != 0
}

// isText reports whether c can stand in the value of a field (RFC 9110, section
// 5.5), or in a reason phrase.
func isText(c byte) bool { return c >= ' ' && c != 0x7f || c == '\t' }

func validToken(s string) bool {
	for i := range len(s) {
		if !isToken(s[i]) {
			return false
		}
	}
	return s != ""
}

func validText(s string) bool {
	for i := range len(s) {
		if !isText(s[i]) {
			return false
		}
	}
	return true
}

// validGraphic reports whether s is made of visible characters, or of bytes that
// are not ASCII.
func validGraphic(s []byte) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return false
		}
	}
	return len(s) > 0
}

// canonicalName returns the canonical form of the name of a field, which shares
// the memory of s where it can, and reports whether it is one.
func canonicalName(s string) (string, bool) {
	up, same := true, true
	for i := range len(s) {
		c := s[i]
		if !isToken(c) {
			return "", false
		}
		if up && c >= 'a' && c <= 'z' || !up && c >= 'A' && c <= 'Z' {
			same = false
		}
		up = c == '-'
	}
	if same {
		return s, s != ""
	}
	var short [48]byte
	b := append(short[:0], s...)
	up = true
	for i, c := range b {
		switch {
		case up && c >= 'a' && c <= 'z':
			b[i] = c - 'a' + 'A'
		case !up && c >= 'A' && c <= 'Z':
			b[i] = c - 'A' + 'a'
		}
		up = c == '-'
	}
	return commonName(b), true
}

// commonName is string(b), but costs nothing for names that are common: servers
// that do not send them in canonical form send them with every answer.
func commonName(b []byte) string {
	switch string(b) {
	case "Accept-Ranges":
		return "Accept-Ranges"
	case "Access-Control-Allow-Origin":
		return "Access-Control-Allow-Origin"
	case "Age":
		return "Age"
	case "Alt-Svc":
		return "Alt-Svc"
	case "Cache-Control":
		return "Cache-Control"
	case "Connection":
		return "Connection"
	case "Content-Encoding":
		return "Content-Encoding"
	case "Content-Length":
		return "Content-Length"
	case "Content-Security-Policy":
		return "Content-Security-Policy"
	case "Content-Type":
		return "Content-Type"
	case "Date":
		return "Date"
	case "Etag":
		return "Etag"
	case "Expires":
		return "Expires"
	case "Keep-Alive":
		return "Keep-Alive"
	case "Last-Modified":
		return "Last-Modified"
	case "Location":
		return "Location"
	case "Server":
		return "Server"
	case "Set-Cookie":
		return "Set-Cookie"
	case "Strict-Transport-Security":
		return "Strict-Transport-Security"
	case "Transfer-Encoding":
		return "Transfer-Encoding"
	case "Vary":
		return "Vary"
	case "Via":
		return "Via"
	case "X-Content-Type-Options":
		return "X-Content-Type-Options"
	case "X-Frame-Options":
		return "X-Frame-Options"
	case "X-Powered-By":
		return "X-Powered-By"
	case "X-Request-Id":
		return "X-Request-Id"
	}
	return string(b)
}

// elements calls f with each element of a list (RFC 9110, section 5.6.1).
func elements(values []string, f func(string)) {
	for _, v := range values {
		for from, i := 0, 0; i <= len(v); i++ {
			if i < len(v) && v[i] != ',' {
				continue
			}
			if e := trim(v[from:i]); e != "" {
				f(e)
			}
			from = i + 1
		}
	}
}

func hasElement(values []string, token string) bool {
	found := false
	elements(values, func(e string) { found = found || equalFold(e, token) })
	return found
}

// trim removes the white space around a value.
func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// equalFold compares tokens, which are ASCII: strings.EqualFold takes other
// letters for some of them.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		x, y := a[i], b[i]
		if x != y && (x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z') {
			return false
		}
	}
	return true
}

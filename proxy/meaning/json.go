package meaning

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner pulls the structure out of JSON (RFC 8259) without making values of
// it. It is lenient where leniency leaves the structure as it is (numbers,
// literals, what stands within strings), since some upstream is. After its first
// error it has failed, and every call says that there is nothing more.
type scanner struct {
	b      []byte
	i      int
	depth  int
	failed bool
}

func newScanner(body []byte) scanner {
	s := scanner{b: body}
	if len(body) > maxRead {
		s.b = body[:maxRead] // in the midst of a value, or else of what should not follow it
	}
	if bytes.HasPrefix(s.b, []byte("\xef\xbb\xbf")) {
		s.i = 3 // a byte order mark, which some parsers skip
	}
	s.space()
	return s
}

func (s *scanner) fail() { s.failed, s.i = true, len(s.b) }

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\n', '\r', '\t':
			s.i++
		default:
			return
		}
	}
}

// peek returns the byte that is next, or 0.
func (s *scanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

// enter steps into an object or a list, and reports whether there is one. If not,
// it has moved nowhere. Few levels are entered; skip bounds the rest.
func (s *scanner) enter(open byte) bool {
	if s.failed || s.peek() != open {
		return false
	}
	s.depth++
	s.i++
	return true
}

// more steps to the next element of what was entered, and reports whether there
// is one. n counts them.
func (s *scanner) more(n *int, end byte) bool {
	s.space()
	if s.failed {
		return false
	}
	if s.peek() == end {
		s.depth--
		s.i++
		return false
	}
	if *n > 0 {
		if s.peek() != ',' {
			s.fail()
			return false
		}
		s.i++
		s.space()
	}
	*n++
	return true
}

// key returns what stands between the quotes of a member's name, and steps to
// its value.
func (s *scanner) key() []byte {
	raw, ok := s.text()
	if s.space(); !ok || s.peek() != ':' {
		s.fail()
		return nil
	}
	s.i++
	s.space()
	return raw
}

// text steps over a string and returns what stands between its quotes. If there
// is none, it has moved nowhere.
func (s *scanner) text() (raw []byte, ok bool) {
	if s.failed || s.peek() != '"' {
		return nil, false
	}
	start := s.i + 1
	for i := start; ; {
		n := bytes.IndexByte(s.b[i:], '"')
		if n < 0 {
			s.fail()
			return nil, false
		}
		i += n
		escapes := 0
		for j := i - 1; j >= start && s.b[j] == '\\'; j-- {
			escapes++
		}
		if escapes%2 == 0 {
			s.i = i + 1
			return s.b[start:i], true
		}
		i++
	}
}

// skip steps over a value of any kind.
func (s *scanner) skip() {
	var ends [maxDepth]byte // of what is open here
	n := 0
	for {
		switch c := s.peek(); c {
		case '{', '[':
			if s.depth+n == maxDepth {
				s.fail()
				return
			}
			s.i++
			ends[n] = c + 2 // ASCII
			n++
			s.space()
			if s.peek() == c+2 {
				break
			}
			if c == '{' {
				s.key()
			}
			if s.failed {
				return
			}
			continue
		case '"':
			s.text()
		default:
			s.literal()
		}
		for {
			if s.failed || n == 0 {
				return
			}
			s.space()
			c := s.peek()
			if c == ',' {
				s.i++
				s.space()
				if ends[n-1] == '}' {
					s.key()
				}
				break
			}
			if c != ends[n-1] {
				s.fail()
				return
			}
			s.i++
			n--
		}
		if s.failed {
			return
		}
	}
}

// literal steps over a number, true, false or null.
func (s *scanner) literal() {
	start := s.i
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '+', c == '.':
			s.i++
			continue
		}
		break
	}
	if s.i == start {
		s.fail()
	}
}

// null reports whether null is next; it moves nowhere.
func (s *scanner) null() bool { return bytes.HasPrefix(s.b[s.i:], []byte("null")) }

// end reports whether the value was all there is.
func (s *scanner) end() bool {
	s.space()
	return !s.failed && s.i == len(s.b)
}

// unquote appends what a string says whose inside is raw. What is no escape
// stands for itself, and half a surrogate pair for U+FFFD.
func unquote(dst, raw []byte) []byte {
	for len(raw) > 0 {
		n := bytes.IndexByte(raw, '\\')
		if n < 0 || n == len(raw)-1 {
			return append(dst, raw...)
		}
		dst = append(dst, raw[:n]...)
		c := raw[n+1]
		raw = raw[n+2:]
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			if r, ok := hex4(raw); ok {
				raw = raw[4:]
				if utf16.IsSurrogate(r) {
					r, raw = surrogate(r, raw)
				}
				dst = utf8.AppendRune(dst, r)
				continue
			}
		}
		dst = append(dst, c)
	}
	return dst
}

// surrogate joins the first half of a pair with the second, if that is next.
func surrogate(r rune, raw []byte) (rune, []byte) {
	if len(raw) >= 6 && raw[0] == '\\' && raw[1] == 'u' {
		if low, ok := hex4(raw[2:]); ok {
			if both := utf16.DecodeRune(r, low); both != utf8.RuneError {
				return both, raw[6:]
			}
		}
	}
	return utf8.RuneError, raw
}

func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	for _, c := range b[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

package route

import (
	"errors"
	"strings"
)

// reading is a set of liberties that upstreams take with paths.
type reading uint8

const (
	readSlash  reading = 1 << iota // %2F, %5C and \ are slashes
	readMerge                      // slashes that follow each other are one
	readParams                     // what follows a semicolon, up to a slash, does not count
	readInside                     // … up to what readSlash takes for one, if that holds too
)

// Why a path passes no table.
var (
	errRelative  = errors.New("the path does not start with a slash")
	errEscape    = errors.New("the path is not escaped as paths are")
	errDots      = errors.New("the path has dot segments")
	errZero      = errors.New("the path holds a zero byte")
	errFragment  = errors.New("the path holds a fragment")
	errAmbiguous = errors.New("the path can be read in several ways, which take different routes")
)

// look returns what of a path can be read in more than one way, and refuses
// what must not pass in any.
func look(path string) (kinds reading, err error) {
	if path == "" || path[0] != '/' {
		return 0, errRelative
	}
	dots := false
	for i := 0; i < len(path); {
		c, n := decode(path[i:])
		switch {
		case n == 0:
			return 0, errEscape
		case c == 0:
			return 0, errZero
		case c == '.':
			dots = true
		case c == '\\', c == '/' && n == 3:
			kinds |= readSlash
		case c == '/' && i > 0 && path[i-1] == '/':
			kinds |= readMerge
		case c == ';' && n == 1:
			kinds |= readParams
		case c == '#' && n == 1:
			return 0, errFragment
		}
		i += n
	}
	if kinds&(readSlash|readParams) != 0 {
		kinds |= readMerge // segments may become empty
	}
	if kinds&readParams != 0 && kinds&readSlash != 0 {
		kinds |= readInside
	}
	if dots && hasDots(path, kinds) {
		return 0, errDots
	}
	return kinds, nil
}

// hasDots reports whether a path has dot segments in any reading. Those that find
// the most segments, and the shortest, find all.
func hasDots(path string, kinds reading) bool {
	for _, as := range [...]reading{kinds &^ readParams, kinds | readInside, kinds &^ readInside} {
		c := cursor{rest: path, as: as}
		for seg, ok := c.next(); ok; seg, ok = c.next() {
			if same(seg, ".") || same(seg, "..") {
				return true
			}
		}
	}
	return false
}

// cursor walks over the segments of an escaped path: of /a/b/ these are a, b and
// an empty one.
type cursor struct {
	rest string // starts with a slash, of some kind, unless it is empty
	as   reading
}

// next returns the next segment, still escaped.
func (c *cursor) next() (seg string, ok bool) {
	for c.rest != "" {
		c.rest = c.rest[c.slash(c.rest):]
		end, cut := 0, -1
		for end < len(c.rest) {
			if n := c.slash(c.rest[end:]); n == 1 && c.rest[end] == '/' || n > 0 && (cut < 0 || c.as&readInside != 0) {
				break
			}
			if c.rest[end] == ';' && cut < 0 && c.as&readParams != 0 {
				cut = end
			}
			end++
		}
		seg, c.rest = c.rest[:end], c.rest[end:]
		if cut >= 0 {
			seg = seg[:cut]
		}
		if seg != "" || c.rest == "" || c.as&readMerge == 0 {
			return seg, true
		}
	}
	return "", false
}

// slash returns the length of the slash that s starts with, or 0.
func (c *cursor) slash(s string) int {
	switch {
	case s[0] == '/':
		return 1
	case c.as&readSlash == 0:
	case s[0] == '\\':
		return 1
	case s[0] == '%' && len(s) >= 3 && (s[1:3] == "2F" || s[1:3] == "2f" || s[1:3] == "5C" || s[1:3] == "5c"):
		return 3
	}
	return 0
}

// decode returns the byte that s starts with and how long it is written; 0 if it
// is escaped badly.
func decode(s string) (c byte, n int) {
	if s[0] != '%' {
		return s[0], 1
	}
	if len(s) < 3 {
		return 0, 0
	}
	hi, lo := strings.IndexByte(digits, s[1]), strings.IndexByte(digits, s[2])
	if hi < 0 || lo < 0 {
		return 0, 0
	}
	return value(hi)<<4 | value(lo), 3
}

const digits = "0123456789abcdefABCDEF"

func value(i int) byte {
	if i >= 16 {
		i -= 6
	}
	return byte(i)
}

// same compares an escaped segment with a decoded one.
func same(seg, plain string) bool {
	for i := range len(plain) {
		if seg == "" {
			return false
		}
		c, n := decode(seg)
		if n == 0 || c != plain[i] {
			return false
		}
		seg = seg[n:]
	}
	return seg == ""
}

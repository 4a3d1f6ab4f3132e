package route

import "strings"

// Pattern fits whole paths, segment by segment.
type Pattern struct {
	text string
	segs []segment
	tail tail
}

// segment is a literal, decoded, or stands for any one that is not empty.
type segment struct {
	literal string
	any     bool
}

// tail says what may follow the segments.
type tail uint8

const (
	tailNone  tail = iota // nothing
	tailBelow             // a slash and whatever there is
	tailOpen              // nothing, or a slash and whatever there is
)

// ParsePattern parses a pattern such as /users/{id}/orders. A segment {name}
// stands for one segment that is not empty; {name...} at the end stands for
// whatever follows the slash before it, also nothing.
func ParsePattern(s string) (*Pattern, error) {
	p := &Pattern{text: s}
	if !strings.HasPrefix(s, "/") {
		return nil, invalid("%q does not start with a slash", s)
	}
	list := strings.Split(s[1:], "/")
	names := make(map[string]bool)
	for i, text := range list {
		name, braces := strings.CutPrefix(text, "{")
		if !braces {
			literal, err := parseLiteral(s, text, i == len(list)-1)
			if err != nil {
				return nil, err
			}
			p.segs = append(p.segs, segment{literal: literal})
			continue
		}
		name, braces = strings.CutSuffix(name, "}")
		name, rest := strings.CutSuffix(name, "...")
		switch {
		case !braces || !plainName(name):
			return nil, invalid("%q: %q is not a segment such as users or {id}", s, text)
		case names[name]:
			return nil, invalid("%q: the name %q comes twice", s, name)
		case rest && i < len(list)-1:
			return nil, invalid("%q: %q can only stand at the end", s, text)
		case rest:
			p.tail = tailBelow
		default:
			p.segs = append(p.segs, segment{any: true})
		}
		names[name] = true
	}
	return p, nil
}

// parsePrefix parses the beginning of paths, which knows no names.
func parsePrefix(s string) (*Pattern, error) {
	if !strings.HasPrefix(s, "/") {
		return nil, invalid("%q does not start with a slash", s)
	}
	p := &Pattern{text: s, tail: tailOpen}
	list := strings.Split(s[1:], "/")
	if n := len(list) - 1; list[n] == "" {
		list, p.tail = list[:n], tailBelow
	}
	for _, text := range list {
		literal, err := parseLiteral(s, text, false)
		if err != nil {
			return nil, err
		}
		p.segs = append(p.segs, segment{literal: literal})
	}
	return p, nil
}

// parseLiteral decodes a literal segment. What no path can hold that passes, or
// only in one of its readings, cannot stand in a rule.
func parseLiteral(whole, text string, last bool) (string, error) {
	if text == "" && !last {
		return "", invalid("%q: two slashes follow each other", whole)
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		c, n := decode(text[i:])
		switch {
		case n == 0:
			return "", invalid("%q: %q is not escaped as paths are", whole, text)
		case c == 0 || n == 3 && (c == '/' || c == '\\') || strings.IndexByte(`\;?#{}*`, text[i]) >= 0 || text[i] <= ' ' || text[i] == 0x7f:
			return "", invalid("%q: %q cannot stand in a path of a rule", whole, text)
		}
		b.WriteByte(c)
		i += n
	}
	if s := b.String(); s == "." || s == ".." {
		return "", invalid("%q: dot segments never pass", whole)
	}
	return b.String(), nil
}

func plainName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '_' && (c < '0' || c > '9' || i == 0) && (c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return s != ""
}

// String returns the pattern as it was written.
func (p *Pattern) String() string { return p.text }

// Named reports whether a part of the pattern stands for others.
func (p *Pattern) Named() bool {
	for _, s := range p.segs {
		if s.any {
			return true
		}
	}
	return p.tail == tailBelow
}

// Segments is how many segments the pattern has before what it leaves open.
func (p *Pattern) Segments() int { return len(p.segs) }

// Match reports whether the pattern fits an escaped path, read plainly.
func (p *Pattern) Match(path string) bool { return p.match(path, 0) }

func (p *Pattern) match(path string, as reading) bool {
	c := cursor{rest: path, as: as}
	for i := range p.segs {
		s := &p.segs[i]
		seg, ok := c.next()
		if !ok || s.any && seg == "" || !s.any && !same(seg, s.literal) {
			return false
		}
	}
	_, more := c.next()
	return p.tail == tailOpen || more == (p.tail == tailBelow)
}

// covers reports whether p fits every path that q fits; a nil q fits every path.
func (p *Pattern) covers(q *Pattern) bool {
	if q == nil {
		return p.tail == tailBelow && len(p.segs) == 0
	}
	if len(q.segs) < len(p.segs) {
		return false
	}
	for i := range p.segs {
		a, b := &p.segs[i], &q.segs[i]
		switch {
		case a.any && !b.any && b.literal == "", !a.any && (b.any || a.literal != b.literal):
			return false
		}
	}
	switch p.tail {
	case tailOpen:
		return true
	case tailBelow:
		return len(q.segs) > len(p.segs) || q.tail == tailBelow
	}
	return len(q.segs) == len(p.segs) && q.tail == tailNone
}

// Strip cuts n segments from the front of an escaped path. What it returns starts
// with a slash.
func Strip(path string, n int) string {
	c := cursor{rest: path}
	for range n {
		if _, ok := c.next(); !ok {
			break
		}
	}
	if c.rest == "" {
		return "/"
	}
	return c.rest
}

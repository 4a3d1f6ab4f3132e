package meaning

import "bytes"

// The grammar of GraphQL documents (https://spec.graphql.org, sections 2.1 and
// 2.3), as far as it takes to tell them from other texts and to find the
// operations: what stands in parentheses and braces is passed over.

type result uint8

const (
	notGraphQL result = iota
	clear
	unclear // deeper than is looked at, or no server would know which operation to run
)

// selected is the operation of a document that is to be run.
type selected struct {
	name, kind string
	result     result
}

// selectOperation finds the operation of that name, or the only one if there is
// no name (section 6.1, GetOperation).
func selectOperation(text []byte, name string) selected {
	l := lexer{b: text}
	l.next()
	var found selected
	matches, all := 0, 0
	for l.kind != tokenEnd {
		op, ok := l.definition()
		switch {
		case l.deep:
			return selected{result: unclear}
		case !ok:
			return selected{}
		case op.kind == "":
			continue // a fragment
		}
		all++
		if name == "" || op.name == name {
			matches++
			found = op
		}
	}
	switch {
	case all == 0:
		return selected{}
	case matches != 1:
		return selected{result: unclear}
	}
	found.result = clear
	return found
}

type tokenKind uint8

const (
	tokenBad tokenKind = iota
	tokenEnd
	tokenName
	tokenValue // a string or number
	tokenMark  // punctuation of one byte
	tokenSpread
)

// lexer holds one token.
type lexer struct {
	b    []byte
	kind tokenKind
	text []byte // of a name
	mark byte   // punctuation
	deep bool   // there is more nesting than is followed
}

// definition reads an operation, or a fragment: that has no kind.
func (l *lexer) definition() (op selected, ok bool) {
	if l.kind == tokenValue {
		l.next() // a description
	}
	if l.is('{') {
		op.kind = "query"
		return op, l.selection()
	}
	if l.kind != tokenName {
		return op, false
	}
	switch string(l.text) {
	case "query":
		op.kind = "query"
	case "mutation":
		op.kind = "mutation"
	case "subscription":
		op.kind = "subscription"
	case "fragment":
	default:
		return op, false
	}
	l.next()
	if l.kind == tokenName {
		op.name = string(l.text)
		l.next()
	} else if op.kind == "" {
		return op, false
	}
	if l.is('(') && !l.group() {
		return op, false
	}
	if op.kind == "" {
		if l.kind != tokenName || string(l.text) != "on" {
			return op, false
		}
		if l.next(); l.kind != tokenName {
			return op, false
		}
		l.next()
	}
	for l.is('@') {
		if l.next(); l.kind != tokenName {
			return op, false
		}
		if l.next(); l.is('(') && !l.group() {
			return op, false
		}
	}
	return op, l.is('{') && l.selection()
}

func (l *lexer) is(mark byte) bool { return l.kind == tokenMark && l.mark == mark }

// selection passes over a selection set. Outside parentheses there are names and
// few marks: other languages that begin with a brace have more.
func (l *lexer) selection() bool {
	depth, empty := 0, true
	for {
		switch {
		case l.is('{'):
			if depth == maxDepth {
				l.deep = true
				return false
			}
			depth++
			empty = true
		case l.is('}'):
			if depth--; empty || depth == 0 {
				l.next()
				return !empty
			}
		case l.is('('):
			if !l.group() {
				return false
			}
			continue
		case l.kind == tokenName, l.kind == tokenSpread:
			empty = false
		case l.is(':'), l.is('@'):
		default:
			return false
		}
		l.next()
	}
}

// group passes over what stands in parentheses.
func (l *lexer) group() bool {
	var ends [maxDepth]byte
	n := 0
	for {
		switch {
		case l.is('('), l.is('['), l.is('{'):
			if n == maxDepth {
				l.deep = true
				return false
			}
			ends[n] = l.mark + 2 // ASCII, but for ")"
			if l.mark == '(' {
				ends[n] = ')'
			}
			n++
		case l.is(')'), l.is(']'), l.is('}'):
			if ends[n-1] != l.mark {
				return false
			}
			if n--; n == 0 {
				l.next()
				return true
			}
		case l.kind == tokenEnd, l.kind == tokenBad:
			return false
		}
		l.next()
	}
}

// next steps to the next token. White space, commas, comments and the byte order
// mark are none (section 2.1.7).
func (l *lexer) next() {
	for len(l.b) > 0 {
		switch c := l.b[0]; {
		case c == ' ', c == '\t', c == '\n', c == '\r', c == ',':
			l.b = l.b[1:]
		case c == '#':
			end := bytes.IndexAny(l.b, "\n\r")
			if end < 0 {
				end = len(l.b)
			}
			l.b = l.b[end:]
		case bytes.HasPrefix(l.b, []byte("\xef\xbb\xbf")):
			l.b = l.b[3:]
		default:
			l.token(c)
			return
		}
	}
	l.kind = tokenEnd
}

func (l *lexer) token(c byte) {
	switch {
	case c == '_' || 'a' <= c|0x20 && c|0x20 <= 'z':
		n := 1
		for n < len(l.b) && (l.b[n] == '_' || 'a' <= l.b[n]|0x20 && l.b[n]|0x20 <= 'z' || '0' <= l.b[n] && l.b[n] <= '9') {
			n++
		}
		l.kind, l.text, l.b = tokenName, l.b[:n], l.b[n:]
	case c == '"':
		l.quoted()
	case c == '-' || '0' <= c && c <= '9':
		n := 1
		for n < len(l.b) && bytes.IndexByte([]byte("0123456789.eE+-"), l.b[n]) >= 0 {
			n++
		}
		l.kind, l.b = tokenValue, l.b[n:]
	case bytes.HasPrefix(l.b, []byte("...")):
		l.kind, l.b = tokenSpread, l.b[3:]
	case bytes.IndexByte([]byte("!$&():=@[]{|}"), c) >= 0:
		l.kind, l.mark, l.b = tokenMark, c, l.b[1:]
	default:
		l.kind = tokenBad
	}
}

// quoted steps over a string or a block string (section 2.9.4).
func (l *lexer) quoted() {
	l.kind = tokenBad
	if block := []byte(`"""`); bytes.HasPrefix(l.b, block) {
		b := l.b[3:]
		for {
			n := bytes.Index(b, block)
			if n < 0 {
				return
			}
			escaped := n > 0 && b[n-1] == '\\' // \""" is the only escape there is
			if b = b[n+3:]; !escaped {
				l.kind, l.b = tokenValue, b
				return
			}
		}
	}
	for i := 1; i < len(l.b); i++ {
		switch l.b[i] {
		case '\\':
			i++
		case '\n', '\r':
			return
		case '"':
			l.kind, l.b = tokenValue, l.b[i+1:]
			return
		}
	}
}

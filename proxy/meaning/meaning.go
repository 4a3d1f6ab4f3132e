// Package meaning reads from a request what it asks for in the words of its
// protocol: the method of gRPC, the operation of GraphQL, the tool of MCP.
//
// It is a reading of the request, not of what the upstream did with it, and it
// is what the client chose to say. Each extractor is a pure function with a bound
// on what it reads (64 KiB of a body, 32 levels of nesting) and on what it
// returns (256 bytes a fact). What programs read in more than one way, such as a
// member that stands twice, is not guessed at: it is [Ambiguous]. docs/formats.md
// says what each fact is.
//
// Start with [Parse], then call [Set.Of].
package meaning

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// The protocols, as they stand in records and in the configuration.
const (
	GRPC    = "grpc"
	GraphQL = "graphql"
	JSONRPC = "json-rpc"
	MCP     = "mcp"
	S3      = "s3"
)

// Ambiguous is the name of an operation of which it is clear that there is one,
// but not which: the request can be read in two ways, or not to its end.
const Ambiguous = "…ambiguous"

// More is the end of a list of names that did not all fit.
const More = ", …"

const (
	maxRead  = 64 << 10 // of a body
	maxDepth = 32       // of objects, lists and selections within each other
	maxFact  = 256      // bytes of a name or target
	maxNames = 16       // in the name of a batch
)

// Request is what there is to read. Nothing of it is kept or changed.
type Request struct {
	Method string
	Host   string              // with or without a port
	Path   string              // escaped, as received
	Query  string              // as received, without "?"
	Header map[string][]string // by canonical names
	// Body is the whole body, or nil where it is not at hand: then headers, path
	// and query have to do.
	Body []byte
	// Streamed says that there is a body which is not at hand.
	Streamed bool
	// PathHidden keeps names that stand in the path out of operations.
	PathHidden bool
}

// Operation is what a request asks for. Strings are valid UTF-8 without control
// characters, of at most 256 bytes; facts that are not known are empty.
type Operation struct {
	Protocol string
	Name     string
	Kind     string
	Target   string
}

// ErrProtocol is wrapped where a name is not that of a protocol.
var ErrProtocol = errors.New("unknown protocol")

// Set is a set of protocols whose operations are read. The zero value is empty.
type Set uint8

const (
	setGRPC Set = 1 << iota
	setGraphQL
	setJSONRPC
	setMCP
	setS3
)

// Protocols returns the names of all protocols.
func Protocols() []string { return []string{GRPC, GraphQL, JSONRPC, MCP, S3} }

// Parse returns the set of some protocols; nil means all of them.
func Parse(names []string) (Set, error) {
	all := Protocols()
	if names == nil {
		names = all
	}
	var s Set
	for _, n := range names {
		i := slices.Index(all, n)
		if i < 0 {
			return 0, fmt.Errorf("%w %q: %s are known", ErrProtocol, n, strings.Join(all, ", "))
		}
		s |= 1 << i
	}
	return s, nil
}

func (s Set) has(o Set) bool { return s&o != 0 }

// Of returns the operation of a request, and reports whether it has one of a
// protocol of the set. Bodies of media types that hold no operations are not looked
// at. What fits two protocols is ambiguous: which of them the upstream speaks is not
// for a header of the client's to say.
func (s Set) Of(r *Request) (Operation, bool) {
	if s == 0 {
		return Operation{}, false
	}
	media := r.media()
	var op Operation
	found := false
	if s.has(setGRPC) {
		op, found = grpc(r, media)
	}
	if !found && s.has(setS3) && signedForS3(r) {
		op, found = s3(r), true
	}
	if held, ok := s.held(r, media, found); ok {
		if found {
			return Operation{Protocol: op.Protocol, Name: Ambiguous}, true
		}
		return held, true
	}
	switch {
	case found:
		return op, true
	case s.has(setS3) && hostOfS3(r.Host):
		return s3(r), true
	}
	return Operation{}, false
}

// held returns the operation that the body holds, or the parameters in its place.
// told says that path and headers tell one already: then only what is sent with POST
// counts, for objects of S3 can be documents of any kind.
func (s Set) held(r *Request, media medium, told bool) (op Operation, ok bool) {
	document := s.has(setMCP|setJSONRPC|setGraphQL) && r.says(mediaJSON) || s.has(setMCP) && namesMCP(r)
	if document && (!told || r.Method == "POST") {
		op, ok = s.document(r)
	}
	if !s.has(setGraphQL) || ok && op.Protocol == GraphQL {
		return op, ok
	}
	other, also := graphQLRequest(r, media)
	switch {
	case ok && also:
		return Operation{Protocol: op.Protocol, Name: Ambiguous}, true
	case also:
		return other, true
	}
	return op, ok
}

// Readable reports whether the body, if one of its media type can hold an operation,
// can be read to its end as one thing: else an operation of which [Set.Of] knows
// nothing may stand in it.
func (r *Request) Readable() bool {
	body := r.plain()
	if len(body) < len(r.Body) {
		return false // compressed
	}
	if len(body) == 0 || !r.says(mediaJSON) && !namesMCP(r) {
		return !r.Streamed
	}
	in := newScanner(body)
	in.skip()
	return in.end() && len(body) <= maxRead
}

// says reports whether a Content-Type is of a medium.
func (r *Request) says(m medium) bool {
	for _, v := range r.Header["Content-Type"] {
		if mediaType(v) == m {
			return true
		}
	}
	return false
}

// medium is a class of media types.
type medium uint8

const (
	mediaOther medium = iota
	mediaGRPC
	mediaConnect // streams of the Connect protocol
	mediaJSON
	mediaGraphQL
)

// media classifies the Content-Type. Where there are several the first that is of
// interest counts: the body then shows what it is.
func (r *Request) media() medium {
	for _, v := range r.Header["Content-Type"] {
		if m := mediaType(v); m != mediaOther {
			return m
		}
	}
	return mediaOther
}

func mediaType(value string) medium {
	const prefix = "application/"
	value, _, _ = strings.Cut(value, ";")
	value = strings.TrimSpace(value)
	if len(value) <= len(prefix) || !strings.EqualFold(value[:len(prefix)], prefix) {
		return mediaOther
	}
	sub := value[len(prefix):]
	fold := func(prefix string) bool {
		return len(sub) >= len(prefix) && strings.EqualFold(sub[:len(prefix)], prefix)
	}
	switch {
	case strings.EqualFold(sub, "json"), strings.EqualFold(sub, "json-rpc"):
		return mediaJSON
	case fold("grpc") && (len(sub) == 4 || sub[4] == '+' || sub[4] == '-'):
		return mediaGRPC
	case fold("connect+"):
		return mediaConnect
	case strings.EqualFold(sub, "graphql"):
		return mediaGraphQL
	case len(sub) > 5 && strings.EqualFold(sub[len(sub)-5:], "+json"):
		return mediaJSON
	}
	return mediaOther
}

// plain returns the body if it can be read as it is: nothing is inflated.
func (r *Request) plain() []byte {
	for _, v := range r.Header["Content-Encoding"] {
		if v = strings.TrimSpace(v); v != "" && !strings.EqualFold(v, "identity") {
			return nil
		}
	}
	return r.Body
}

// fact makes a string of a client's fit for a record: valid UTF-8, without
// characters that control a terminal or the direction of writing, and short. Of
// what is too long stands the beginning, with the digest of all of it.
func fact(s string) string {
	s = escape(s)
	if len(s) <= maxFact {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	mark := "…sha256:" + hex.EncodeToString(sum[:])
	cut := maxFact - len(mark)
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + mark
}

func escape(s string) string {
	clean := true
	for i := 0; i < len(s) && clean; i++ {
		clean = s[i] >= ' ' && s[i] < 0x7f
	}
	if clean {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case controls(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// controls reports whether a character is none to look at: C0, C1, line and
// paragraph separators, and those that turn the direction of writing.
func controls(r rune) bool {
	return r < ' ' || 0x7f <= r && r < 0xa0 || r == 0x61c || 0x200e <= r && r <= 0x200f || 0x2028 <= r && r <= 0x202e || 0x2066 <= r && r <= 0x2069
}

// list collects the distinct facts of a batch, in order.
type list struct {
	facts []string
	more  bool
}

func (l *list) add(s string) {
	switch {
	case s == "" || slices.Contains(l.facts, s):
	case len(l.facts) == maxNames:
		l.more = true
	default:
		l.facts = append(l.facts, s)
	}
}

// String joins the facts; "…" stands for those that there is no room for.
func (l *list) String() string {
	var b strings.Builder
	for i, s := range l.facts {
		if i > 0 {
			if b.Len()+len(s) > maxFact-2*len(More) {
				l.more = true
				break
			}
			b.WriteString(", ")
		}
		b.WriteString(s)
	}
	if l.more && b.Len() > 0 {
		b.WriteString(More)
	}
	return fact(b.String())
}

package meaning

import (
	"bytes"
	"strings"
)

// member is one that tells an operation, in a JSON document.
type member uint16

const (
	memberRPC member = 1 << iota
	memberMethod
	memberID
	memberParams
	memberAnswer // "result" or "error"
	memberQuery
	memberOperationName
	memberExtensions
	memberName // of "params"
	memberURI
	memberProtocolVersion
	memberPersisted // of "extensions"
	memberHash      // of that
)

// named gives a member its name in one kind of object.
type named struct {
	name string
	member
}

// call is what one object of a document says, of JSON-RPC and of GraphQL at once.
type call struct {
	seen member // with a value of the right type
	// odd are those that parsers read differently: they stand twice, or are spelt
	// in other letters (encoding/json does not tell cases apart), or have a value
	// of another type.
	odd member

	method, name, uri, query, operationName []byte // between the quotes
}

// is returns the member of a name, and notes one that is not spelt so.
func (c *call) is(raw []byte, known []named) member {
	const longest = 32 // of a known name, escaped: 6 bytes a letter
	if len(raw) > 6*longest {
		return 0
	}
	key := raw
	var buf [6 * longest]byte
	if bytes.IndexByte(raw, '\\') >= 0 {
		key = unquote(buf[:0], raw)
	}
	for _, k := range known {
		if string(key) == k.name {
			return k.member
		}
	}
	for _, k := range known {
		if len(key) >= len(k.name) && bytes.EqualFold(key, []byte(k.name)) {
			c.odd |= k.member
			return k.member
		}
	}
	return 0
}

// once notes that a member is there.
func (c *call) once(m member) {
	if c.seen&m != 0 {
		c.odd |= m
	}
	c.seen |= m
}

// take reads the value of a member that is a string.
func (c *call) take(s *scanner, m member, into *[]byte) {
	raw, ok := s.text()
	if !ok {
		if !s.failed && !s.null() {
			c.odd |= m
		}
		s.skip()
		return
	}
	c.once(m)
	*into = raw
}

// read reads an object that the scanner has entered.
func (c *call) read(s *scanner) {
	known := [...]named{
		{"id", memberID}, {"method", memberMethod}, {"params", memberParams}, {"jsonrpc", memberRPC}, {"query", memberQuery},
		{"operationName", memberOperationName}, {"result", memberAnswer}, {"error", memberAnswer}, {"extensions", memberExtensions},
	}
	for n := 0; s.more(&n, '}'); {
		switch m := c.is(s.key(), known[:]); m {
		case memberMethod:
			c.take(s, m, &c.method)
		case memberQuery:
			c.take(s, m, &c.query)
		case memberOperationName:
			c.take(s, m, &c.operationName)
		case memberRPC:
			c.version(s)
		case memberParams:
			c.once(m)
			c.params(s)
		case memberExtensions:
			c.once(m)
			c.extensions(s)
		case memberAnswer:
			c.seen |= m // an answer to both is no operation either
			s.skip()
		case memberID:
			c.once(m)
			s.skip()
		default:
			s.skip()
		}
	}
}

// version reads the value of "jsonrpc". Another one than 2.0 is of no interest,
// but for standing beside it.
func (c *call) version(s *scanner) {
	before := c.seen & memberRPC
	var v []byte
	if c.take(s, memberRPC, &v); words(v) != "2.0" {
		c.seen = c.seen&^memberRPC | before
		c.odd |= memberRPC
	}
}

// params reads what of the parameters of MCP names a target.
func (c *call) params(s *scanner) {
	if !s.enter('{') {
		s.skip()
		return
	}
	known := [...]named{{"name", memberName}, {"uri", memberURI}, {"protocolVersion", memberProtocolVersion}}
	for n := 0; s.more(&n, '}'); {
		switch m := c.is(s.key(), known[:]); m {
		case memberName:
			c.take(s, m, &c.name)
		case memberURI:
			c.take(s, m, &c.uri)
		case memberProtocolVersion:
			var version []byte
			c.take(s, m, &version)
		default:
			s.skip()
		}
	}
}

// extensions looks for a persisted query of GraphQL.
func (c *call) extensions(s *scanner) {
	if !s.enter('{') {
		s.skip()
		return
	}
	outer := [...]named{{"persistedQuery", memberPersisted}}
	for n := 0; s.more(&n, '}'); {
		if c.is(s.key(), outer[:]) != memberPersisted || !s.enter('{') {
			s.skip()
			continue
		}
		c.once(memberPersisted)
		inner := [...]named{{"sha256Hash", memberHash}}
		for n := 0; s.more(&n, '}'); {
			if c.is(s.key(), inner[:]) != memberHash {
				s.skip()
				continue
			}
			var hash []byte
			c.take(s, memberHash, &hash)
		}
	}
}

// words is what a string between quotes says.
func words(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw)
	}
	return string(unquote(nil, raw))
}

// document returns the operation of a JSON document, or of what a header says is MCP.
func (s Set) document(r *Request) (Operation, bool) {
	rpc := rpcReading{mcp: s.has(setMCP) && namesMCP(r)}
	var gql graphQLReading
	if body := r.plain(); len(body) > 0 && (rpc.mcp || hopeful(body[:min(len(body), maxRead)])) {
		whole := s.calls(body, &rpc, &gql)
		rpc.unclear = rpc.unclear || !whole
		rpc.hinted = !whole && bytes.Contains(body[:min(len(body), maxRead)], []byte(`"jsonrpc"`))
		gql.unclear = gql.unclear || !whole || gql.calls > 0 && inQuery(r)
	}
	op, ok := rpc.operation(s)
	switch {
	case ok && rpc.calls > 0 && gql.calls > 0:
		// One program will run the one, another the other.
		return Operation{Protocol: op.Protocol, Name: Ambiguous}, true
	case ok && (rpc.calls > 0 || gql.calls == 0):
		return op, true
	}
	return gql.operation()
}

// hopeful reports whether JSON can hold an operation, at a small part of the cost
// of reading it: there is the version of JSON-RPC, or a member whose name ends in
// "query" in some spelling, or an escape behind which either can hide.
func hopeful(body []byte) bool {
	if bytes.IndexByte(body, '\\') >= 0 || bytes.Contains(body, []byte(`2.0"`)) {
		return true
	}
	for _, end := range [...]string{`y"`, `Y"`} {
		for b := body; ; {
			i := bytes.Index(b, []byte(end))
			if i < 0 {
				break
			}
			if i >= 4 && bytes.EqualFold(b[i-4:i], []byte("quer")) {
				return true
			}
			b = b[i+2:]
		}
	}
	return false
}

// calls reads the object that a document is, or those of its list. It reports
// whether the document was read to its end.
func (s Set) calls(body []byte, rpc *rpcReading, gql *graphQLReading) (whole bool) {
	in := newScanner(body)
	if in.enter('[') {
		rpc.batch = true
		for n := 0; in.more(&n, ']'); {
			s.call(&in, rpc, gql)
		}
	} else {
		s.call(&in, rpc, gql)
	}
	return in.end() && len(body) <= maxRead
}

func (s Set) call(in *scanner, rpc *rpcReading, gql *graphQLReading) {
	if !in.enter('{') {
		in.skip()
		return
	}
	var c call
	c.read(in)
	if s.has(setJSONRPC | setMCP) {
		rpc.add(&c)
	}
	if s.has(setGraphQL) {
		gql.add(&c, "")
	}
}

// inQuery reports whether the query string names an operation of GraphQL too.
func inQuery(r *Request) bool {
	if !strings.ContainsAny(r.Query, "q%o") {
		return false
	}
	_, q := parameter(r.Query, "query")
	_, n := parameter(r.Query, "operationName")
	return q+n > 0
}

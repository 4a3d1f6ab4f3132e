package meaning

import (
	"slices"
	"strings"
)

// namesMCP reports whether a header says that the request is one of the Model
// Context Protocol (streamable HTTP, sections "Session Management" and "Protocol
// Version Header").
func namesMCP(r *Request) bool {
	return len(r.Header["Mcp-Session-Id"]) > 0 || len(r.Header["Mcp-Protocol-Version"]) > 0
}

// rpcReading is what the calls of a document of JSON-RPC 2.0 come to.
type rpcReading struct {
	mcp     bool // a header or a method says so
	batch   bool
	unclear bool
	hinted  bool // it is not read to its end, and there is a word of JSON-RPC in it
	calls   int

	names, targets list
	kind           string // of the last call
}

func (d *rpcReading) add(c *call) {
	// What a header says is MCP need not say so again.
	if c.seen&memberRPC == 0 && (!d.mcp || (c.seen|c.odd)&memberMethod == 0) {
		return
	}
	d.calls++
	if c.odd&(memberRPC|memberMethod|memberID|memberParams) != 0 {
		d.unclear = true
	}
	d.kind = ""
	method := words(c.method)
	switch {
	case c.seen&memberMethod == 0 && c.seen&memberAnswer != 0:
		d.kind = "response" // MCP: to a request of the server
	case c.seen&(memberMethod|memberID) == memberMethod:
		d.kind = "notification"
	}
	d.names.add(fact(method))
	switch method {
	case "tools/call", "prompts/get":
		d.mcp = true
		d.unclear = d.unclear || c.odd&memberName != 0
		d.targets.add(fact(words(c.name)))
	case "resources/read", "resources/subscribe", "resources/unsubscribe":
		d.mcp = true
		d.unclear = d.unclear || c.odd&memberURI != 0
		d.targets.add(scheme(words(c.uri)))
	case "initialize":
		d.mcp = d.mcp || c.seen&memberProtocolVersion != 0
	default:
		d.mcp = d.mcp || ofMCP(method)
	}
}

// ofMCP reports whether a method is one of MCP by its name alone. Other protocols
// over JSON-RPC have "initialize" and "ping" too.
func ofMCP(method string) bool {
	group, _, ok := strings.Cut(method, "/")
	if !ok {
		return false
	}
	switch group {
	case "tools", "resources", "prompts":
		return true
	}
	return slices.Contains([]string{
		"completion/complete", "elicitation/create", "logging/setLevel", "notifications/cancelled", "notifications/initialized",
		"notifications/progress", "notifications/roots/list_changed", "roots/list", "sampling/createMessage",
	}, method)
}

// scheme returns the scheme of a URI (RFC 3986, section 3.1). The rest is left
// out: what stands there is the server's own choice, and may well be a person, a
// file or a secret.
func scheme(uri string) string {
	s, _, ok := strings.Cut(uri, ":")
	if !ok || len(s) > 32 {
		return ""
	}
	for i := range len(s) {
		c := s[i] | 0x20
		if !('a' <= c && c <= 'z') && (i == 0 || !('0' <= s[i] && s[i] <= '9') && s[i] != '+' && s[i] != '-' && s[i] != '.') {
			return ""
		}
	}
	return strings.ToLower(s)
}

func (d *rpcReading) operation(s Set) (Operation, bool) {
	op := Operation{Protocol: JSONRPC}
	if d.mcp && s.has(setMCP) {
		op.Protocol = MCP
	} else if d.calls == 0 && !d.hinted || !s.has(setJSONRPC) {
		return Operation{}, false
	}
	if d.calls == 0 && !d.unclear {
		return op, true // by a header alone
	}
	if d.unclear {
		op.Name = Ambiguous
		return op, true
	}
	op.Name, op.Kind = d.names.String(), d.kind
	if d.batch {
		op.Kind = "batch"
	}
	if op.Protocol == MCP {
		op.Target = d.targets.String()
	}
	return op, true
}

package meaning

import (
	"bytes"
	"net/url"
	"strings"
)

// graphQLReading is what the calls of a document of GraphQL over HTTP
// (https://graphql.github.io/graphql-over-http/draft/) come to.
type graphQLReading struct {
	unclear      bool
	calls        int
	names, kinds list
}

// add takes an object of JSON, or one made of parameters. operationName stands
// for its member where that is not in it.
func (d *graphQLReading) add(c *call, operationName string) {
	if c.seen&memberOperationName != 0 {
		operationName = words(c.operationName)
	}
	odd := c.odd&(memberQuery|memberOperationName) != 0
	if c.seen&memberQuery == 0 {
		if c.seen&memberHash == 0 {
			return
		}
		// A persisted query, of which only the server knows the text.
		d.calls++
		d.unclear = d.unclear || odd || c.odd&(memberExtensions|memberPersisted|memberHash) != 0 ||
			operationName != "" && !identifier(operationName)
		d.names.add(fact(operationName))
		return
	}
	text := c.query
	if bytes.IndexByte(text, '\\') >= 0 {
		text = unquote(nil, text)
	}
	d.text(text, operationName, odd)
}

// text takes a document of GraphQL.
func (d *graphQLReading) text(text []byte, operationName string, odd bool) {
	p := selectOperation(text, operationName)
	if p.result == notGraphQL {
		return
	}
	d.calls++
	d.unclear = d.unclear || odd || p.result == unclear
	d.names.add(fact(p.name))
	d.kinds.add(p.kind)
}

func (d *graphQLReading) operation() (Operation, bool) {
	switch {
	case d.calls == 0:
		return Operation{}, false
	case d.unclear:
		return Operation{Protocol: GraphQL, Name: Ambiguous}, true
	}
	return Operation{Protocol: GraphQL, Name: d.names.String(), Kind: d.kinds.String()}, true
}

// graphQLRequest reads the forms of GraphQL over HTTP that are not JSON: the
// parameters of a GET, and a body that is the document itself.
func graphQLRequest(r *Request, media medium) (op Operation, ok bool) {
	if media == mediaGraphQL {
		return graphQLBody(r), true
	}
	if r.Query == "" || r.Method != "GET" && r.Method != "POST" {
		return op, false
	}
	query, q := parameter(r.Query, "query")
	extensions, e := parameter(r.Query, "extensions")
	if q+e == 0 {
		return op, false
	}
	name, n := parameter(r.Query, "operationName")
	var d graphQLReading
	if q > 0 {
		d.text([]byte(query), name, q > 1 || n > 1)
	} else {
		var c call
		s := newScanner([]byte(extensions))
		c.extensions(&s)
		d.add(&c, name)
		d.unclear = d.unclear || e > 1 || n > 1 || !s.end()
	}
	// Which of the two counts servers decide differently.
	d.unclear = d.unclear || d.calls > 0 && r.rivals(media)
	return d.operation()
}

// rivals reports whether the body may name an operation of GraphQL too.
func (r *Request) rivals(media medium) bool {
	body := r.plain()
	switch {
	case r.Method != "POST":
		return false
	case r.Streamed, len(body) < len(r.Body):
		return true
	case len(body) == 0:
		return false
	case media != mediaJSON || len(body) > maxRead:
		return true // of a form, say
	}
	var c call
	in := newScanner(body)
	if in.enter('{') {
		c.read(&in)
	} else {
		in.skip()
	}
	return !in.end() || (c.seen|c.odd)&(memberQuery|memberOperationName|memberExtensions) != 0
}

// graphQLBody reads a body that is the document itself. Its media type says that
// it is one, whatever it holds.
func graphQLBody(r *Request) Operation {
	var d graphQLReading
	name, n := parameter(r.Query, "operationName")
	_, q := parameter(r.Query, "query")
	body := r.plain()
	if len(body) > maxRead {
		return Operation{Protocol: GraphQL, Name: Ambiguous}
	}
	d.text(body, name, n > 1 || q > 0)
	if op, ok := d.operation(); ok {
		return op
	}
	return Operation{Protocol: GraphQL}
}

// parameter returns the first value of a parameter of a query string, and how
// often it is there.
func parameter(query, name string) (value string, n int) {
	for len(query) > 0 {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		k, v, _ := strings.Cut(pair, "=")
		if k != name && (!strings.ContainsAny(k, "%+") || unescape(k) != name) {
			continue
		}
		if n++; n == 1 {
			value = unescape(v)
		}
	}
	return value, n
}

func unescape(s string) string {
	if plain, err := url.QueryUnescape(s); err == nil {
		return plain
	}
	return s
}

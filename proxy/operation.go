package proxy

import (
	"fmt"
	"net/http"
	"strings"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proxy/meaning"
)

// parseOperations returns the protocols whose operations are recorded.
func parseOperations(protocols []string) (meaning.Set, error) {
	set, err := meaning.Parse(protocols)
	if err != nil {
		return 0, fmt.Errorf("%w: operations: %w", ErrConfig, err)
	}
	return set, nil
}

// captureOperation records what a request asks for in the words of its protocol.
// Secrets in the path are replaced already; those in the query are not, since
// they tell that a request is signed. Of the body only what is buffered is at hand.
func (x *exchange) captureOperation(q *sealtapv1.Request, path, query string) {
	if x.r.Method == http.MethodConnect {
		return // what the tunnel carries is not known
	}
	in := x.meaning(path, query)
	in.PathHidden = x.sealsPath()
	op, ok := x.p.operations.Of(&in)
	if !ok {
		return
	}
	o := &x.st.operation
	o.Reset()
	o.Protocol, o.Kind = op.Protocol, capped(op.Kind, maxOperation)
	o.Name = capped(x.redactOperation("name", op.Name), maxOperation)
	o.Target = capped(x.redactOperation("target", op.Target), maxOperation)
	q.Operation = o
}

// meaning is what there is of a request to read its operation from.
func (x *exchange) meaning(path, query string) meaning.Request {
	in := meaning.Request{Method: x.r.Method, Host: x.r.Host, Path: path, Query: query, Header: x.r.Header, Streamed: x.body.kind == bodyStreamed}
	if x.body.kind == bodyBuffered {
		in.Body = x.body.data
	}
	return in
}

// operation is what a request asks for to rules, of every protocol that is known
// whatever is recorded of it; empty where nothing is known. It reports false where the
// upstream may be asked for something else.
func (x *exchange) operation() (op meaning.Operation, ok bool) {
	if x.r.Method == http.MethodConnect {
		return op, true
	}
	_, path, query := x.target()
	in := x.meaning(path, query)
	op, _ = x.p.everyOperation.Of(&in)
	switch {
	case op.Name == meaning.Ambiguous, op.Name == "" && (op.Protocol == meaning.GRPC || !in.Readable()):
		return op, false
	case strings.HasSuffix(op.Name, meaning.More), strings.HasSuffix(op.Target, meaning.More):
		return op, false // there are others
	}
	return op, true
}

// redactOperation replaces secrets in a name that a client chose.
func (x *exchange) redactOperation(place, value string) string {
	if looksLikeToken(value) {
		x.credential("operation", place, value)
		return redacted
	}
	if !suspicious(value) {
		return value
	}
	return redactText(value, func(param, secret string) { x.credential("operation", within(place, param), secret) })
}

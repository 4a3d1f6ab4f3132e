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
	op, ok := x.operationOf(x.p.operations, path, query, x.sealsPath())
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

func (x *exchange) operationOf(set meaning.Set, path, query string, hidden bool) (meaning.Operation, bool) {
	in := meaning.Request{
		Method: x.r.Method, Host: x.r.Host, Path: path, Query: query, Header: x.r.Header,
		PathHidden: hidden,
	}
	if x.body.kind == bodyBuffered {
		in.Body = x.body.data
	}
	return set.Of(&in)
}

// operation is what a request asks for to rules, of every protocol that is known
// whatever is recorded of it; empty where nothing is known.
func (x *exchange) operation() meaning.Operation {
	if x.r.Method == http.MethodConnect {
		return meaning.Operation{}
	}
	_, path, query := x.target()
	op, _ := x.operationOf(x.p.everyOperation, path, query, false)
	return op
}

// redactOperation replaces secrets in a name that a client chose.
func (x *exchange) redactOperation(place, value string) string {
	if looksLikeToken(value) {
		x.credential("operation", place, value)
		return redacted
	}
	if !strings.ContainsAny(value, "=@%") {
		return value
	}
	return redactText(value, func(param, secret string) { x.credential("operation", place+":"+param, secret) })
}

package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proxy/hosts"
	"github.com/sealtap/sealtap/proxy/meaning"
	"github.com/sealtap/sealtap/proxy/route"
	"github.com/sealtap/sealtap/proxy/rules"
)

// Policy says which requests pass, where they take a route.
type Policy struct {
	// Rules decide whether a request is let through; the decision stands in its
	// record. None of them means that there is no decision.
	Rules []rules.Rule
	// DenyByDefault denies what no rule decides.
	DenyByDefault bool
}

// policy is a Policy at work.
type policy struct {
	rules *rules.Set // nil if there are none
}

// compile returns nil for a policy that says nothing.
func (c *Policy) compile() (*policy, error) {
	if len(c.Rules) == 0 && !c.DenyByDefault {
		return nil, nil
	}
	set, err := rules.Compile(c.Rules, c.DenyByDefault)
	if err != nil {
		return nil, err
	}
	return &policy{rules: set}, nil
}

// policy returns what holds for the request, or nil.
func (x *exchange) policy() *policy {
	if x.route != nil {
		return x.route.policy
	}
	return x.p.policy
}

// permit asks the policy about a request whose body is not read yet. If it is not
// let through the client is told, and permit reports false.
func (x *exchange) permit() bool {
	q := x.policy()
	if q == nil {
		return true
	}
	if q.rules == nil || q.rules.NeedsBody() && x.r.Method != http.MethodConnect {
		return true
	}
	if why := x.decideBy(q.rules); why != "" {
		x.deny(http.StatusForbidden, codeDenied, why)
		return false
	}
	return true
}

// permitBody asks rules that need the body, once it is read or about to be passed
// on.
func (x *exchange) permitBody() bool {
	q := x.policy()
	if q == nil || !q.rules.NeedsBody() {
		return true
	}
	why := x.decideBy(q.rules)
	if why != "" && x.open() {
		x.fail(http.StatusForbidden, codeDenied, sealtapv1.Outcome_OUTCOME_DENIED, why)
	}
	return why == ""
}

// decideBy takes down what the rules say, and returns why they deny the request.
func (x *exchange) decideBy(set *rules.Set) (why string) {
	d := set.Decide(&facts{x: x})
	x.verdict.rule, x.verdict.allowed = d.Rule, d.Allowed
	switch {
	case d.Err != nil:
		// What the error says may quote the request, which can hold secrets.
		return fmt.Sprintf("the rule %s cannot be evaluated for this request, so it is denied%s", d.Rule, kindOf(d.Err))
	case d.Allowed:
		return ""
	case d.Rule == rules.Default:
		return "no rule allows it"
	}
	return fmt.Sprintf("the rule %s denies it", d.Rule)
}

// kindOf says what went wrong with a rule as far as the request does not show.
func kindOf(err error) string {
	for _, e := range []error{errSeveralHosts, errOperation, errQuery} {
		if errors.Is(err, e) {
			return ": " + e.Error()
		}
	}
	switch text := err.Error(); {
	case strings.Contains(text, "no such key"):
		return ": it asks for a header, parameter or claim that is not there"
	case strings.Contains(text, "cost limit"):
		return ": it takes too long"
	case strings.Contains(text, "the path"):
		return ": the path can be read in several ways"
	}
	return ""
}

var (
	errSeveralHosts = errors.New("the host can be read in several ways")
	errOperation    = errors.New("what it asks for cannot be told: in two ways at once, or in a body that is streamed, compressed, or cannot be read to its end")
	errQuery        = errors.New("the query is not escaped as queries are")
)

// facts are what rules can ask about a request.
type facts struct {
	x    *exchange
	op   *meaning.Operation
	told bool // op is what the upstream will do
}

// Fact implements [rules.Facts].
func (f *facts) Fact(name string) (any, error) {
	x, r := f.x, f.x.r
	switch name {
	case "request.method":
		return r.Method, nil
	case "request.host":
		return x.plainHost()
	case "request.path":
		return x.plainPath()
	case "request.query":
		return x.plainQuery()
	case "request.headers":
		return lowerHeaders(r.Header), nil
	case "request.size":
		return x.knownSize(), nil
	case "request.protocol":
		return protocolName(r), nil
	case "who.id":
		return x.identity().id, nil
	case "who.how":
		return x.identity().how, nil
	case "who.verified":
		return x.identity().verified, nil
	case "who.claims":
		m := make(map[string]string)
		for _, c := range x.identity().claims {
			m[c.name] = c.value
		}
		return m, nil
	case "source.ip":
		if a := x.sourceAddr(); a.IsValid() {
			return a.String(), nil
		}
		return "", nil
	case "operation.protocol":
		return f.operation(func(op *meaning.Operation) string { return op.Protocol })
	case "operation.name":
		return f.operation(func(op *meaning.Operation) string { return op.Name })
	case "operation.kind":
		return f.operation(func(op *meaning.Operation) string { return op.Kind })
	case "operation.target":
		return f.operation(func(op *meaning.Operation) string { return op.Target })
	case "route":
		return x.service(), nil
	case "time":
		return x.start, nil
	}
	return nil, fmt.Errorf("there is no %s", name)
}

// identity is who, which a policy and the record both ask for.
func (x *exchange) identity() identity {
	if !x.asked {
		x.known, x.asked = x.who(), true
	}
	return x.known
}

// plainHost is the host that is asked for, in its one form.
func (x *exchange) plainHost() (string, error) {
	h, _, err := hosts.Split(x.r.Host, 80)
	if err != nil {
		return "", errSeveralHosts
	}
	return h.Name, nil
}

// plainPath is the path without escapes. What upstreams read in different ways is
// an error.
func (x *exchange) plainPath() (string, error) {
	_, path, _ := x.target()
	if path == "" {
		return "", nil // of CONNECT, or of a target such as http://shop.example
	}
	return route.Plain(path)
}

func (x *exchange) plainQuery() (map[string][]string, error) {
	_, _, query := x.target()
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, errQuery
	}
	return values, nil
}

// lowerHeaders are headers by their names in lower case, with commas between the
// values of one that comes more than once (RFC 9110, section 5.3).
func lowerHeaders(h http.Header) map[string]string {
	m := make(map[string]string, len(h))
	for name, values := range h {
		m[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	return m
}

// knownSize is the length of the body, or -1 where it is not known before it has
// passed.
func (x *exchange) knownSize() int64 {
	if x.body.kind == bodyStreamed {
		return x.r.ContentLength
	}
	return int64(x.body.size)
}

// sourceAddr is the address of the client, if it has one.
func (x *exchange) sourceAddr() netip.Addr {
	text := x.source()
	if ap, err := netip.ParseAddrPort(text); err == nil {
		return ap.Addr().Unmap().WithZone("")
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}

// operation returns a part of what is asked for. Whether it is asked for something
// else than seems must not be for the client to choose: by asking in two ways at
// once, or in a body that is not read before it passes, or not as the upstream does.
func (f *facts) operation(part func(*meaning.Operation) string) (string, error) {
	if f.op == nil {
		op, told := f.x.operation()
		f.op, f.told = &op, told
	}
	if !f.told {
		return "", errOperation
	}
	return part(f.op), nil
}

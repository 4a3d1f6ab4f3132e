// Package rules decides by rules in CEL (https://cel.dev) whether a request is let
// through: the first rule whose expression is true decides.
//
// Rules are compiled, and their types checked, before anything is decided by them.
// Where a rule cannot be evaluated, since it asks for a header that is not there,
// say, or would take too long, the request is denied: a rule that is broken must
// not be one that is switched off.
//
// Start with [Compile]. The package knows nothing of servers.
package rules

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"
)

// ErrInvalid is wrapped by every error about rules.
var ErrInvalid = errors.New("invalid rule")

// Rule is one rule: a name, and the condition under which it denies or allows.
type Rule struct {
	Name        string
	Deny, Allow string // expressions of which one is there
}

// Error says which rule is wrong, and which key of it.
type Error struct {
	Index int
	Key   string // name, deny, allow, or empty for the whole rule
	Err   error
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("rule %d: %v", e.Index+1, e.Err) }

// Unwrap returns the cause, which wraps [ErrInvalid].
func (e *Error) Unwrap() error { return e.Err }

// The bounds of rules.
const (
	MaxRules = 128    // of one set
	MaxName  = 128    // bytes
	maxCost  = 50_000 // of one evaluation, as CEL reckons it: a byte that is looked at costs a tenth
)

// Default is the name of the decision about what no rule decides.
const Default = "default"

// Facts are what rules ask about. A fact that cannot be told, since the request
// can be read in several ways, is an error: the request is then denied by what
// asked for it.
type Facts interface {
	// Fact returns the value of one of [Names]. It is called at most once for each
	// name and request.
	Fact(name string) (any, error)
}

// Names returns what rules can ask about, with the types in words.
func Names() [][2]string {
	var list [][2]string
	for _, v := range variables() {
		list = append(list, [2]string{v.name, cel.FormatCELType(v.typ)})
	}
	return list
}

type variable struct {
	name string
	typ  *cel.Type
}

// variables have names with dots, so that one that is misspelt is found when it is
// compiled, and only those that are asked for are ever made.
func variables() []variable {
	texts := cel.MapType(cel.StringType, cel.StringType)
	return []variable{
		{"request.method", cel.StringType},
		{"request.host", cel.StringType},
		{"request.path", cel.StringType},
		{"request.query", cel.MapType(cel.StringType, cel.ListType(cel.StringType))},
		{"request.headers", texts},
		{"request.size", cel.IntType},
		{"request.protocol", cel.StringType},
		{"who.id", cel.StringType},
		{"who.how", cel.StringType},
		{"who.verified", cel.BoolType},
		{"who.claims", texts},
		{"source.ip", cel.StringType},
		{"operation.protocol", cel.StringType},
		{"operation.name", cel.StringType},
		{"operation.kind", cel.StringType},
		{"operation.target", cel.StringType},
		{"route", cel.StringType},
		{"time", cel.TimestampType},
	}
}

// Set is a list of rules at work. It can be used by many goroutines.
type Set struct {
	rules []compiled
	deny  bool // what no rule decides
	body  bool // some rule asks for what only the body tells
}

type compiled struct {
	name    string
	allow   bool
	program cel.Program
}

// Compile compiles rules. What none of them decides is allowed, or else denied.
// Its error is an [Error].
func Compile(list []Rule, denyByDefault bool) (*Set, error) {
	env, err := environment()
	if err != nil {
		return nil, err
	}
	if len(list) > MaxRules {
		return nil, &Error{Index: MaxRules, Err: invalid("there are more than %d rules", MaxRules)}
	}
	s := &Set{deny: denyByDefault}
	for i, r := range list {
		if key, err := r.check(list[:i]); err != nil {
			return nil, &Error{i, key, err}
		}
		key, text := "deny", r.Deny
		if r.Allow != "" {
			key, text = "allow", r.Allow
		}
		p, body, err := compile(env, text)
		if err != nil {
			return nil, &Error{i, key, err}
		}
		s.rules = append(s.rules, compiled{r.Name, r.Allow != "", p})
		s.body = s.body || body
	}
	return s, nil
}

func environment() (*cel.Env, error) {
	options := []cel.EnvOption{
		ext.Network(), cel.OptionalTypes(),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals()),
	}
	for _, v := range variables() {
		options = append(options, cel.Variable(v.name, v.typ))
	}
	return cel.NewEnv(options...)
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

func (r *Rule) check(before []Rule) (key string, err error) {
	switch {
	case r.Name == "":
		return "name", invalid("it needs a name, which stands in records")
	case len(r.Name) > MaxName || strings.ContainsFunc(r.Name, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return "name", invalid("a name has at most %d bytes, and no control characters", MaxName)
	case r.Name == Default:
		return "name", invalid("%q is the name of what no rule decides", Default)
	case slices.ContainsFunc(before, func(o Rule) bool { return o.Name == r.Name }):
		return "name", invalid("%q is taken", r.Name)
	case (r.Deny == "") == (r.Allow == ""):
		return "", invalid("it needs one of deny and allow")
	}
	return "", nil
}

// compile reports also whether the expression asks for what only the body tells.
func compile(env *cel.Env, text string) (cel.Program, bool, error) {
	ast, issues := env.Compile(text)
	if issues != nil && issues.Err() != nil {
		return nil, false, invalid("%s", first(issues))
	}
	if t := ast.OutputType(); !t.IsExactType(cel.BoolType) {
		return nil, false, invalid("it gives a %s, and not true or false", cel.FormatCELType(t))
	}
	p, err := env.Program(ast, cel.CostLimit(maxCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, false, invalid("%s", strings.ReplaceAll(err.Error(), "\n", " "))
	}
	body := false
	for _, ref := range ast.NativeRep().ReferenceMap() {
		body = body || ref.Name == "request.size" || strings.HasPrefix(ref.Name, "operation.")
	}
	return p, body, nil
}

// first is the first error of an expression, on one line.
func first(issues *cel.Issues) string {
	list := issues.Errors()
	if len(list) == 0 {
		return strings.ReplaceAll(issues.Err().Error(), "\n", " ")
	}
	e := list[0]
	text := fmt.Sprintf("column %d: %s", e.Location.Column()+1, strings.ReplaceAll(e.Message, "\n", " "))
	if strings.HasPrefix(e.Message, "undeclared reference") && !strings.Contains(e.Message, "did you mean") {
		var names []string
		for _, v := range variables() {
			names = append(names, v.name)
		}
		text += "; there are " + strings.Join(names, ", ")
	}
	return text
}

// NeedsBody reports whether the rules ask for what only the body of a request
// tells: its operation, or its size.
func (s *Set) NeedsBody() bool { return s != nil && s.body }

// Decision is what rules say about a request.
type Decision struct {
	Rule    string // that decided, or [Default]
	Allowed bool
	// Err is why the rule could not be evaluated. It may quote the request.
	Err error
}

// Decide asks the rules in their order.
func (s *Set) Decide(facts Facts) Decision {
	in := &activation{facts: facts, known: make(map[string]any, 4)}
	for i := range s.rules {
		r := &s.rules[i]
		out, _, err := r.program.Eval(in)
		if err != nil {
			return Decision{Rule: r.name, Err: err}
		}
		if out == types.True {
			return Decision{Rule: r.name, Allowed: r.allow}
		}
	}
	return Decision{Rule: Default, Allowed: !s.deny}
}

// activation gives CEL the facts that it asks for.
type activation struct {
	facts Facts
	known map[string]any
}

// ResolveName implements cel.Activation.
func (a *activation) ResolveName(name string) (any, bool) {
	if v, ok := a.known[name]; ok {
		return v, true
	}
	v, err := a.facts.Fact(name)
	if err != nil {
		v = types.WrapErr(err)
	}
	a.known[name] = v
	return v, true
}

// Parent implements cel.Activation.
func (*activation) Parent() cel.Activation { return nil }

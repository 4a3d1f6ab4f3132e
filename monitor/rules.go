package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
)

// ErrRule is wrapped where a rule is none.
var ErrRule = errors.New("bad rule")

// Rules are named expressions in CEL (https://cel.dev) over a record, which stands
// in the variable r as GET /v1/records shows it: r.stage, r.method,
// r.response.status and so on. What a record does not have is tested with has().
type Rules struct {
	names    []string
	programs []cel.Program
}

// mostCost bounds what one evaluation may do.
const mostCost = 100_000

// NewRules compiles rules that are written NAME=EXPRESSION.
func NewRules(list []string) (*Rules, error) {
	env, err := cel.NewEnv(cel.Variable("r", cel.MapType(cel.StringType, cel.DynType)))
	if err != nil {
		return nil, err
	}
	rules := new(Rules)
	for _, text := range list {
		name, expression, ok := strings.Cut(text, "=")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, fmt.Errorf("%w: %q is not of the form NAME=EXPRESSION", ErrRule, text)
		}
		ast, issues := env.Compile(expression)
		if issues.Err() != nil {
			return nil, fmt.Errorf("%w %s: %w", ErrRule, name, issues.Err())
		}
		if t := ast.OutputType(); t != cel.BoolType && t != cel.DynType {
			return nil, fmt.Errorf("%w %s: it gives a %s, and not true or false", ErrRule, name, t)
		}
		p, err := env.Program(ast, cel.CostLimit(mostCost))
		if err != nil {
			return nil, fmt.Errorf("%w %s: %w", ErrRule, name, err)
		}
		rules.names, rules.programs = append(rules.names, name), append(rules.programs, p)
	}
	return rules, nil
}

// match returns the names of the rules that a record meets. A rule that cannot be
// evaluated, say since the record has no such fact, is not met.
func (rs *Rules) match(e record.Entry, index uint64) ([]string, error) {
	b, err := json.Marshal(record.NewView(e, index, func(id keys.ID) string { return id.String() }, nil))
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var view map[string]any
	if err := d.Decode(&view); err != nil {
		return nil, err
	}
	var met []string
	for i, p := range rs.programs {
		out, _, err := p.Eval(map[string]any{"r": numbers(view)})
		if err == nil && out.Value() == true {
			met = append(met, rs.names[i])
		}
	}
	return met, nil
}

// numbers makes integers of what JSON has no type for.
func numbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64() // it was made by us
		return f
	case map[string]any:
		for k, x := range v {
			v[k] = numbers(x)
		}
	case []any:
		for i, x := range v {
			v[i] = numbers(x)
		}
	}
	return v
}

// match asks the rules about the records that have come since they were last
// asked. The first time it only notes where the log ends.
func (m *Monitor) match(ctx context.Context, r *audit.Report) error {
	if m.cfg.Rules == nil {
		return nil
	}
	if m.told.Matched == nil {
		m.told.Matched = &r.Size
		return nil
	}
	next := *m.told.Matched
	const width = 256
	for p, err := range m.watch.Tree().Scan(ctx, next/width*width) {
		if err != nil {
			return err
		}
		if p.Index < next {
			continue
		}
		e, err := record.Parse(p.Entry)
		if err == nil && e.Record != nil {
			names, err := m.cfg.Rules.match(e, p.Index)
			if err != nil {
				return err
			}
			for _, name := range names {
				m.tell(ruleAlert(name, e, p.Index, r))
			}
		}
		next = p.Index + 1
		m.told.Matched = &next
	}
	return nil
}

func ruleAlert(name string, e record.Entry, index uint64, r *audit.Report) Alert {
	sequence := e.Record.GetSequence()
	return Alert{
		Origin: r.Origin, Code: Rule, Rule: name, Severity: string(audit.Notes), Index: &index, Producer: e.Record.Stream.Producer.String(), Sequence: &sequence, Size: r.Size,
		Detail: fmt.Sprintf("a %s meets the rule %s; exchange %s", e.Record.Stage(), name, record.FormatUUID(e.Record.GetExchange())),
	}
}

package rules

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// facts are the facts of a request; asking for one that is not there fails.
type facts map[string]any

func (f facts) Fact(name string) (any, error) {
	v, ok := f[name]
	if !ok {
		return nil, errors.New("cannot be told")
	}
	if g, ok := v.(func() any); ok {
		return g(), nil
	}
	return v, nil
}

func ask() facts {
	return facts{
		"request.method": "DELETE", "request.host": "shop.example", "request.path": "/orders/7",
		"request.query":   map[string][]string{"a": {"1", "2"}},
		"request.headers": map[string]string{"x-a": "b"},
		"request.size":    int64(-1), "request.protocol": "HTTP/1.1",
		"who.id": "guest", "who.how": "jwt", "who.verified": true, "who.claims": map[string]string{"tenant": "x"},
		"source.ip": "10.1.2.3", "operation.protocol": "mcp", "operation.name": "tools/call", "operation.kind": "", "operation.target": "shell",
		"route": "orders", "time": time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC),
	}
}

func TestDecide(t *testing.T) {
	for text, want := range map[string]bool{
		`request.method == "DELETE" && who.id == "guest"`:               true,
		`request.host.endsWith(".example") && request.protocol != ""`:   true,
		`request.path.matches("^/orders/[0-9]+$")`:                      true,
		`"2" in request.query["a"]`:                                     true,
		`request.headers[?"x-b"].orValue("") == "b"`:                    false,
		`"x-a" in request.headers && request.headers["x-a"] == "b"`:     true,
		`request.size > 10`:                                             false,
		`who.how == "jwt" && who.verified && who.claims.tenant == "x"`:  true,
		`cidr("10.0.0.0/8").containsIP(source.ip)`:                      true,
		`cidr("10.2.0.0/16").containsIP(source.ip)`:                     false,
		`operation.protocol == "mcp" && operation.target == "shell"`:    true,
		`operation.name == "x" || operation.kind == "x"`:                false,
		`route == "orders" && time.getHours() == 3`:                     true,
		`time < timestamp("2026-01-01T00:00:00Z")`:                      false,
		`who.id in ["ann", "bob"]`:                                      false,
		`request.headers["x-b"] == "b" || request.method == "DELETE"`:   true, // CEL: the side that is true counts
		`request.query.exists(k, request.query[k].exists(v, v == "2"))`: true,
	} {
		s, err := Compile([]Rule{{Name: "x", Deny: text}}, false)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if d := s.Decide(ask()); d.Allowed == want || d.Err != nil {
			t.Errorf("%s: %+v, want %v", text, d, want)
		}
	}
}

func TestFirstMatchWins(t *testing.T) {
	list := []Rule{
		{Name: "admins", Allow: `who.id == "root"`},
		{Name: "no deletes", Deny: `request.method == "DELETE"`},
		{Name: "reads", Allow: `request.method == "GET"`},
	}
	for _, c := range []struct {
		who, method string
		deny        bool
		want        Decision
	}{
		{"root", "DELETE", false, Decision{Rule: "admins", Allowed: true}},
		{"ann", "DELETE", false, Decision{Rule: "no deletes"}},
		{"ann", "GET", true, Decision{Rule: "reads", Allowed: true}},
		{"ann", "PUT", false, Decision{Rule: Default, Allowed: true}},
		{"ann", "PUT", true, Decision{Rule: Default}},
	} {
		s, err := Compile(list, c.deny)
		if err != nil {
			t.Fatal(err)
		}
		f := ask()
		f["who.id"], f["request.method"] = c.who, c.method
		if d := s.Decide(f); d != c.want {
			t.Errorf("%s %s: %+v, want %+v", c.who, c.method, d, c.want)
		}
	}
}

// TestErrorsDeny holds that what cannot be evaluated is denied, also by a rule that
// allows, and by no other rule's word.
func TestErrorsDeny(t *testing.T) {
	long := strings.Repeat("a", 60000)
	for _, r := range []Rule{
		{Name: "x", Deny: `request.headers["x-b"] == "b"`},
		{Name: "x", Allow: `request.headers["x-b"] == "b"`},
		{Name: "x", Deny: `int(request.headers["x-a"]) > 1`},
		{Name: "x", Deny: `cidr("10.0.0.0/8").containsIP(who.id)`},
		// More than a request may cost.
		{Name: "x", Deny: `request.headers["long"].matches("(a|aa|aaa|aaaa|aaaaa|aaaaaa|aaaaaaa|aaaaaaaa|aaaaaaaaa)*b")`},
		{Name: "x", Deny: `(request.headers["long"] + request.headers["long"] + request.headers["long"] + request.headers["long"]).matches("(a*)*(a*)*(a*)*(a*)*(a*)*b")`},
		{Name: "x", Deny: `request.path == "/"`}, // not there
	} {
		s, err := Compile([]Rule{r, {Name: "all", Allow: "true"}}, false)
		if err != nil {
			t.Fatal(err)
		}
		f := ask()
		delete(f, "request.path")
		f["request.headers"] = map[string]string{"x-a": "b", "long": long}
		if d := s.Decide(f); d.Allowed || d.Rule != "x" || d.Err == nil {
			t.Errorf("%+v: %+v", r, d)
		}
	}
}

func TestCompileErrors(t *testing.T) {
	for _, c := range []struct {
		rule Rule
		key  string
		want string
	}{
		{Rule{Name: "x", Deny: `request.metod == "GET"`}, "deny", "column 8: undeclared reference to 'request.metod' (did you mean 'request.method'?)"},
		{Rule{Name: "x", Deny: `user == "ann"`}, "deny", "; there are request.method, "},
		{Rule{Name: "x", Allow: `request.method == 1`}, "allow", "column 16: found no matching overload"},
		{Rule{Name: "x", Deny: `request.method`}, "deny", "it gives a string"},
		{Rule{Name: "x", Deny: `dyn(request.method)`}, "deny", "it gives a dyn"},
		{Rule{Name: "x", Deny: `request.method ==`}, "deny", "Syntax error"},
		{Rule{Name: "x", Deny: `request.path.matches("(")`}, "deny", "invalid matches argument"},
		{Rule{Deny: "true"}, "name", "it needs a name"},
		{Rule{Name: Default, Deny: "true"}, "name", "is the name of what no rule decides"},
		{Rule{Name: "first", Deny: "true"}, "name", `"first" is taken`},
		{Rule{Name: "a\nb", Deny: "true"}, "name", "control characters"},
		{Rule{Name: strings.Repeat("n", 129), Deny: "true"}, "name", "at most 128 bytes"},
		{Rule{Name: "x"}, "", "it needs one of deny and allow"},
		{Rule{Name: "x", Deny: "true", Allow: "true"}, "", "it needs one of deny and allow"},
	} {
		_, err := Compile([]Rule{{Name: "first", Deny: "false"}, c.rule}, false)
		var e *Error
		if !errors.As(err, &e) || !errors.Is(err, ErrInvalid) || e.Index != 1 || e.Key != c.key || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v, want %q", c.rule, err, c.want)
		}
	}
	if _, err := Compile(make([]Rule, MaxRules+1), false); !errors.Is(err, ErrInvalid) {
		t.Errorf("too many rules: %v", err)
	}
}

// TestLazy holds that only what is asked for is made, and once.
func TestLazy(t *testing.T) {
	n := 0
	f := facts{"request.method": func() any { n++; return "GET" }}
	s, err := Compile([]Rule{{Name: "a", Deny: `request.method == "A"`}, {Name: "b", Deny: `request.method == "B"`}}, false)
	if err != nil {
		t.Fatal(err)
	}
	if d := s.Decide(f); d.Err != nil || !d.Allowed || n != 1 {
		t.Errorf("%+v after asking %d times", d, n)
	}
}

func TestNeedsBody(t *testing.T) {
	for text, want := range map[string]bool{`request.method == "GET"`: false, `request.size > 5`: true, `who.id == "x" && operation.name == "x"`: true} {
		s, err := Compile([]Rule{{Name: "x", Deny: text}}, false)
		if err != nil || s.NeedsBody() != want {
			t.Errorf("%s: %v, %v", text, s.NeedsBody(), err)
		}
	}
	if (*Set)(nil).NeedsBody() {
		t.Error("no rules need a body")
	}
}

func BenchmarkDecide(b *testing.B) {
	s, err := Compile([]Rule{{Name: "a", Deny: `request.method == "DELETE" && who.id == "nobody"`}, {Name: "b", Deny: `request.path.startsWith("/admin/")`}}, false)
	if err != nil {
		b.Fatal(err)
	}
	f := ask()
	b.ReportAllocs()
	for b.Loop() {
		s.Decide(f)
	}
}

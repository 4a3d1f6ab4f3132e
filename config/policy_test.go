package config

import (
	"errors"
	"strings"
	"testing"
)

func TestRules(t *testing.T) {
	text := strings.Replace(good, "witnesses:\n", `  rules:
    - name: no deletes by guests
      deny: request.method == "DELETE" && who.id == "guest"
    - {name: reads, allow: 'request.method == "GET"'}
  rules_default: deny
witnesses:
`, 1)
	f, err := Parse("c.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if p := f.Proxy; len(p.Rules) != 2 || p.Rules[1].Allow != `request.method == "GET"` || p.RulesDefault != DefaultDeny {
		t.Errorf("%+v", p)
	}
	const upstream = "  upstream: http://127.0.0.1:9000\n"
	for _, c := range []struct{ old, new, want string }{
		{"request.method ==", "request.metod ==", "c.yaml:16: proxy.rules.[0].deny: invalid rule: column 8: undeclared reference to 'request.metod'"},
		{`'request.method == "GET"'`, "request.method", "c.yaml:17: proxy.rules.[1].allow: invalid rule: it gives a string"},
		{"name: no deletes by guests", "name: reads", `c.yaml:17: proxy.rules.[1].name: invalid rule: "reads" is taken`},
		{"rules_default: deny", "rules_default: maybe", `c.yaml:18: proxy.rules_default: "maybe" is neither allow nor deny`},
		{"{name: reads, ", "{name: reads, deny: 'true', ", "c.yaml:17: proxy.rules.[1]: invalid rule: it needs one of deny and allow"},
		{upstream, "  routes: [{service: a, upstream: 'http://127.0.0.1:1'}]\n", "c.yaml:14: proxy.rules: there are routes"},
		{upstream, "", "c.yaml:13: proxy.rules: there is no upstream; the rules of a forward proxy are forward.rules"},
		{"rules_default: deny\n", "forward: {rules_default: deny}\n", "c.yaml:18: proxy.forward.rules_default: a proxy with an upstream is no forward proxy"},
	} {
		if _, err := Parse("c.yaml", []byte(strings.Replace(text, c.old, c.new, 1))); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	text = strings.Replace(good, upstream, `  routes:
    - {service: a, upstream: "http://127.0.0.1:1", rules: [{name: x, deny: "user == 1"}]}
`, 1)
	if _, err := Parse("c.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), "c.yaml:5: proxy.routes.[0].rules.[0].deny: invalid rule: column 1: undeclared reference") {
		t.Errorf("%v", err)
	}
	text = strings.Replace(good, upstream, "  forward: {rules: [{name: x, deny: 'request.method == \"CONNECT\"'}]}\n", 1)
	if f, err := Parse("c.yaml", []byte(text)); err != nil || len(f.Proxy.Forward.Rules) != 1 {
		t.Errorf("of a forward proxy: %v", err)
	}
}

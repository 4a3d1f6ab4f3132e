// Package route decides which route of a reverse proxy a request takes: by host,
// path and method, the first rule that fits.
//
// A rule is a statement about what an upstream is asked for, so a path must mean
// to the rules what it means to whoever answers. Upstreams differ: some take an
// encoded slash for a slash, merge slashes that follow each other, or cut
// parameters behind a semicolon. A path passes only if all of these readings take
// the same route, and never with dot segments (RFC 3986, section 5.2.4), which
// lead elsewhere than they seem to.
//
// Start with [NewTable]. The package knows nothing of servers.
package route

import (
	"errors"
	"fmt"
	"strings"
)

// ErrInvalid is what errors about rules are, for errors.Is.
var ErrInvalid = errors.New("invalid route")

// invalidError says in words what is wrong with a rule.
type invalidError string

// Error implements error.
func (e invalidError) Error() string { return string(e) }

// Is makes it an [ErrInvalid].
func (invalidError) Is(target error) bool { return target == ErrInvalid }

// Rule says which requests take a route. What is left out does not matter.
type Rule struct {
	// Hosts are names such as shop.example, or *.example for every name below,
	// however deep. They are compared without port, trailing dot and case.
	Hosts []string
	// Prefix is the beginning of paths: /api stands for /api and everything
	// below it, /api/ only for what is below.
	Prefix string
	// Path is a pattern for whole paths, see [ParsePattern]; not beside Prefix.
	Path string
	// Methods are compared exactly: GET does not stand for HEAD.
	Methods []string
}

// Table holds the rules of a proxy in their order.
type Table struct{ rules []rule }

type rule struct {
	hosts   []host
	path    *Pattern // nil for any
	methods []string
}

// host is a name, or the end of names, in lower case.
type host struct {
	name   string
	suffix bool // name starts with a dot, and everything before it will do
}

// RuleError says which rule of a table is wrong, and which key of it.
type RuleError struct {
	Index int
	Key   string // host, prefix, path, methods, or empty for the whole rule
	Err   error
}

// Error implements error.
func (e *RuleError) Error() string {
	where := fmt.Sprintf("route %d", e.Index+1)
	if e.Key != "" {
		where += ": " + e.Key
	}
	return where + ": " + e.Err.Error()
}

// Unwrap returns the cause, which wraps [ErrInvalid].
func (e *RuleError) Unwrap() error { return e.Err }

func invalid(format string, args ...any) error { return invalidError(fmt.Sprintf(format, args...)) }

// NewTable returns a table. Its error is a [RuleError]; a rule that no request
// can reach, since an earlier one takes all of its, is one.
func NewTable(rules []Rule) (*Table, error) {
	t := new(Table)
	for i, r := range rules {
		c, key, err := compile(r)
		if err != nil {
			return nil, &RuleError{i, key, err}
		}
		for j := range t.rules {
			if t.rules[j].covers(&c) {
				return nil, &RuleError{i, "", invalid("no request reaches it: route %d takes all of them", j+1)}
			}
		}
		t.rules = append(t.rules, c)
	}
	return t, nil
}

func compile(r Rule) (c rule, key string, err error) {
	for _, name := range r.Hosts {
		h, err := parseHost(name)
		if err != nil {
			return c, "host", err
		}
		c.hosts = append(c.hosts, h)
	}
	for _, m := range r.Methods {
		if !token(m) || strings.ToUpper(m) != m {
			return c, "methods", invalid("%q is not a method such as GET", m)
		}
	}
	c.methods = r.Methods
	switch {
	case r.Prefix != "" && r.Path != "":
		return c, "path", invalid("there is a prefix too: only one of them can be")
	case r.Prefix != "":
		if c.path, err = parsePrefix(r.Prefix); err != nil {
			return c, "prefix", err
		}
	case r.Path != "":
		if c.path, err = ParsePattern(r.Path); err != nil {
			return c, "path", err
		}
	}
	return c, "", nil
}

// parseHost takes a name of letters, digits, hyphens, underscores and dots, or an
// IPv6 address in brackets.
func parseHost(s string) (host, error) {
	name := strings.ToLower(s)
	h := host{name: name}
	if rest, ok := strings.CutPrefix(name, "*"); ok {
		h = host{rest, true}
		name = strings.TrimPrefix(rest, ".")
		if name == rest {
			return h, invalid("%q is not a host such as shop.example or *.example", s)
		}
	}
	if strings.HasPrefix(name, "[") && strings.HasSuffix(name, "]") && !h.suffix {
		name = strings.Map(func(r rune) rune {
			if r == ':' {
				return '0'
			}
			return r
		}, name[1:len(name)-1])
	}
	for _, label := range strings.Split(name, ".") {
		if label == "" || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return h, invalid("%q is not a host such as shop.example or *.example", s)
		}
	}
	return h, nil
}

// token reports whether s is a token (RFC 9110, section 5.6.2).
func token(s string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z'
		if !alnum && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// None is what [Table.Find] returns where no rule fits.
const None = -1

// Find returns the index of the first rule that a request fits, or [None]. host
// is an authority as it was received, path an escaped path without a query. A
// path that is not safe to decide on is an error, which says why in words.
func (t *Table) Find(method, authority, path string) (int, error) {
	kinds, err := look(path)
	if err != nil {
		return None, err
	}
	name := hostName(authority)
	found := t.find(method, name, path, 0)
	if kinds == 0 {
		return found, nil
	}
	for r := kinds; r != 0; r = (r - 1) & kinds { // every subset
		if t.find(method, name, path, r) != found {
			return None, errAmbiguous
		}
	}
	return found, nil
}

func (t *Table) find(method, name, path string, as reading) int {
	for i := range t.rules {
		if t.rules[i].fits(method, name, path, as) {
			return i
		}
	}
	return None
}

func (r *rule) fits(method, name, path string, as reading) bool {
	return r.takesMethod(method) && r.takesHost(name) && (r.path == nil || r.path.match(path, as))
}

func (r *rule) takesMethod(method string) bool {
	for _, m := range r.methods {
		if m == method {
			return true
		}
	}
	return len(r.methods) == 0
}

func (r *rule) takesHost(name string) bool {
	for i := range r.hosts {
		if r.hosts[i].takes(name) {
			return true
		}
	}
	return len(r.hosts) == 0
}

func (h *host) takes(name string) bool {
	if h.suffix {
		if len(name) <= len(h.name) {
			return false
		}
		name = name[len(name)-len(h.name):]
	}
	return sameFold(name, h.name)
}

// sameFold compares a name with one in lower case. Only ASCII has two cases here.
func sameFold(name, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// hostName cuts the port and one trailing dot from an authority.
func hostName(authority string) string {
	if i := strings.LastIndexByte(authority, ':'); i >= 0 && strings.IndexByte(authority[i:], ']') < 0 {
		authority = authority[:i]
	}
	return strings.TrimSuffix(authority, ".")
}

// covers reports whether a takes every request that b would take.
func (a *rule) covers(b *rule) bool {
	if len(a.methods) > 0 {
		if len(b.methods) == 0 {
			return false
		}
		for _, m := range b.methods {
			if !a.takesMethod(m) {
				return false
			}
		}
	}
	if len(a.hosts) > 0 {
		if len(b.hosts) == 0 {
			return false
		}
		for i := range b.hosts {
			if !a.coversHost(&b.hosts[i]) {
				return false
			}
		}
	}
	return a.path == nil || a.path.covers(b.path)
}

func (a *rule) coversHost(b *host) bool {
	for i := range a.hosts {
		h := &a.hosts[i]
		switch {
		case !b.suffix && h.takes(b.name):
			return true
		case b.suffix && h.suffix && strings.HasSuffix(b.name, h.name):
			return true
		}
	}
	return false
}

package route

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

func table(t testing.TB, rules ...Rule) *Table {
	t.Helper()
	tb, err := NewTable(rules)
	if err != nil {
		t.Fatal(err)
	}
	return tb
}

func TestFind(t *testing.T) {
	tb := table(t,
		Rule{Hosts: []string{"shop.example", "*.Shop.example"}, Prefix: "/api/", Methods: []string{"GET", "POST"}}, // 0
		Rule{Hosts: []string{"shop.example"}, Path: "/users/{id}/orders"},                                          // 1
		Rule{Path: "/files/{rest...}"},                   // 2
		Rule{Prefix: "/health"},                          // 3
		Rule{Hosts: []string{"[::1]"}, Path: "/"},        // 4
		Rule{Path: "/caf%C3%A9/%41"},                     // 5
		Rule{Hosts: []string{"all.example"}},             // 6
		Rule{Methods: []string{"PURGE"}, Prefix: "/a/b"}, // 7
	)
	for _, c := range []struct {
		method, host, path string
		want               int
	}{
		{"GET", "shop.example", "/api/x", 0},
		{"GET", "SHOP.example.:8080", "/api/", 0},
		{"POST", "eu.west.shop.example", "/api/x/y", 0},
		{"HEAD", "shop.example", "/api/x", None},
		{"GET", "notshop.example", "/api/x", None},
		{"GET", ".shop.example", "/api/x", None},
		{"GET", "shop.example.evil", "/api/x", None},
		{"GET", "shop.example", "/api", None},
		{"GET", "shop.example", "/API/x", None},
		{"GET", "shop.example", "/%61pi/x", 0}, // the upstream decodes that too
		{"GET", "shop.example", "/users/7/orders", 1},
		{"GET", "shop.example", "/users/7%20x/orders", 1},
		{"GET", "shop.example", "/users/7/orders/", None},
		{"GET", "shop.example", "/users/7/orders/1", None},
		{"GET", "", "/files/", 2},
		{"GET", "x", "/files/a/b/", 2},
		{"GET", "x", "/files", None},
		{"GET", "x", "/health", 3},
		{"GET", "x", "/health/", 3},
		{"GET", "x", "/health/live", 3},
		{"GET", "x", "/healthy", None},
		{"GET", "[::1]:80", "/", 4},
		{"GET", "[::1]", "/", 4},
		{"GET", "x", "/caf%c3%a9/A", 5},
		{"GET", "x", "/café/%41", 5},
		{"GET", "all.example", "/whatever", 6},
		{"PURGE", "x", "/a/b/c", 7},
		{"GET", "x", "/a/b/c", None},
	} {
		got, err := tb.Find(c.method, c.host, c.path)
		if err != nil || got != c.want {
			t.Errorf("%s %s %s takes %d, %v, want %d", c.method, c.host, c.path, got, err, c.want)
		}
	}
}

// TestStrict proves that nobody gets around a rule by a spelling that the
// upstream reads in another way than the rule does.
func TestStrict(t *testing.T) {
	tb := table(t,
		Rule{Prefix: "/admin"},                               // 0
		Rule{Path: "/groups/{id}", Methods: []string{"PUT"}}, // 1
		Rule{}, // 2: everything else
	)
	for _, c := range []struct {
		path string
		want error
	}{
		{"/x/../admin", errDots},
		{"/..", errDots},
		{"/x/./admin", errDots},
		{"/x/%2e%2E/admin", errDots},
		{"/x/.%2e", errDots},
		{"/x/..%2fadmin", errDots},
		{"/x/..%5Cadmin", errDots},
		{"/x/..;/admin", errDots},
		{"/x/..;a=b/admin", errDots},
		{"/x/.;/admin", errDots},
		{`/x/..\admin`, errDots},
		{"/x/%2f..%2fadmin", errDots},
		{"//admin", errAmbiguous},
		{"/%2fadmin", errAmbiguous},
		{"/%5cadmin", errAmbiguous},
		{`/\admin`, errAmbiguous},
		{"/admin%2fusers", errAmbiguous},
		{"/admin;x/users", errAmbiguous},
		{"/admin;x", errAmbiguous},
		{"/;x/admin", errAmbiguous},
		{"/;x%2fadmin", errAmbiguous},
		{"/;x%2f;y/admin", errAmbiguous},
		{"/admin;%2fx", errAmbiguous},
		{"/x%00", errZero},
		{"/x#/../admin", errFragment},
		{"/%zz", errEscape},
		{"/%2", errEscape},
		{"admin", errRelative},
		{"", errRelative},
	} {
		if i, err := tb.Find("GET", "h", c.path); !errors.Is(err, c.want) {
			t.Errorf("%q takes %d, %v, want %v", c.path, i, err, c.want)
		}
	}
	// What every reading leads to passes.
	for path, want := range map[string]int{
		"/x%2Fy": 2, "//x": 2, "/x;y=1/z": 2, "/...": 2, "/.well-known/x": 2, "/a..b": 2, "/x/%2e%2e%2e": 2, "/%252e%252e/admin": 2, "/a.;b": 2,
		"/admin/x%2Fy": 0, "/admin/x;y": 0, "/admin//x": 0, "/x//admin": 2,
	} {
		if i, err := tb.Find("GET", "h", path); err != nil || i != want {
			t.Errorf("%q takes %d, %v, want %d", path, i, err, want)
		}
	}
	if _, err := tb.Find("PUT", "h", "/groups/a%2Fb"); !errors.Is(err, errAmbiguous) {
		t.Errorf("a pattern took an encoded slash: %v", err)
	}
}

func TestTableErrors(t *testing.T) {
	ok := Rule{Prefix: "/api/"}
	for _, c := range []struct {
		rule      Rule
		key, want string
	}{
		{Rule{Prefix: "/api/", Methods: []string{"GET"}}, "", "route 1 takes all of them"},
		{Rule{Path: "/api/{id}"}, "", "route 1 takes all"},
		{Rule{Path: "/api/{rest...}"}, "", "route 1 takes all"},
		{Rule{Path: "/api/"}, "", "route 1 takes all"},
		{Rule{Prefix: "/api/v1", Hosts: []string{"a.example"}}, "", "route 1 takes all"},
		{Rule{Prefix: "x"}, "prefix", "does not start with a slash"},
		{Rule{Path: "x"}, "path", "does not start with a slash"},
		{Rule{Prefix: "/a", Path: "/b"}, "path", "only one"},
		{Rule{Prefix: "/a//b"}, "prefix", "two slashes"},
		{Rule{Prefix: "/a/../b"}, "prefix", "dot segments"},
		{Rule{Path: "/%2e%2e"}, "path", "dot segments"},
		{Rule{Path: "/a%2Fb"}, "path", "cannot stand"},
		{Rule{Path: "/a;b"}, "path", "cannot stand"},
		{Rule{Path: "/a?b"}, "path", "cannot stand"},
		{Rule{Path: "/a*"}, "path", "cannot stand"},
		{Rule{Path: "/a b"}, "path", "cannot stand"},
		{Rule{Prefix: "/{a}"}, "prefix", "cannot stand"},
		{Rule{Path: "/a%"}, "path", "not escaped"},
		{Rule{Path: "/{a"}, "path", "not a segment"},
		{Rule{Path: "/{}"}, "path", "not a segment"},
		{Rule{Path: "/{a}x"}, "path", "not a segment"},
		{Rule{Path: "/x{a}"}, "path", "cannot stand"},
		{Rule{Path: "/{1a}"}, "path", "not a segment"},
		{Rule{Path: "/{a...}/b"}, "path", "only stand at the end"},
		{Rule{Path: "/{a}/{a}"}, "path", "twice"},
		{Rule{Hosts: []string{""}}, "host", "not a host"},
		{Rule{Hosts: []string{"a:80"}}, "host", "not a host"},
		{Rule{Hosts: []string{"*"}}, "host", "not a host"},
		{Rule{Hosts: []string{"*a.example"}}, "host", "not a host"},
		{Rule{Hosts: []string{"a.*.example"}}, "host", "not a host"},
		{Rule{Hosts: []string{"http://a"}}, "host", "not a host"},
		{Rule{Methods: []string{"get"}}, "methods", "not a method"},
		{Rule{Methods: []string{"GET POST"}}, "methods", "not a method"},
	} {
		_, err := NewTable([]Rule{ok, c.rule})
		var e *RuleError
		if !errors.As(err, &e) || !errors.Is(err, ErrInvalid) || e.Index != 1 || e.Key != c.key || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want key %q and %q", c.rule, err, c.key, c.want)
		}
	}
}

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		a, b Rule
		want bool
	}{
		{Rule{}, Rule{Path: "/x"}, true},
		{Rule{Prefix: "/"}, Rule{}, true},
		{Rule{Prefix: "/a"}, Rule{}, false},
		{Rule{Path: "/{rest...}"}, Rule{Prefix: "/a"}, true},
		{Rule{Path: "/{x}"}, Rule{Path: "/"}, false},
		{Rule{Path: "/{x}"}, Rule{Path: "/a"}, true},
		{Rule{Path: "/a"}, Rule{Path: "/{x}"}, false},
		{Rule{Path: "/a"}, Rule{Prefix: "/a"}, false},
		{Rule{Prefix: "/a"}, Rule{Path: "/a"}, true},
		{Rule{Prefix: "/a"}, Rule{Prefix: "/a/"}, true},
		{Rule{Prefix: "/a/"}, Rule{Prefix: "/a"}, false},
		{Rule{Prefix: "/a/b"}, Rule{Prefix: "/a/"}, false},
		{Rule{Path: "/{x}/{rest...}"}, Rule{Prefix: "/a/"}, true},
		{Rule{Path: "/{x}/{rest...}"}, Rule{Prefix: "/a"}, false},
		{Rule{Methods: []string{"GET"}}, Rule{}, false},
		{Rule{Methods: []string{"GET", "PUT"}}, Rule{Methods: []string{"PUT"}}, true},
		{Rule{Hosts: []string{"*.example"}}, Rule{Hosts: []string{"a.b.example"}}, true},
		{Rule{Hosts: []string{"*.example"}}, Rule{Hosts: []string{"*.b.example"}}, true},
		{Rule{Hosts: []string{"*.example"}}, Rule{Hosts: []string{"example"}}, false},
		{Rule{Hosts: []string{"*.b.example"}}, Rule{Hosts: []string{"*.example"}}, false},
		{Rule{Hosts: []string{"a"}}, Rule{Hosts: []string{"a", "b"}}, false},
		{Rule{Hosts: []string{"a"}}, Rule{}, false},
	} {
		_, err := NewTable([]Rule{c.a, c.b})
		if (err != nil) != c.want {
			t.Errorf("%+v before %+v: %v", c.a, c.b, err)
		}
	}
}

func TestStrip(t *testing.T) {
	for _, c := range []struct {
		path string
		n    int
		want string
	}{
		{"/api/x", 1, "/x"}, {"/api", 1, "/"}, {"/api/", 1, "/"}, {"/a%70i/x%2Fy/", 1, "/x%2Fy/"}, {"/a/b/c", 2, "/c"}, {"/api//x", 1, "//x"},
	} {
		if got := Strip(c.path, c.n); got != c.want {
			t.Errorf("Strip(%q, %d) = %q, want %q", c.path, c.n, got, c.want)
		}
	}
}

func TestFindAllocates(t *testing.T) {
	tb := table(t, Rule{Hosts: []string{"a.example"}, Prefix: "/api/"}, Rule{Hosts: []string{"*.example"}, Path: "/users/{id}/orders/{order}"})
	n := testing.AllocsPerRun(100, func() {
		if i, err := tb.Find("GET", "Shop.Example.:443", "/users/1.5/orders/%41"); i != 1 || err != nil {
			t.Fatal(i, err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// naiveMatch does what Match does by splitting strings.
func naiveMatch(pattern, path string) bool {
	have, want := strings.Split(path, "/")[1:], strings.Split(pattern, "/")[1:]
	for i, w := range want {
		if strings.HasSuffix(w, "...}") {
			return len(have) > i
		}
		if i >= len(have) {
			return false
		}
		h, err := url.PathUnescape(have[i])
		if err != nil {
			return false
		}
		if strings.HasPrefix(w, "{") {
			if have[i] == "" {
				return false
			}
		} else if l, _ := url.PathUnescape(w); l != h {
			return false
		}
	}
	return len(have) == len(want)
}

// naiveReadings are the plain paths that an upstream may take a path for.
func naiveReadings(path string) (list [][]string) {
	cut := func(s, stop string) string {
		for {
			i := strings.IndexByte(s, ';')
			if i < 0 {
				return s
			}
			j := strings.IndexAny(s[i:], stop)
			if j < 0 {
				return s[:i]
			}
			s = s[:i] + s[i+j:]
		}
	}
	slashes := strings.NewReplacer("%2f", "\x01", "%2F", "\x01", "%5c", "\x01", "%5C", "\x01", `\`, "\x01")
	for kind := range 12 {
		p := slashes.Replace(path)
		switch kind % 3 {
		case 1:
			p = cut(p, "/")
		case 2:
			p = cut(p, "/\x01")
		}
		if kind/3%2 == 1 {
			p = strings.ReplaceAll(p, "\x01", "/")
		}
		if kind >= 6 {
			for strings.Contains(p, "//") {
				p = strings.ReplaceAll(p, "//", "/")
			}
		}
		segs := strings.Split(p, "/")[1:]
		for i := range segs {
			segs[i] = strings.ReplaceAll(segs[i], "\x01", "%2F")
			if s, err := url.PathUnescape(segs[i]); err == nil {
				segs[i] = s
			}
		}
		list = append(list, segs)
	}
	return list
}

func FuzzFind(f *testing.F) {
	for _, s := range []string{"/admin/x", "/x/../admin", "/a;b/%2Fadmin", "//admin", "/users/7", "/..;/", `/\admin;%2f/..`, "/%61dmin"} {
		f.Add(s)
	}
	tb := table(f, Rule{Prefix: "/admin"}, Rule{})
	p, err := ParsePattern("/users/{id}/{rest...}")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if strings.Contains(path, "\x01") {
			return
		}
		got, err := tb.Find("GET", "h", path)
		if err != nil {
			return
		}
		if _, err := url.PathUnescape(path); err != nil {
			t.Fatalf("%q passes: %v", path, err)
		}
		if p.Match(path) != naiveMatch("/users/{id}/{rest...}", path) {
			t.Errorf("%q: the pattern says %v", path, p.Match(path))
		}
		for _, segs := range naiveReadings(path) {
			for _, s := range segs {
				if s == "." || s == ".." {
					t.Errorf("%q passes, and can be read as %q", path, segs)
				}
			}
			if admin := len(segs) > 0 && segs[0] == "admin"; admin != (got == 0) {
				t.Errorf("%q takes route %d, and can be read as %q", path, got, segs)
			}
		}
	})
}

func FuzzPattern(f *testing.F) {
	f.Add("/users/{id}", "/users/7")
	f.Add("/a/{b...}", "/a/")
	f.Fuzz(func(t *testing.T, pattern, path string) {
		p, err := ParsePattern(pattern)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if _, err := look(path); err != nil {
			return
		}
		if got := p.Match(path); got != naiveMatch(pattern, path) {
			t.Errorf("%q fits %q: %v", pattern, path, got)
		}
	})
}

func ExampleTable_Find() {
	t, _ := NewTable([]Rule{{Hosts: []string{"*.example"}, Prefix: "/api/"}, {Path: "/users/{id}"}})
	i, err := t.Find("GET", "shop.example:443", "/api/orders")
	fmt.Println(i, err)
	i, err = t.Find("GET", "shop.example", "/api/../users/7")
	fmt.Println(i, err)
	// Output:
	// 0 <nil>
	// -1 the path has dot segments
}

package hosts

import (
	"errors"
	"net/netip"
	"testing"
)

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		in, name string
		port     uint16
	}{
		{"a.example:443", "a.example", 443},
		{"A.Example.", "a.example", 80},
		{"10.0.0.1:1", "10.0.0.1", 1},
		{"[::1]:8", "::1", 8},
		{"[::1]", "::1", 80},
		{"[::ffff:10.0.0.1]:8", "10.0.0.1", 8},
		{"_x.a-b.example:65535", "_x.a-b.example", 65535},
	} {
		h, port, err := Split(c.in, 80)
		if err != nil || h.Name != c.name || port != c.port {
			t.Errorf("%q: %q %d %v", c.in, h.Name, port, err)
		}
	}
	for _, in := range []string{
		"", ":80", "10.0.0.1.:1", "a:", "a:0", "a:65536", "a:+1", "a:x", "0x7f.1", "2130706433:80", "127.1", "0177.0.0.1", "0x7f000001", "a.0x", "1.2.3.4.5", "a.example..",
		"..", ".a", "a b", "a/b", "ä.example", "[::1%25lo]:80", "[fe80::1%lo]:80", "fe80::1%lo", "[1.2.3.4]:80", "[::1", "::1]:80", "a%2e:80", "user@a:80", "a\x00:1",
	} {
		if h, port, err := Split(in, 80); !errors.Is(err, ErrHost) {
			t.Errorf("%q: %+v %d %v", in, h, port, err)
		}
	}
}

func TestSet(t *testing.T) {
	s, err := Parse([]string{"*.internal.example", "API.example", "10.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"a.internal.example": true, "a.b.internal.example": true, "internal.example": false, "xinternal.example": false, "api.example": true,
		"x.api.example": false, "10.0.0.1": true, "10.0.0.2": false,
	} {
		h, err := New(name)
		if err != nil || s.Match(h) != want {
			t.Errorf("%q: %v, want %t", name, err, want)
		}
	}
	for _, p := range []string{"", "*.", "a.*.b", "*x", "*.10.0.0.1", "127.1"} {
		if _, err := Parse([]string{p}); !errors.Is(err, ErrHost) {
			t.Errorf("%q: %v", p, err)
		}
	}
	all, _ := Parse([]string{"*"})
	if !all.Match(Host{Name: "10.0.0.9", Addr: netip.MustParseAddr("10.0.0.9")}) || all.Match(Host{}) || all.Empty() || !(Set{}).Empty() {
		t.Error("* does not match what it should")
	}
}

func TestPorts(t *testing.T) {
	if p, err := ParsePorts("1024-65535"); err != nil || !p.Contains(1024) || !p.Contains(65535) || p.Contains(1023) {
		t.Error(p, err)
	}
	for _, text := range []string{"", "0", "a", "2-1", "-1", "1-", "65536", "1-2-3"} {
		if p, err := ParsePorts(text); err == nil {
			t.Errorf("%q: %v", text, p)
		}
	}
}

// FuzzSplit: whatever is taken has one form, which reads as itself.
func FuzzSplit(f *testing.F) {
	f.Add("A.example.:443")
	f.Add("[::1]:1")
	f.Add("2130706433")
	f.Fuzz(func(t *testing.T, s string) {
		h, port, err := Split(s, 443)
		if err != nil {
			return
		}
		again, p2, err := Split(h.Join(port), 1)
		if err != nil || again != h || p2 != port {
			t.Errorf("%q: %+v %d, again %+v %d %v", s, h, port, again, p2, err)
		}
	})
}

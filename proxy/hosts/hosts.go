// Package hosts reads the hosts that clients of a forward proxy name, and the
// patterns that rules have for them.
//
// A host that can be read in two ways is none: resolvers take "0x7f.1" and
// "2130706433" for addresses (inet_aton), where a rule sees a name.
//
// Start with [Split], and [Parse] for patterns.
package hosts

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// ErrHost is wrapped by errors about hosts and patterns.
var ErrHost = errors.New("not a host")

// ErrPort is wrapped, beside [ErrHost], where what is wrong is the port.
var ErrPort = errors.New("not a port")

// maxName is the longest name (RFC 1035, section 2.3.4).
const maxName = 253

// Host is a name or an address in its one form: lower case, without a trailing
// dot, addresses as net/netip writes them.
type Host struct {
	Name string
	Addr netip.Addr // of an address; not valid of a name
}

// String returns the host without brackets.
func (h Host) String() string { return h.Name }

// Split reads the authority of a target: a host with a port, which is
// defaultPort where it is absent.
func Split(authority string, defaultPort uint16) (Host, uint16, error) {
	host, portText := authority, ""
	if i := strings.LastIndexByte(authority, ':'); i >= 0 && (!strings.Contains(authority[:i], ":") || authority[0] == '[') && i > strings.LastIndexByte(authority, ']') {
		host, portText = authority[:i], authority[i+1:]
		if portText == "" {
			return Host{}, 0, fmt.Errorf("%w: it is empty (%w)", ErrPort, ErrHost)
		}
	}
	port := defaultPort
	if portText != "" {
		n, err := strconv.ParseUint(portText, 10, 16)
		if err != nil || n == 0 || portText[0] == '+' {
			return Host{}, 0, fmt.Errorf("%w: ports go from 1 to 65535 (%w)", ErrPort, ErrHost)
		}
		port = uint16(n)
	}
	if strings.HasPrefix(host, "[") {
		inner, ok := strings.CutSuffix(host[1:], "]")
		a, err := netip.ParseAddr(inner)
		switch {
		case !ok || err != nil || a.Is4():
			return Host{}, 0, fmt.Errorf("%w: what stands in brackets is not an IPv6 address", ErrHost)
		case a.Zone() != "":
			return Host{}, 0, fmt.Errorf("%w: an address with a zone leads nowhere but on this machine", ErrHost)
		}
		return ofAddr(a), port, nil
	}
	h, err := New(host)
	return h, port, err
}

// New reads a host that stands on its own: a name or an address without brackets.
func New(text string) (Host, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		if a.Zone() != "" {
			return Host{}, fmt.Errorf("%w: an address with a zone leads nowhere but on this machine", ErrHost)
		}
		return ofAddr(a), nil
	}
	name := strings.ToLower(strings.TrimSuffix(text, "."))
	if name == "" || len(name) > maxName {
		return Host{}, fmt.Errorf("%w: a name has 1 to %d characters", ErrHost, maxName)
	}
	labels := strings.Split(name, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 {
			return Host{}, fmt.Errorf("%w: a part of the name is empty or too long", ErrHost)
		}
		for i := range len(l) {
			if c := l[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return Host{}, fmt.Errorf("%w: a name has letters, digits, hyphens and dots (others in their xn-- form)", ErrHost)
			}
		}
	}
	// As the URL standard has it ("ends in a number"): such a name may be read as
	// an IPv4 address.
	if last := labels[len(labels)-1]; numeric(last) {
		return Host{}, fmt.Errorf("%w: it ends in a number, and is not an IPv4 address in its usual form", ErrHost)
	}
	return Host{Name: name}, nil
}

func ofAddr(a netip.Addr) Host {
	a = a.Unmap()
	return Host{Name: a.String(), Addr: a}
}

func numeric(label string) bool {
	digits := "0123456789"
	if rest, ok := strings.CutPrefix(label, "0x"); ok {
		label, digits = rest, "0123456789abcdef"
	}
	return strings.Trim(label, digits) == ""
}

// Join writes a host with a port, as an authority.
func (h Host) Join(port uint16) string { return net.JoinHostPort(h.Name, strconv.Itoa(int(port))) }

// Set is a list of patterns: "*" for everything, "*.example.com" for every name
// below example.com, or a host.
type Set struct {
	all      bool
	exact    []string
	suffixes []string // with their dot
}

// Parse reads patterns.
func Parse(patterns []string) (Set, error) {
	var s Set
	for _, p := range patterns {
		if p == "*" {
			s.all = true
			continue
		}
		rest, below := strings.CutPrefix(p, "*.")
		h, err := New(rest)
		if err != nil || below && h.Addr.IsValid() {
			return Set{}, fmt.Errorf("%w: %q: a pattern reads *, *.example.com or api.example.com", ErrHost, p)
		}
		if below {
			s.suffixes = append(s.suffixes, "."+h.Name)
		} else {
			s.exact = append(s.exact, h.Name)
		}
	}
	return s, nil
}

// Empty reports whether there are no patterns.
func (s Set) Empty() bool { return !s.all && s.exact == nil && s.suffixes == nil }

// Match reports whether a pattern fits a host.
func (s Set) Match(h Host) bool {
	if h.Name == "" {
		return false
	}
	if s.all || slices.Contains(s.exact, h.Name) {
		return true
	}
	return !h.Addr.IsValid() && slices.ContainsFunc(s.suffixes, func(x string) bool { return strings.HasSuffix(h.Name, x) && len(h.Name) > len(x) })
}

// Ports is a range of ports, both ends included.
type Ports struct{ From, To uint16 }

// ParsePorts reads "443" or "1024-65535".
func ParsePorts(text string) (Ports, error) {
	from, to, ranged := strings.Cut(text, "-")
	if !ranged {
		to = from
	}
	a, err := strconv.ParseUint(from, 10, 16)
	b, bad := strconv.ParseUint(to, 10, 16)
	if err != nil || bad != nil || a == 0 || a > b {
		return Ports{}, fmt.Errorf("%q is not a port such as 443, nor a range such as 1024-65535", text)
	}
	return Ports{uint16(a), uint16(b)}, nil
}

// Contains reports whether the range has a port.
func (p Ports) Contains(port uint16) bool { return p.From <= port && port <= p.To }

package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	h1 "github.com/sealtap/sealtap/proxy/upstream"
)

// targets lead a forward proxy to where clients may go. Clients on this machine
// have connections of their own, since theirs may lead to loopback.
type targets struct{ near, far target }

type target struct {
	dialer    *net.Dialer
	transport *h1.Transport
}

func (p *Proxy) newTargets() targets {
	make := func(local bool) target {
		// What is checked is the address that is dialled, so it does not matter
		// what a name resolved to before.
		control := func(_, address string, _ syscall.RawConn) error {
			addr, err := netip.ParseAddrPort(address)
			if err != nil {
				return deniedError{address, "not an address"}
			}
			return p.checkTarget(addr, local)
		}
		dialer := &net.Dialer{Timeout: p.cfg.Timeouts.Dial, Control: control}
		return target{dialer, p.newTransport(h1.Config{Dial: dialer.DialContext})}
	}
	return targets{near: make(true), far: make(false)}
}

// deniedError says that a target must not be reached.
type deniedError struct{ address, why string }

func (e deniedError) Error() string {
	return fmt.Sprintf("the target %s is denied: %s", e.address, e.why)
}

// metadataAddrs serve credentials to whoever asks from within a cloud, and are
// not link-local.
func metadataAddrs() []netip.Addr {
	return []netip.Addr{
		netip.MustParseAddr("100.100.100.200"), // Alibaba Cloud
		netip.MustParseAddr("168.63.129.16"),   // Azure
		netip.MustParseAddr("192.0.0.192"),     // Oracle Cloud
		netip.MustParseAddr("fd00:ec2::254"),   // AWS
		netip.MustParseAddr("fd20:ce::254"),    // Google Cloud
	}
}

// localTranslation are the addresses that translators of a network take for IPv4
// ones in a way that only they know (RFC 8215).
func localTranslation() netip.Prefix { return netip.MustParsePrefix("64:ff9b:1::/48") }

// checkTarget returns a deniedError if an address must not be dialled for a
// client that is, or is not, on this machine.
func (p *Proxy) checkTarget(ap netip.AddrPort, local bool) error {
	plain := ap.Addr().Unmap().WithZone("")
	a := embedded(plain)
	deny := func(why string) error { return deniedError{ap.String(), why} }
	if p.own(a, ap.Port()) {
		return deny("it is this proxy")
	}
	f := &p.cfg.Forward
	// An address is denied by what it is as well as by what it stands for.
	if slices.ContainsFunc(f.DenyCIDRs, func(c netip.Prefix) bool { return c.Contains(a) || c.Contains(plain) }) {
		return deny("by rule")
	}
	if slices.ContainsFunc(f.AllowCIDRs, func(c netip.Prefix) bool { return c.Contains(a) }) {
		return nil
	}
	switch {
	case a.IsUnspecified() || a.Is4() && a.As4()[0] == 0:
		return deny("the address is unspecified")
	case a.IsLinkLocalUnicast():
		return deny("the address is link-local")
	case a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return deny("the address is multicast")
	case slices.Contains(metadataAddrs(), a):
		return deny("the address serves cloud metadata")
	case localTranslation().Contains(a):
		return deny("the address is one that a translator of the network takes for IPv4")
	case a.IsLoopback() && !local:
		return deny("the address is loopback, and the client is elsewhere")
	}
	return nil
}

// embedded returns the IPv4 address that translators take from an IPv6 one:
// NAT64 (RFC 6052, section 2.1), 6to4 (RFC 3056), the stateless form of RFC 2765,
// and the obsolete IPv4-compatible form. Any other address it returns as it is.
func embedded(a netip.Addr) netip.Addr {
	if !a.Is6() {
		return a
	}
	b := a.As16()
	switch {
	case [12]byte(b[:12]) == [12]byte{0x00, 0x64, 0xff, 0x9b}:
		return netip.AddrFrom4([4]byte(b[12:]))
	case [12]byte(b[:12]) == [12]byte{8: 0xff, 9: 0xff}:
		return netip.AddrFrom4([4]byte(b[12:]))
	case b[0] == 0x20 && b[1] == 0x02:
		return netip.AddrFrom4([4]byte(b[2:6]))
	case [12]byte(b[:12]) == [12]byte{} && !a.IsLoopback() && !a.IsUnspecified():
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return a
}

// own reports whether an address is one that this process itself listens on.
func (p *Proxy) own(a netip.Addr, port uint16) bool {
	for _, l := range *p.listeners.list.Load() {
		if l.Port() != port {
			continue
		}
		if l.Addr() == a {
			return true
		}
		if l.Addr().IsUnspecified() && (a.IsLoopback() || a.IsUnspecified() || isLocal(a)) {
			return true
		}
		// An unspecified target is this machine.
		if a.IsUnspecified() {
			return true
		}
	}
	return false
}

// isLocal reports whether an address belongs to this machine. It is asked only
// about ports that the proxy listens on.
func isLocal(a netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true // when in doubt it is
	}
	for _, n := range addrs {
		if prefix, err := netip.ParsePrefix(n.String()); err == nil && prefix.Addr().Unmap() == a {
			return true
		}
	}
	return false
}

package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The PROXY protocol (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt)
// in the parts of it that a server of streams needs, and strictly: a header that
// can be read in two ways is none.

const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	longestV1      = 107     // section 2.1
	longestV2      = 4 << 10 // addresses and TLVs, without the first 16 bytes
	mostGreeting   = 1024    // connections whose header is on its way
	tlvChecksum    = 0x03    // PP2_TYPE_CRC32C
)

var errProxyHeader = errors.New("it does not begin with a header of the PROXY protocol")

// givenAddr is the address of a client as a trusted peer says it; empty if the
// peer speaks for itself.
type givenAddr string

func (givenAddr) Network() string  { return "proxy" }
func (a givenAddr) String() string { return string(a) }

// readProxyHeader reads a header and not a byte more.
func readProxyHeader(r io.Reader) (givenAddr, error) {
	var head [16]byte
	first := head[:len(proxySignature)]
	if _, err := io.ReadFull(r, first); err != nil {
		return "", fmt.Errorf("reading the PROXY header: %w", err)
	}
	switch {
	case string(first) == proxySignature:
		if _, err := io.ReadFull(r, head[12:]); err != nil {
			return "", fmt.Errorf("reading the PROXY header: %w", err)
		}
		return readProxyV2(r, head)
	case strings.HasPrefix(string(first), "PROXY "):
		return readProxyV1(r, first)
	}
	return "", errProxyHeader
}

func readProxyV1(r io.Reader, first []byte) (givenAddr, error) {
	line := append(make([]byte, 0, longestV1), first...)
	for !strings.HasSuffix(string(line), "\n") {
		if len(line) == longestV1 {
			return "", fmt.Errorf("%w: its first line is too long", errProxyHeader)
		}
		line = line[:len(line)+1]
		if _, err := io.ReadFull(r, line[len(line)-1:]); err != nil {
			return "", fmt.Errorf("reading the PROXY header: %w", err)
		}
	}
	text, ok := strings.CutSuffix(string(line), "\r\n")
	if !ok {
		return "", fmt.Errorf("%w: its first line ends without CR", errProxyHeader)
	}
	if text == "PROXY UNKNOWN" || strings.HasPrefix(text, "PROXY UNKNOWN ") {
		return "", nil // what follows is to be ignored
	}
	parts := strings.Split(text, " ")
	if len(parts) != 6 || parts[1] != "TCP4" && parts[1] != "TCP6" {
		return "", errProxyHeader
	}
	var client netip.AddrPort
	for i := range 2 {
		a, err := netip.ParseAddr(parts[2+i])
		port, bad := strconv.ParseUint(parts[4+i], 10, 16)
		if err != nil || bad != nil || strconv.FormatUint(port, 10) != parts[4+i] || a.Is4() != (parts[1] == "TCP4") || a.Zone() != "" {
			return "", fmt.Errorf("%w: an address in it is none", errProxyHeader)
		}
		if i == 0 {
			client = netip.AddrPortFrom(a.Unmap(), uint16(port))
		}
	}
	return givenAddr(client.String()), nil
}

func readProxyV2(r io.Reader, head [16]byte) (givenAddr, error) {
	size := int(binary.BigEndian.Uint16(head[14:]))
	if size > longestV2 {
		return "", fmt.Errorf("%w: %d bytes are too many", errProxyHeader, size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return "", fmt.Errorf("reading the PROXY header: %w", err)
	}
	command := head[12]
	if command != 0x20 && command != 0x21 {
		return "", fmt.Errorf("%w: version and command are 0x%02x", errProxyHeader, command)
	}
	var addresses int
	switch head[13] {
	case 0x00:
	case 0x11:
		addresses = 12
	case 0x21:
		addresses = 36
	case 0x31:
		addresses = 216
	default:
		if command == 0x20 {
			return "", nil // LOCAL: the rest is to be ignored (section 2.2)
		}
		return "", fmt.Errorf("%w: 0x%02x is no protocol of streams", errProxyHeader, head[13])
	}
	if command == 0x20 {
		return "", nil
	}
	if size < addresses {
		return "", fmt.Errorf("%w: it is shorter than its addresses", errProxyHeader)
	}
	// What stands behind addresses that are not known has no form.
	if head[13] != 0 {
		if err := checkTLVs(head, body, addresses); err != nil {
			return "", err
		}
	}
	switch head[13] {
	case 0x11:
		return givenAddr(netip.AddrPortFrom(netip.AddrFrom4([4]byte(body)), binary.BigEndian.Uint16(body[8:])).String()), nil
	case 0x21:
		return givenAddr(netip.AddrPortFrom(netip.AddrFrom16([16]byte(body)).Unmap(), binary.BigEndian.Uint16(body[32:])).String()), nil
	case 0x31:
		path, _, _ := strings.Cut(string(body[:108]), "\x00")
		return givenAddr("unix:" + escapeInvalid(path)), nil
	}
	return "", nil
}

// checkTLVs walks what follows the addresses, and verifies the checksum if there
// is one (section 2.2.4).
func checkTLVs(head [16]byte, body []byte, at int) error {
	table := crc32.MakeTable(crc32.Castagnoli)
	for at < len(body) {
		if len(body)-at < 3 {
			return fmt.Errorf("%w: it ends within a TLV", errProxyHeader)
		}
		n := int(binary.BigEndian.Uint16(body[at+1:]))
		value := at + 3
		if n > len(body)-value {
			return fmt.Errorf("%w: it ends within a TLV", errProxyHeader)
		}
		if body[at] == tlvChecksum {
			if n != 4 {
				return fmt.Errorf("%w: a checksum of %d bytes", errProxyHeader, n)
			}
			sum := crc32.Update(crc32.Checksum(head[:], table), table, body[:value])
			sum = crc32.Update(sum, table, make([]byte, 4))
			sum = crc32.Update(sum, table, body[value+4:])
			if sum != binary.BigEndian.Uint32(body[value:]) {
				return fmt.Errorf("%w: its checksum is another", errProxyHeader)
			}
		}
		at = value + n
	}
	return nil
}

// behindProxies returns a listener whose connections from certain peers begin
// with a header of the PROXY protocol and have the address that it gives. From
// all others they are what they are.
func (p *Proxy) behindProxies(l net.Listener) net.Listener {
	if len(p.cfg.ProxyProtocol) == 0 {
		return l
	}
	g := &greeter{Listener: l, p: p, ready: make(chan net.Conn), failed: make(chan error), closed: make(chan struct{}),
		places: make(chan struct{}, mostGreeting), waiting: make(map[net.Conn]struct{})}
	go g.accept()
	return g
}

// greeter reads headers beside each other, so that a slow one holds up nobody.
type greeter struct {
	net.Listener
	p      *Proxy
	ready  chan net.Conn
	failed chan error
	closed chan struct{}
	places chan struct{}

	mu      sync.Mutex // guards what follows
	over    bool
	waiting map[net.Conn]struct{}
}

func (g *greeter) Accept() (net.Conn, error) {
	select {
	case c := <-g.ready:
		return c, nil
	case err := <-g.failed:
		return nil, err
	case <-g.closed:
		return nil, net.ErrClosed
	}
}

// Close closes the connections too that nobody has accepted yet.
func (g *greeter) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return nil
	}
	g.over = true
	close(g.closed)
	for c := range g.waiting {
		_ = c.Close()
	}
	return g.Listener.Close()
}

func (g *greeter) accept() {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			select {
			case g.failed <- err: // whoever serves knows whether to go on
				continue
			case <-g.closed:
				return
			}
		}
		if !g.requires(c) {
			g.deliver(c)
			continue
		}
		select {
		case g.places <- struct{}{}:
		case <-g.closed:
			_ = c.Close()
			return
		}
		go g.greet(c)
	}
}

// requires reports whether a connection must begin with a header.
func (g *greeter) requires(c net.Conn) bool {
	a := parseAddr(c.RemoteAddr().String()).Addr().WithZone("")
	for _, prefix := range g.p.cfg.ProxyProtocol {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}

func (g *greeter) greet(c net.Conn) {
	defer func() { <-g.places }()
	if !g.enter(c) {
		_ = c.Close()
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(g.p.cfg.Timeouts.RequestHeader))
	from, err := readProxyHeader(c)
	g.mu.Lock()
	delete(g.waiting, c)
	g.mu.Unlock()
	if err != nil {
		g.p.log.Warn("refused a connection of a peer that has to speak the PROXY protocol", "peer", c.RemoteAddr().String(), "error", err)
		_ = c.Close()
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	if from == "" {
		g.deliver(c)
		return
	}
	if t, ok := c.(*net.TCPConn); ok {
		g.deliver(&givenTCP{t, from})
		return
	}
	g.deliver(&givenConn{c, from})
}

func (g *greeter) enter(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return false
	}
	g.waiting[c] = struct{}{}
	return true
}

func (g *greeter) deliver(c net.Conn) {
	select {
	case g.ready <- c:
	case <-g.closed:
		_ = c.Close()
	}
}

// givenTCP is a connection with the address that its peer gave. It can be half
// closed and reset like the one that it is.
type givenTCP struct {
	*net.TCPConn
	from givenAddr
}

func (c *givenTCP) RemoteAddr() net.Addr { return c.from }

type givenConn struct {
	net.Conn
	from givenAddr
}

func (c *givenConn) RemoteAddr() net.Addr { return c.from }

package proxy

// helloSniffer reads the server name from a TLS ClientHello (RFC 8446, section
// 4.1.2, and RFC 6066, section 3) as its bytes pass. It never makes them wait.
type helloSniffer struct {
	message []byte // of the handshake, out of its records
	rest    []byte // bytes of a record that is not whole
	done    bool
	name    string

	encrypted bool // part of it is (ECH, RFC 9849); name is then of its outer part
}

// maxHello bounds what is kept of a hello while it is not whole.
const maxHello = 32 << 10

const maxServerName = 255

// feed takes the next bytes that the client sent.
func (s *helloSniffer) feed(p []byte) {
	if s.done {
		return
	}
	s.rest = append(s.rest, p[:min(len(p), maxHello)]...)
	for !s.done && len(s.rest) > 0 {
		// Record: type, version (2), length (2), fragment.
		if s.rest[0] != 22 || len(s.rest) > 1 && s.rest[1] >= 0x10 {
			s.end("")
			return
		}
		if len(s.rest) < 5 {
			return
		}
		n := int(s.rest[3])<<8 | int(s.rest[4])
		if n == 0 || len(s.message)+n > maxHello {
			s.end("")
			return
		}
		if len(s.rest) < 5+n {
			return
		}
		s.message = append(s.message, s.rest[5:5+n]...)
		s.rest = s.rest[5+n:]
		s.look()
	}
}

func (s *helloSniffer) end(name string) {
	s.done, s.name = true, name
	s.message, s.rest = nil, nil
}

// look parses the hello if it is whole.
func (s *helloSniffer) look() {
	m := reader{b: s.message}
	if len(m.b) < 4 {
		return
	}
	kind, size := m.uint(1), m.uint(3)
	if kind != 1 || size > maxHello {
		s.end("")
		return
	}
	if size > len(m.b) {
		return
	}
	name, ech := serverName(m.b[:size])
	s.end(name)
	s.encrypted = ech
}

// serverName returns the first host name in the body of a ClientHello, or "", and
// reports whether an extension holds another hello, encrypted. Both can be
// anything: they are recorded, not believed.
func serverName(hello []byte) (name string, ech bool) {
	m := reader{b: hello}
	m.take(2 + 32)    // version, random
	m.take(m.uint(1)) // session id
	m.take(m.uint(2)) // cipher suites
	m.take(m.uint(1)) // compression methods
	ext := m.sub(2)   // extensions
	seen := false
	for len(ext.b) > 0 { // each a type and a length
		kind, data := ext.uint(2), ext.sub(2)
		if ext.bad {
			return name, ech
		}
		if kind == 0xfe0d {
			ech = true
		}
		if kind != 0 || seen {
			continue
		}
		seen = true
		list := data.sub(2)
		if kind, first := list.uint(1), list.sub(2); !list.bad && kind == 0 {
			name = string(first.b)
		}
	}
	return name, ech
}

// reader takes apart what has lengths before its parts. After a part that is
// not there it is bad and empty.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.b, r.bad = nil, true
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) uint(size int) (n int) {
	for _, c := range r.take(size) {
		n = n<<8 | int(c)
	}
	return n
}

func (r *reader) sub(size int) reader {
	n := r.uint(size)
	return reader{b: r.take(n), bad: r.bad}
}

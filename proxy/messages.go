package proxy

import (
	"encoding/binary"
	"strings"
)

// messages counts the messages of a protocol as their bytes pass. What does not
// follow the protocol ends the counting, and changes nothing else.
type messages struct {
	kind  framing
	count uint64
	head  [14]byte
	n     int    // bytes in head
	skip  uint64 // of the message's payload
	ends  bool   // the payload is the end of a message
}

type framing uint8

const (
	framingNone framing = iota
	framingGRPC
	framingWebSocket
)

func (m *messages) reset(f framing) { *m = messages{kind: f} }

func (m *messages) feed(p []byte) {
	for len(p) > 0 && m.kind != framingNone {
		if m.skip > 0 {
			n := min(m.skip, uint64(len(p)))
			m.skip -= n
			p = p[n:]
			if m.skip == 0 && m.ends {
				m.count++
			}
			continue
		}
		m.head[m.n] = p[0]
		m.n, p = m.n+1, p[1:]
		if m.kind == framingGRPC {
			m.grpc()
		} else {
			m.webSocket()
		}
	}
}

// begin is called once the head of a message, or of a frame, is whole.
func (m *messages) begin(size uint64, ends bool) {
	m.n, m.skip, m.ends = 0, size, ends
	if size == 0 && ends {
		m.count++
	}
}

// grpc reads the prefix of a message: a byte of flags and the length
// (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
func (m *messages) grpc() {
	const prefix = 5
	if m.n == prefix {
		m.begin(uint64(binary.BigEndian.Uint32(m.head[1:])), true)
	}
}

// webSocket reads the head of a frame (RFC 6455, section 5.2). Control frames are
// no messages.
func (m *messages) webSocket() {
	if m.n < 2 {
		return
	}
	const fin, mask, control = 0x80, 0x80, 0x08
	size, need := uint64(m.head[1]&^mask), 2
	switch size {
	case 126:
		need += 2
	case 127:
		need += 8
	}
	at := need
	if m.head[1]&mask != 0 {
		need += 4
	}
	if m.n < need {
		return
	}
	switch at {
	case 4:
		size = uint64(binary.BigEndian.Uint16(m.head[2:]))
	case 10:
		size = binary.BigEndian.Uint64(m.head[2:])
	}
	opcode := m.head[0] & 0x0f
	if size > 1<<62 || opcode > 2 && opcode < control || opcode > 10 {
		m.kind = framingNone
		return
	}
	m.begin(size, m.head[0]&fin != 0 && opcode < control)
}

// framingOf says which messages a body of the media type consists of.
func framingOf(contentType string) framing {
	if hasFoldPrefix(contentType, "application/grpc") && !strings.HasPrefix(strings.ToLower(contentType[len("application/grpc"):]), "-web-text") {
		return framingGRPC
	}
	return framingNone
}

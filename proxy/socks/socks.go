// Package socks reads and writes the messages of SOCKS version 5 (RFC 1928) with
// its username/password authentication (RFC 1929), on the server's side. It holds
// no connections: it takes apart what a reader gives, and nothing beyond.
//
// Start with [ReadMethods].
package socks

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
)

// ErrMalformed is wrapped where bytes are not the message that has to come. Its
// text quotes nothing of them.
var ErrMalformed = errors.New("malformed SOCKS5")

// Authentication methods (RFC 1928, section 3).
const (
	NoAuth       = 0x00
	UserPassword = 0x02
	NoneFits     = 0xff
)

// Command is what a client asks for (RFC 1928, section 4).
type Command byte

// The commands.
const (
	Connect      Command = 1
	Bind         Command = 2
	UDPAssociate Command = 3
)

// Reply is the code of an answer (RFC 1928, section 6).
type Reply byte

// The codes.
const (
	Succeeded          Reply = 0
	GeneralFailure     Reply = 1
	NotAllowed         Reply = 2
	HostUnreachable    Reply = 4
	Refused            Reply = 5
	Expired            Reply = 6
	CommandUnsupported Reply = 7
	AddressUnsupported Reply = 8
)

const version = 5

// ReadMethods reads the first message of a client: the methods that it offers.
func ReadMethods(r io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, reading("the methods", err)
	}
	if head[0] != version {
		return nil, fmt.Errorf("%w: it is of another version, or another protocol", ErrMalformed)
	}
	if head[1] == 0 {
		return nil, fmt.Errorf("%w: no method is offered", ErrMalformed)
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(r, methods); err != nil {
		return nil, reading("the methods", err)
	}
	return methods, nil
}

// Method is the answer to [ReadMethods].
func Method(m byte) []byte { return []byte{version, m} }

// ReadUser reads a name and a password (RFC 1929, section 2).
func ReadUser(r io.Reader) (name, password string, err error) {
	var b [1]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return "", "", reading("the user", err)
	}
	if b[0] != 1 {
		return "", "", fmt.Errorf("%w: the authentication is of another version", ErrMalformed)
	}
	if name, err = readText(r, "the user"); err != nil {
		return "", "", err
	}
	password, err = readText(r, "the password")
	return name, password, err
}

// User is the answer to [ReadUser].
func User(ok bool) []byte {
	if ok {
		return []byte{1, 0}
	}
	return []byte{1, 1}
}

// readText reads a text of 1 to 255 bytes behind its length.
func readText(r io.Reader, what string) (string, error) {
	var n [1]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return "", reading(what, err)
	}
	if n[0] == 0 {
		return "", fmt.Errorf("%w: %s is empty", ErrMalformed, what)
	}
	b := make([]byte, n[0])
	if _, err := io.ReadFull(r, b); err != nil {
		return "", reading(what, err)
	}
	return string(b), nil
}

// Request is what a client wants.
type Request struct {
	Command Command
	Host    string // a name, or an address; not checked
	Addr    netip.Addr
	Port    uint16
}

// Authority is the target as CONNECT of HTTP writes it.
func (q Request) Authority() string { return net.JoinHostPort(q.Host, strconv.Itoa(int(q.Port))) }

// ReadRequest reads a request. Beside an error stands the code of the answer.
func ReadRequest(r io.Reader) (q Request, code Reply, err error) {
	var head [4]byte // version, command, reserved, type of the address
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return q, GeneralFailure, reading("the request", err)
	}
	if head[0] != version || head[2] != 0 {
		return q, GeneralFailure, fmt.Errorf("%w: the request does not begin like one", ErrMalformed)
	}
	q.Command = Command(head[1])
	switch head[3] {
	case 1, 4:
		b := make([]byte, map[byte]int{1: 4, 4: 16}[head[3]])
		if _, err := io.ReadFull(r, b); err != nil {
			return q, GeneralFailure, reading("the address", err)
		}
		q.Addr, _ = netip.AddrFromSlice(b)
		q.Host = q.Addr.String()
	case 3:
		if q.Host, err = readText(r, "the name"); err != nil {
			return q, GeneralFailure, err
		}
	default:
		return q, AddressUnsupported, fmt.Errorf("%w: the address is of no known type", ErrMalformed)
	}
	var port [2]byte
	if _, err := io.ReadFull(r, port[:]); err != nil {
		return q, GeneralFailure, reading("the port", err)
	}
	q.Port = uint16(port[0])<<8 | uint16(port[1])
	return q, Succeeded, nil
}

// Answer is the answer to [ReadRequest]. It does not tell the address from which
// the proxy reaches the target.
func Answer(code Reply) []byte { return []byte{version, byte(code), 0, 1, 0, 0, 0, 0, 0, 0} }

// reading is an error of a message that ended early, or did not come.
func reading(what string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends before %s does", ErrMalformed, what)
	}
	return fmt.Errorf("reading %s: %w", what, err)
}

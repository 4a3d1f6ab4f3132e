package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"strings"
	"unicode/utf8"
)

// What a record holds at most, in bytes, so that an entry always fits
// record.MaxEntry whatever a client sends. What is longer stands as its
// beginning and the digest of the whole.
const (
	maxWho         = 512
	maxIssuer      = 256
	maxClaims      = 8
	maxClaimName   = 64
	maxClaim       = 256 // the value of one
	maxMethod      = 64
	maxAuthority   = 1 << 10
	maxPath        = 8 << 10
	maxQuery       = 8 << 10 // where it is not sealed
	maxDetail      = 1 << 10
	maxHeaderName  = 128
	maxHeaderValue = 2 << 10 // of one open header
	maxOpenValues  = 8 << 10 // of all open headers; what is more is sealed
	maxHeaderLines = 128
	maxCredentials = 64
	maxPlace       = 128
	maxOperation   = 256 // of its name, and of its target
	maxTemplate    = 512

	maxAttemptDetail = 256 // of each of maxAttempts

	// What is sealed has a bound too: a spool takes 512 KiB for a record with its
	// openings, if it is small. Of heads of up to 64 KiB everything fits.
	maxSealedText    = 96 << 10  // of one field
	maxSealedHeaders = 192 << 10 // of all headers together
	maxSealedStub    = 128       // of a header for which there is no room
)

// digestMark stands between the beginning of a value and the digest of all of it.
const digestMark = "…sha256:"

// capped returns s as valid UTF-8 (protobuf takes no other strings) of at most
// limit bytes.
func capped(s string, limit int) string {
	if len(s) <= limit {
		if ascii(s) || utf8.ValidString(s) {
			return s
		}
		if t := escapeInvalid(s); len(t) <= limit {
			return t
		}
	}
	sum := sha256.Sum256([]byte(s))
	mark := digestMark + hex.EncodeToString(sum[:])
	cut := max(limit-len(mark), 0)
	head := escapeInvalid(s[:min(cut, len(s))])
	for len(head) > cut || len(head) > 0 && !utf8.ValidString(head) {
		head = head[:min(cut, len(head)-1)]
	}
	return head + mark
}

// brief is the text of an error without what a peer sent: the parser quotes the
// line that it cannot read, and a secret may stand in that. Nor has it the addresses
// of a connection that was there: a client's may be sealed.
func brief(err error) string {
	text := err.Error()
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op != "dial" && op.Err != nil && op.Addr != nil {
		text = strings.ReplaceAll(text, op.Error(), op.Err.Error())
	}
	if i := strings.Index(text, ", debug="); i >= 0 { // of HTTP/2's GOAWAY
		text = text[:i]
	}
	for _, words := range [...]string{"malformed HTTP ", "malformed MIME header", "invalid header", "invalid trailer", "Content-Length", "transfer encoding"} {
		if i := strings.Index(text, words); i >= 0 {
			return strings.TrimSpace(text[:i+len(words)])
		}
	}
	return text
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// escapeInvalid replaces bytes that are not UTF-8 by \xNN.
func escapeInvalid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	const digits = "0123456789abcdef"
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			b.WriteString(`\x`)
			b.WriteByte(digits[s[0]>>4])
			b.WriteByte(digits[s[0]&0xf])
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

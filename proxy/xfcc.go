package proxy

import (
	"encoding/hex"
	"strings"
)

const (
	headerXFCC = "X-Forwarded-Client-Cert"
	maxXFCC    = 64 << 10
)

// xfccElement is what one proxy says of the certificate of its client: an element
// of Envoy's x-forwarded-client-cert.
type xfccElement struct {
	hash    []byte // SHA-256 of the certificate; nil if it is not said
	subject string
	uris    []string
	dns     []string
}

// forwardedCertificate returns whom the certificate names that a trusted peer has
// verified. Of a chain of proxies the peer's own element counts, which is the
// last one: those before it are only what it was told.
func (x *exchange) forwardedCertificate() identity {
	if !x.p.cfg.XFCC || !x.trusted {
		return identity{}
	}
	values := x.r.Header[headerXFCC]
	if len(values) == 0 {
		return identity{}
	}
	e, ok := parseXFCC(strings.Join(values, ","))
	if !ok {
		return identity{}
	}
	return identity{id: e.name(), how: howXFCC, verified: true, certificate: e.hash}
}

// name is chosen as in a certificate itself. Envoy says the digest even where it
// is told to say no name.
func (e xfccElement) name() string {
	names := append([]string{commonName(e.subject), e.subject}, e.dns[:min(len(e.dns), 1)]...)
	if e.hash != nil {
		names = append(names, "sha256:"+hex.EncodeToString(e.hash))
	}
	return otherName(uriName(e.uris), names)
}

// parseXFCC returns the last element of a header, and reports whether all of it
// is well-formed: what is not could end elsewhere than it seems to. Elements are
// separated by commas, the pairs of one by semicolons. A value in quotes ends at
// the next quote that has no backslash before it, as Envoy writes and reads them.
func parseXFCC(s string) (last xfccElement, ok bool) {
	if len(s) > maxXFCC {
		return last, false
	}
	var e xfccElement
	for {
		key, value, end, rest, ok := nextPair(s)
		if !ok || !e.set(key, value) {
			return last, false
		}
		if end == 0 {
			return e, true
		}
		if end == ',' {
			e, rest = xfccElement{}, strings.TrimLeft(rest, " \t")
		}
		s = rest
	}
}

// nextPair cuts a pair off the beginning. end is the separator behind it, or 0.
func nextPair(s string) (key, value string, end byte, rest string, ok bool) {
	key, s, found := strings.Cut(s, "=")
	if !found || key == "" || strings.ContainsAny(key, `,;"`) {
		return "", "", 0, "", false
	}
	if strings.HasPrefix(s, `"`) {
		n := 1
		for ; n < len(s) && (s[n] != '"' || s[n-1] == '\\'); n++ {
		}
		if n == len(s) {
			return "", "", 0, "", false
		}
		value, s = strings.ReplaceAll(s[1:n], `\"`, `"`), strings.TrimLeft(s[n+1:], " \t")
		if s == "" {
			return key, value, 0, "", true
		}
		return key, value, s[0], s[1:], s[0] == ',' || s[0] == ';'
	}
	n := strings.IndexAny(s, `,;"`)
	if n < 0 {
		return key, strings.TrimSpace(s), 0, "", true
	}
	return key, strings.TrimSpace(s[:n]), s[n], s[n+1:], s[n] != '"'
}

// set takes a pair. What may stand once only and comes twice is refused, and so
// is a digest that is none. Other keys mean nothing here.
func (e *xfccElement) set(key, value string) bool {
	switch strings.ToLower(key) {
	case "hash":
		sum, err := hex.DecodeString(value)
		if err != nil || len(sum) != 32 || e.hash != nil {
			return false
		}
		e.hash = sum
	case "subject":
		if e.subject != "" {
			return false
		}
		e.subject = value
	case "uri":
		if value != "" {
			e.uris = append(e.uris, value)
		}
	case "dns":
		if value != "" {
			e.dns = append(e.dns, value)
		}
	}
	return true
}

// commonName returns the one CN of a distinguished name in the form of RFC 4514,
// or "": of several, or in another form, none can be told for sure.
func commonName(dn string) string {
	var name string
	for dn != "" {
		end := 0
		for ; end < len(dn) && dn[end] != ',' && dn[end] != '+'; end++ {
			if dn[end] == '\\' {
				end++
			}
		}
		end = min(end, len(dn))
		attribute, value, ok := strings.Cut(strings.TrimLeft(dn[:end], " "), "=")
		if !ok || attribute == "" || strings.HasPrefix(attribute, "/") {
			return ""
		}
		if strings.EqualFold(attribute, "CN") {
			if value = unescapeDN(value); value == "" || name != "" {
				return ""
			}
			name = value
		}
		dn = dn[min(end+1, len(dn)):]
	}
	return name
}

// unescapeDN resolves the escapes of RFC 4514, section 2.4.
func unescapeDN(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 < len(s) {
			if c, err := hex.DecodeString(s[i+1 : i+3]); err == nil {
				b.WriteByte(c[0])
				i += 2
				continue
			}
		}
		if i++; i < len(s) {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

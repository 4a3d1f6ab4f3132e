package proxy

import (
	"crypto/sha256"
	"crypto/x509"
	"strings"
	"sync"
)

// peerCertificate is what the certificate of a client's connection says, found
// out once for all its requests.
type peerCertificate struct {
	once sync.Once
	identity
	sum [sha256.Size]byte
}

// certificate returns whom the client's certificate names, if there is one.
func (x *exchange) certificate() identity {
	state := x.r.TLS
	if state == nil || len(state.PeerCertificates) == 0 {
		return identity{}
	}
	c := &x.conn.certificate
	c.once.Do(func() {
		leaf := state.PeerCertificates[0]
		c.sum = sha256.Sum256(leaf.Raw)
		c.identity = identity{id: certificateName(leaf), how: howMTLS, verified: len(state.VerifiedChains) > 0,
			certificate: c.sum[:], issuer: leaf.Issuer.String()}
	})
	return c.identity
}

// certificateName is the name in a certificate: its one URI (a SPIFFE ID, say),
// or else its common name, or else the first of its other names.
func certificateName(c *x509.Certificate) string {
	uris := make([]string, len(c.URIs))
	for i, u := range c.URIs {
		uris[i] = u.String()
	}
	names := []string{c.Subject.CommonName}
	for _, list := range [][]string{c.EmailAddresses, c.DNSNames} {
		names = append(names, list[:min(len(list), 1)]...)
	}
	return otherName(uriName(uris), append(names, c.Subject.String()))
}

// otherName returns the name that a URI gives, or else the first of others that is
// one. None of them is taken for a SPIFFE ID, whatever it reads: those are URIs, and
// whoever may have other names certified need not be who may have these.
func otherName(uri string, others []string) string {
	if uri != "" {
		return uri
	}
	for _, name := range others {
		if name != "" && !spiffeLike(name) {
			return name
		}
	}
	return ""
}

// spiffeLike reports whether s begins like a SPIFFE ID.
func spiffeLike(s string) bool {
	const scheme = "spiffe:"
	return len(s) >= len(scheme) && strings.EqualFold(s[:len(scheme)], scheme)
}

// uriName returns the URI that names the holder of a certificate. Of several
// none does: an X.509-SVID has exactly one (X509-SVID, section 2). One that
// would be a SPIFFE ID and is malformed names nobody either.
func uriName(uris []string) string {
	if len(uris) != 1 {
		return ""
	}
	uri := uris[0]
	if spiffeLike(uri) && !validSPIFFE(uri) {
		return ""
	}
	return uri
}

// validSPIFFE reports whether s is a SPIFFE ID of a workload or a trust domain
// (SPIFFE-ID, section 2).
func validSPIFFE(s string) bool {
	const longest, longestDomain = 2048, 255
	rest, ok := strings.CutPrefix(s, "spiffe://")
	if !ok || len(s) > longest {
		return false
	}
	domain, path, hasPath := strings.Cut(rest, "/")
	if domain == "" || len(domain) > longestDomain || !spiffeChars(domain, false) {
		return false
	}
	if !hasPath {
		return true
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." || !spiffeChars(segment, true) {
			return false
		}
	}
	return true
}

func spiffeChars(s string, upper bool) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '.', c == '-', c == '_':
		case upper && 'A' <= c && c <= 'Z':
		default:
			return false
		}
	}
	return true
}

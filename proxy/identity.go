package proxy

import (
	"encoding/base64"
	"net/http"
	"net/netip"
	"strings"
)

// The values of Who.how.
const (
	howMTLS   = "mtls"
	howJWT    = "jwt"
	howAPIKey = "api-key"
	howXFCC   = "xfcc"
	howBasic  = "basic"
	howHeader = "header"
)

// identity is what one source says of whom a request comes from.
type identity struct {
	id, how     string
	verified    bool
	certificate []byte // SHA-256, or nil
	issuer      string
	claims      []claim
}

// trusts reports whether an address is that of a trusted peer.
func (p *Proxy) trusts(a netip.Addr) bool {
	for _, prefix := range p.cfg.TrustedPeers {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}

// identify returns who a request comes from; its id is empty if nothing says so.
// What is said nearest to the user wins among what is verified: a trusted peer
// that names its user, then a token, then a key of ours, then the certificate
// that a trusted peer has seen, then the client's own. What is not verified only
// counts where nothing is. docs/identity.md has the table.
func (x *exchange) identify() identity {
	if h := x.p.headers.user; h != "" && x.trusted {
		// Of several one may be the client's own, which the peer has passed on.
		if list := x.r.Header[h]; len(list) == 1 && list[0] != "" {
			return identity{id: list[0], how: howHeader, verified: true}
		}
	}
	scheme, credential := x.authorization()
	token := x.token(scheme, credential)
	if token.verified {
		return token
	}
	if name := x.p.keys.find(x.r); name != "" {
		return identity{id: name, how: howAPIKey, verified: true}
	}
	if who := x.forwardedCertificate(); who.id != "" {
		return who
	}
	certificate := x.certificate()
	switch {
	case certificate.verified:
		return certificate
	case token.id != "":
		return token
	case certificate.id != "":
		return certificate
	case strings.EqualFold(scheme, "basic"):
		return identity{id: basicUser(credential), how: howBasic}
	}
	return identity{}
}

// authorization splits the credentials that are meant for this proxy, or else
// those for the target. Where there are several nobody knows which of them count.
func (x *exchange) authorization() (scheme, credential string) {
	list := x.r.Header["Authorization"]
	if l := x.r.Header["Proxy-Authorization"]; len(l) > 0 && !x.p.reverse() {
		list = l
	}
	if len(list) != 1 {
		return "", ""
	}
	scheme, credential, _ = strings.Cut(list[0], " ")
	return scheme, strings.TrimSpace(credential)
}

// token returns what the first token says that verifies, or the first one at all.
func (x *exchange) token(scheme, credential string) identity {
	var first identity
	look := func(token string) bool {
		f := x.p.tokens.read(token, x.start)
		if f.id == "" {
			return false
		}
		if f.verified || first.id == "" {
			first = identity{id: f.id, how: howJWT, verified: f.verified, issuer: f.issuer, claims: f.claims}
		}
		return f.verified
	}
	if strings.EqualFold(scheme, "bearer") && look(credential) {
		return first
	}
	if h := x.p.tokens.header; h != "" && len(x.r.Header[h]) == 1 {
		value := x.r.Header[h][0]
		if scheme, rest, ok := strings.Cut(value, " "); ok && strings.EqualFold(scheme, "bearer") {
			value = rest
		}
		if look(strings.TrimSpace(value)) {
			return first
		}
	}
	if name := x.p.tokens.cookie; name != "" {
		if list := x.r.CookiesNamed(name); len(list) == 1 {
			look(list[0].Value)
		}
	}
	return first
}

// basicUser returns the user name of Basic credentials, or "" if what stands in
// its place is likely to be a key: some services take one there, with no
// password, or a fixed one, beside it.
func basicUser(credential string) string {
	const longest = 64
	plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(credential))
	user, password, ok := strings.Cut(string(plain), ":")
	if err != nil || !ok || password == "" || password == "x-oauth-basic" || len(user) > longest {
		return ""
	}
	return user
}

// source is the address of the client: the peer's, or what a trusted peer says
// in X-Forwarded-For, read from the right until an address that is not trusted.
func (x *exchange) source() string {
	if x.conn.inside != nil {
		return x.conn.inside.source
	}
	if !x.trusted {
		return x.conn.text
	}
	values := x.r.Header["X-Forwarded-For"]
	for i := len(values) - 1; i >= 0; i-- {
		list := values[i]
		for list != "" {
			var last string
			if j := strings.LastIndexByte(list, ','); j >= 0 {
				list, last = list[:j], list[j+1:]
			} else {
				list, last = "", list
			}
			last = strings.TrimSpace(last)
			a, err := netip.ParseAddr(last)
			if err != nil {
				ap, err := netip.ParseAddrPort(last)
				if err != nil {
					return x.conn.text
				}
				a = ap.Addr()
			}
			if a.Zone() != "" {
				return x.conn.text // a zone is any text, and means something on its own machine only
			}
			if a = a.Unmap(); !x.p.trusts(a) {
				return a.String()
			}
		}
	}
	return x.conn.text
}

// local reports whether a client is on this machine: as a peer, and by what it
// says of those it speaks for.
func (x *exchange) local() bool {
	if x.conn.inside != nil {
		return x.conn.inside.local
	}
	if x.conn.text == unixPeer {
		return true
	}
	if !x.conn.addr.Addr().IsLoopback() {
		return false
	}
	src := x.source()
	if src == x.conn.text {
		return true
	}
	a, err := netip.ParseAddr(src)
	return err == nil && a.IsLoopback()
}

// keepsTrace reports whether the trace that a request belongs to is for the peer
// to say. Where it is known who is trusted the others are not: they could put
// what they do into another's trace, or into all of one.
func (x *exchange) keepsTrace() bool {
	return x.trusted || len(x.p.cfg.TrustedPeers) == 0
}

// validHeaderName returns the canonical form of a name that comes from the
// configuration.
func validHeaderName(name string) (string, bool) {
	return http.CanonicalHeaderKey(name), validName(name)
}

package proxy

import (
	"encoding/base64"
	"net/http"
	"net/netip"
	"strings"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// The values of Who.how.
const (
	howMTLS   = "mtls"
	howJWT    = "jwt"
	howBasic  = "basic"
	howHeader = "header"
)

// trusts reports whether an address is that of a trusted peer.
func (p *Proxy) trusts(a netip.Addr) bool {
	for _, prefix := range p.cfg.TrustedPeers {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}

// identify fills in who a request comes from and reports whether it says so.
// What is said nearest to the user wins among what is verified: a trusted peer
// that names its user, then a token, then the client's certificate. What is not
// verified only counts where nothing is.
func (x *exchange) identify(who *sealtapv1.Who) bool {
	r := x.r
	set := func(id, how string, verified bool) bool {
		if id == "" {
			return false
		}
		who.Id, who.How, who.Verified = capped(id, maxWho), how, verified
		return true
	}
	if h := x.p.headers.user; h != "" && x.trusted && set(strings.Join(r.Header[h], ", "), howHeader, true) {
		return true
	}
	var tokenID string
	var tokenOK bool
	authorization := r.Header.Get("Authorization")
	if v := r.Header.Get("Proxy-Authorization"); v != "" && !x.p.reverse() {
		authorization = v // meant for this proxy, the other for the target
	}
	scheme, credential, _ := strings.Cut(authorization, " ")
	if strings.EqualFold(scheme, "bearer") {
		tokenID, tokenOK = x.p.tokens.subject(strings.TrimSpace(credential), x.start)
	}
	if tokenOK && set(tokenID, howJWT, true) {
		return true
	}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		verified := len(r.TLS.VerifiedChains) > 0
		if set(certificateName(r), howMTLS, verified) && verified {
			return true
		}
	}
	if set(tokenID, howJWT, false) || who.How != "" {
		return true
	}
	if strings.EqualFold(scheme, "basic") {
		return set(basicUser(credential), howBasic, false)
	}
	return false
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

// certificateName is the name in the client's certificate: its URI (a SPIFFE ID,
// say), or else its common name, or else the first of its other names.
func certificateName(r *http.Request) string {
	c := r.TLS.PeerCertificates[0]
	switch {
	case len(c.URIs) > 0:
		return c.URIs[0].String()
	case c.Subject.CommonName != "":
		return c.Subject.CommonName
	case len(c.EmailAddresses) > 0:
		return c.EmailAddresses[0]
	case len(c.DNSNames) > 0:
		return c.DNSNames[0]
	}
	return c.Subject.String()
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

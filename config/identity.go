package config

// JWT says how bearer tokens are verified.
type JWT struct {
	JWKS      Path     `yaml:"jwks"`      // file with the keys; this or jwks_url is required
	JWKSURL   URL      `yaml:"jwks_url"`  // where the keys are fetched from
	Issuers   []string `yaml:"issuers"`   // one of which "iss" is; empty means that it is not looked at
	Audiences []string `yaml:"audiences"` // one of which is in "aud"; empty means that it is not looked at
	Claims    []string `yaml:"claims"`    // that are recorded; empty means none
	Leeway    Period   `yaml:"leeway"`    // between clocks; 0 means 30s
	IDClaim   string   `yaml:"id_claim"`  // who it is; empty means sub, or else client_id
	Header    string   `yaml:"header"`    // where tokens stand, too
	Cookie    string   `yaml:"cookie"`    // where tokens stand, too
}

// APIKeys says whose keys are known.
type APIKeys struct {
	Header string `yaml:"header"` // where keys stand; this or query is required
	Query  string `yaml:"query"`  // name of the parameter
	Keys   Path   `yaml:"keys"`   // file of lines NAME HEX-SHA-256; required
}

// ProxyProtocol says from whom connections begin with a header.
type ProxyProtocol struct {
	From []Prefix `yaml:"from"` // required
}

const (
	mostLeeway = 300_000_000_000
	mostClaims = 8
)

// identity checks what says who requests come from.
func (c *checker) identity(p *Proxy) {
	if j := p.JWT; j != nil {
		switch {
		case p.JWKS != "":
			c.fail("proxy.jwks", ": it is the short form of proxy.jwt.jwks: take one of both")
		case j.JWKS != "" && j.JWKSURL.URL != nil:
			c.fail("proxy.jwt.jwks_url", ": jwks is there already: take one of both")
		case j.JWKS == "" && j.JWKSURL.URL == nil:
			c.fail("proxy.jwt.jwks", " or jwks_url is required")
		case j.Leeway > mostLeeway:
			c.fail("proxy.jwt.leeway", ": it is at most 5m")
		case len(j.Claims) > mostClaims:
			c.fail("proxy.jwt.claims", ": at most %d can be recorded", mostClaims)
		}
	}
	if k := p.APIKeys; k != nil {
		c.needed("proxy.api_keys", need{"keys", k.Keys != ""})
		if (k.Header == "") == (k.Query == "") {
			c.fail("proxy.api_keys", ": keys stand in a header or in the query: say one of both")
		}
	}
	if p.ProxyProtocol != nil && len(p.ProxyProtocol.From) == 0 {
		c.fail("proxy.proxy_protocol.from", " is required")
	}
	if p.XFCC && len(p.TrustedPeers) == 0 {
		c.fail("proxy.xfcc", ": only trusted_peers are believed, and there are none")
	}
}

// identityPaths are the files that say who requests come from.
func (p *Proxy) identityPaths() (list []*Path) {
	if p.JWT != nil {
		list = append(list, &p.JWT.JWKS)
	}
	if p.APIKeys != nil {
		list = append(list, &p.APIKeys.Keys)
	}
	return list
}

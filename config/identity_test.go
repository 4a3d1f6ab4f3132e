package config

import (
	"errors"
	"strings"
	"testing"
	"time"
)

const identityKeys = `  jwt:
    jwks: keys/idp.json
    issuers: [https://idp]
    claims: [azp, tenant]
    leeway: 10s
  api_keys: {header: X-Api-Key, keys: keys/api}
  xfcc: true
  proxy_protocol: {from: [10.0.0.0/8]}
witnesses:
`

func TestIdentity(t *testing.T) {
	text := strings.Replace(good, "witnesses:\n", identityKeys, 1)
	f, err := Parse("/etc/c.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	p := f.Proxy
	if p.JWT.JWKS != "/etc/keys/idp.json" || time.Duration(p.JWT.Leeway) != 10*time.Second || p.APIKeys.Keys != "/etc/keys/api" || !p.XFCC || len(p.ProxyProtocol.From) != 1 {
		t.Errorf("%+v %+v", p.JWT, p.APIKeys)
	}
	for _, c := range []struct{ old, new, want string }{
		{"  jwt:\n", "  jwks: x\n  jwt:\n", "c.yaml:14: proxy.jwks: it is the short form"},
		{"jwks: keys/idp.json", "jwks: x\n    jwks_url: https://idp/keys", "c.yaml:16: proxy.jwt.jwks_url: jwks is there already"},
		{"    jwks: keys/idp.json\n", "", "proxy.jwt.jwks or jwks_url is required"},
		{"jwks: keys/idp.json", "jwks_url: idp/keys", `c.yaml:15: proxy.jwt.jwks_url: "idp/keys" is not`},
		{"leeway: 10s", "leeway: 1h", "c.yaml:18: proxy.jwt.leeway: it is at most 5m"},
		{"[azp, tenant]", "[a, b, c, d, e, f, g, h, i]", "proxy.jwt.claims: at most 8"},
		{", keys: keys/api", "", "proxy.api_keys.keys is required"},
		{"header: X-Api-Key, ", "", "proxy.api_keys: keys stand in a header or in the query"},
		{"header: X-Api-Key, ", "header: X-Api-Key, query: key, ", "proxy.api_keys: keys stand in a header or in the query"},
		{"from: [10.0.0.0/8]", "from: []", "proxy.proxy_protocol.from is required"},
		{"  trusted_peers: [10.0.0.0/8, \"::1\"]\n", "", "proxy.xfcc: only trusted_peers are believed"},
	} {
		if _, err := Parse("c.yaml", []byte(strings.Replace(text, c.old, c.new, 1))); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

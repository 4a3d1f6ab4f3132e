package config

import (
	"errors"
	"strings"
	"testing"
)

const forwardSection = `
proxy:
  listen: 127.0.0.1:8080
  key: keys/proxy.key
  log: http://127.0.0.1:8081
  policy: policy.txt
  spool: spool
  digest_key: keys/digest.key
  openings_to: [age1x]
  forward:
    ports: [443, 8000-8999]
    hosts: {allow: ["*.example"], deny: [bad.example]}
    require_user: true
    users: users.txt
    socks: {listen: "127.0.0.1:1080"}
    intercept:
      ca_cert: ca.crt
      ca_key: ca.key
      hosts: ["*"]
      except: [bank.example]
      roots: roots.pem
`

func TestForward(t *testing.T) {
	f, err := Parse("/etc/c.yaml", []byte(forwardSection))
	if err != nil {
		t.Fatal(err)
	}
	w := f.Proxy.Forward
	if len(w.Ports) != 2 || !w.Ports[1].Contains(8500) || w.Users != "/etc/users.txt" || w.Intercept.CAKey != "/etc/ca.key" || w.Intercept.Roots != "/etc/roots.pem" || w.SOCKS.Listen != "127.0.0.1:1080" || !w.RequireUser {
		t.Errorf("%+v", w)
	}
	for _, c := range []struct{ old, new, want string }{
		{"443,", "0,", `c.yaml:11: proxy.forward.ports.[0]: "0" is not a port`},
		{"*.example", "*x", `c.yaml:12: proxy.forward.hosts.allow: not a host: "*x"`},
		{"bad.example", "0x7f.1", `c.yaml:12: proxy.forward.hosts.deny: not a host`},
		{"    users: users.txt\n", "", `proxy.forward.users is required`},
		{"127.0.0.1:1080", "x", `c.yaml:15: proxy.forward.socks.listen: "x" is not an address`},
		{"      ca_key: ca.key\n", "", `c.yaml:16: proxy.forward.intercept.ca_key is required`},
		{`      hosts: ["*"]` + "\n", "", `c.yaml:16: proxy.forward.intercept.hosts is required`},
		{"[bank.example]", "[a..b]", `c.yaml:20: proxy.forward.intercept.except: not a host`},
		{"roots:", "verify: false\n      roots:", `unknown key "verify"`},
		{"  forward:", "  upstream: http://127.0.0.1:9\n  forward:", `a proxy with an upstream is no forward proxy`},
	} {
		if _, err := Parse("c.yaml", []byte(strings.Replace(forwardSection, c.old, c.new, 1))); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
}

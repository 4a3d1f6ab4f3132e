package config

import (
	"strings"
	"testing"
)

const lively = `proxy:
  listen: 127.0.0.1:8080
  key: proxy.key
  log: http://127.0.0.1:8081
  policy: policy.txt
  spool: spool
  digest_key: digest.key
  openings_to: [age1x]
  admin: {listen: 127.0.0.1:9901}
  drain: 30s
`

func TestLife(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"as it is", "", "", ""},
		{"passed", "127.0.0.1:8080", "fd:front", ""},
		{"passed by number", "127.0.0.1:9901", "fd:3", ""},
		{"passed without a name", "127.0.0.1:8080", "'fd:'", "c.yaml:2: proxy.listen: a socket that systemd passes reads fd:NAME"},
		{"no address", "127.0.0.1:9901", "here", `c.yaml:9: proxy.admin.listen: "here" is not an address`},
		{"twice", "127.0.0.1:9901", "127.0.0.1:8080", "c.yaml:9: proxy.admin.listen: it is the address of proxy.listen"},
		{"short drain", "30s", "1ms", "c.yaml:10: proxy.drain: it is from 100ms to 1h"},
		{"long drain", "30s", "2h", "c.yaml:10: proxy.drain: it is from 100ms to 1h"},
	} {
		f, err := Parse("c.yaml", []byte(strings.Replace(lively, c.old, c.new, 1)))
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			} else if got := f.Fault("proxy.log", ": %d", 7).Error(); got != "invalid configuration: c.yaml:4: proxy.log: 7" {
				t.Error(got)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

package config

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

const vkey = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"

const good = `
proxy:
  listen: 127.0.0.1:8080
  upstream: http://127.0.0.1:9000
  key: keys/proxy.key
  log: http://127.0.0.1:8081
  policy: policy.txt
  spool: /var/spool/sealtap
  spool_max_bytes: 2GiB
  heartbeat: 5s
  digest_key: keys/digest.key
  openings_to: [age1x]
  trusted_peers: [10.0.0.0/8, "::1"]
witnesses:
  - name: w1
    listen: 127.0.0.1:8082
    database: w1.db
    key: keys/w1.key
    logs: ["` + vkey + `"]
`

func TestParse(t *testing.T) {
	f, err := Parse("/etc/sealtap/config.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	p := f.Proxy
	if p.Key != "/etc/sealtap/keys/proxy.key" || p.Spool != "/var/spool/sealtap" {
		t.Errorf("paths %q and %q: relative ones belong to the file's directory, absolute ones stay", p.Key, p.Spool)
	}
	if p.SpoolMaxBytes != 2<<30 || time.Duration(p.Heartbeat) != 5*time.Second || p.Upstream.Host != "127.0.0.1:9000" {
		t.Errorf("values not taken: %+v", p)
	}
	if len(p.TrustedPeers) != 2 || p.TrustedPeers[1].Bits() != 128 {
		t.Errorf("trusted peers %v", p.TrustedPeers)
	}
	if len(f.Witnesses) != 1 || f.Witnesses[0].Logs[0].Name != "example.com/foo" || f.Log != nil {
		t.Errorf("sections %+v", f)
	}
}

const logSection = `
log:
  listen: 127.0.0.1:8081
  database: log.db
  key: keys/log.key
  policy: policy.txt
  limits:
    batch_entries: 8192
    batch_bytes: 16MiB
    producer_bytes_per_second: 256KiB
    queue_batches: 100
    queue_bytes: 32MiB
    reading_bytes: 48MiB
    publish_wait: 5s
`

func TestLimits(t *testing.T) {
	f, err := Parse("c.yaml", []byte(logSection))
	if err != nil {
		t.Fatal(err)
	}
	want := Limits{8192, 16 << 20, 256 << 10, 100, 32 << 20, 48 << 20, Period(5 * time.Second)}
	if f.Log.Limits != want {
		t.Errorf("limits %+v", f.Log.Limits)
	}
	for _, c := range []struct{ old, new, want string }{
		{"8192", "many", `c.yaml:8: log.limits.batch_entries: "many" is not a number such as 4096`},
		{"8192", "-1", `c.yaml:8: log.limits.batch_entries: "-1" is not a number`},
		{"8192", "100", `c.yaml:8: log.limits.batch_entries: a proxy sends up to`},
		{"16MiB", "1MiB", `c.yaml:9: log.limits.batch_bytes: a proxy sends up to`},
		{"16MiB", "1GiB", `c.yaml:9: log.limits.batch_bytes: a proxy sends up to`},
		{"100\n", "2000000\n", `c.yaml:11: log.limits.queue_batches: it is at most 1048576`},
		{"5s", "3m", `c.yaml:14: log.limits.publish_wait: it is at most 50s`},
		{"queue_bytes", "queue_byte", `c.yaml:12: log.limits: unknown key "queue_byte"`},
	} {
		if _, err := Parse("c.yaml", []byte(strings.Replace(logSection, c.old, c.new, 1))); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"unknown key", "  spool: ", "  spooool: ", `c.yaml:8: proxy: unknown key "spooool"`},
		{"unknown section", "witnesses:", "witness:", `c.yaml:14: unknown key "witness"`},
		{"twice", "  spool: ", "  key: a\n  spool: ", `c.yaml:8: proxy: the key "key" comes twice`},
		{"bad duration", "5s", "soon", `c.yaml:10: proxy.heartbeat: "soon" is not a duration`},
		{"bad size", "2GiB", "lots", `c.yaml:9: proxy.spool_max_bytes: "lots" is not a number of bytes`},
		{"huge size", "2GiB", "9999999999999GiB", `is not a number of bytes`},
		{"bad URL", "http://127.0.0.1:9000", "127.0.0.1:9000", `c.yaml:4: proxy.upstream: "127.0.0.1:9000" is not an http or https URL`},
		{"bad prefix", "10.0.0.0/8", "10/8", `c.yaml:13: proxy.trusted_peers.[0]: "10/8" is not an address`},
		{"bad vkey", "530d903a", "530d903b", `c.yaml:19: witnesses.[0].logs.[0]: malformed key`},
		{"list wanted", "[age1x]", "age1x", `proxy.openings_to: a list is wanted`},
		{"value wanted", "5s", "[5s]", `proxy.heartbeat: a single value is wanted`},
		{"required", "  log: http://127.0.0.1:8081\n", "", `c.yaml:2: proxy.log is required`},
		{"same names", "witnesses:\n", "witnesses:\n  - {name: w1, listen: \"127.0.0.1:1\", database: b, key: c, logs: [\"" + vkey + "\"]}\n", `"w1" is taken`},
		{"listen", "127.0.0.1:8080", "localhost", `c.yaml:3: proxy.listen: "localhost" is not an address`},
		{"port", "127.0.0.1:8082", "127.0.0.1:99999", `c.yaml:16: witnesses.[0].listen: "127.0.0.1:99999" is not an address`},
		{"password", "127.0.0.1:9000", "alice:x@127.0.0.1:9000", `c.yaml:4: proxy.upstream: a user name or password does not belong`},
		{"query", "127.0.0.1:8081", "127.0.0.1:8081/?x", `c.yaml:6: proxy.log: only a path`},
		{"small spool", "2GiB", "1MiB", `c.yaml:9: proxy.spool_max_bytes: a spool needs`},
		{"short heartbeat", "5s", "1ns", `c.yaml:10: proxy.heartbeat: it is at least`},
		{"restless pruning", "witnesses:\n", "log: {listen: \"127.0.0.1:1\", database: l.db, key: k, policy: p, prune_interval: 1ms}\nwitnesses:\n", `log.prune_interval: it is at least`},
		{"large buffer", "  heartbeat: 5s", "  buffer_limit: 1GiB", `c.yaml:10: proxy.buffer_limit: it is at most`},
		{"seal", "  heartbeat: 5s", "  seal: [source, name]", `c.yaml:10: proxy.seal: "name" cannot be sealed`},
		{"operations", "  heartbeat: 5s", "  operations: [grpc, soap]", `c.yaml:10: proxy.operations: unknown protocol "soap": grpc, graphql,`},
		{"missing in a witness", "    database: w1.db\n", "", `c.yaml:15: witnesses.[0].database is required`},
		{"not YAML", "proxy:", "proxy: {", "c.yaml: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("c.yaml", []byte(strings.Replace(good, c.old, c.new, 1)))
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q, want one line with %q", err, c.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("proxy: {listen: &a x, spool: *a}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("c.yaml", data)
		if (file == nil) == (err == nil) {
			t.Errorf("file %v with error %v", file, err)
		}
	})
}

// TestPrefix: ranges of IPv4 have one form, in which addresses are compared.
func TestPrefix(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "10.1.2.3": "10.1.2.3/32", "::ffff:10.1.2.3": "10.1.2.3/32", "::ffff:169.254.0.0/112": "169.254.0.0/16", "::/0": "::/0", "fe80::1": "fe80::1/128",
	} {
		var p Prefix
		if err := p.UnmarshalYAML(&yaml.Node{Kind: yaml.ScalarNode, Value: text}); err != nil || p.String() != want {
			t.Errorf("%s: %v, %v, want %s", text, p, err, want)
		}
	}
}

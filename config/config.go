// Package config reads the configuration file: one YAML file with a section for
// each component, so that one file can run everything in one process and be
// copied to wherever a part of it shall run on its own.
//
// Every error names file, line and key. Secrets are files, never values. Paths
// are relative to the directory of the file.
//
// Start with [Load].
package config

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sealtap/sealtap/keys"
)

// ErrInvalid is wrapped by every error about the content of a file.
var ErrInvalid = errors.New("invalid configuration")

// File is a configuration file.
type File struct {
	Proxy     *Proxy    `yaml:"proxy"`
	Log       *Log      `yaml:"log"`
	Witnesses []Witness `yaml:"witnesses"`

	Path   string   `yaml:"-"` // where it was read
	SHA256 [32]byte `yaml:"-"` // of its bytes

	lines map[string]int // where keys stand, by their names with sections
}

// Proxy configures one proxy.
type Proxy struct {
	Listen   string `yaml:"listen"`   // address to listen on, unix:/path/to/socket, or fd:NAME; required
	Upstream URL    `yaml:"upstream"` // where requests go; without it and routes a forward proxy
	Service  string `yaml:"service"`  // name of the service in records; empty means the upstream's host
	TLS      *TLS   `yaml:"tls"`      // without it plain HTTP

	Upstreams []Upstream `yaml:"upstreams"` // where routes lead
	Routes    []Route    `yaml:"routes"`    // in the place of upstream

	Key           Path   `yaml:"key"`    // the producer's signing key; required
	Log           URL    `yaml:"log"`    // where entries go; required
	Policy        Path   `yaml:"policy"` // which checkpoints count; required
	Spool         Path   `yaml:"spool"`  // directory; required
	SpoolMaxBytes Size   `yaml:"spool_max_bytes"`
	Heartbeat     Period `yaml:"heartbeat"` // longest silence; 0 means 10s

	DigestKey  Path     `yaml:"digest_key"`  // secret under which credentials are digested; required
	OpeningsTo []string `yaml:"openings_to"` // age recipients who can read sealed fields; required

	OpenHeaders  []string `yaml:"open_headers"`  // headers whose values stand in the open; empty means a short list
	Seal         []string `yaml:"seal"`          // fields to seal: source, query, headers, path, who; empty means the first three
	TrustedPeers []Prefix `yaml:"trusted_peers"` // whose forwarding headers and user header count
	UserHeader   string   `yaml:"user_header"`   // header in which a trusted peer names the user
	JWKS         Path     `yaml:"jwks"`          // keys that verify bearer tokens
	JWT          *JWT     `yaml:"jwt"`           // in the place of jwks
	APIKeys      *APIKeys `yaml:"api_keys"`      // without it no key is known
	XFCC         bool     `yaml:"xfcc"`          // believe x-forwarded-client-cert of trusted peers
	Operations   []string `yaml:"operations"`    // protocols of which is recorded what was asked for; none given means all
	BufferLimit  Size     `yaml:"buffer_limit"`  // bodies up to it are hashed before they pass; 0 means 64KiB
	Progress     Progress `yaml:"progress"`
	OnFailure    Failure  `yaml:"on_failure"` // what happens to exchanges that cannot be recorded; empty means closed
	Forward      Forward  `yaml:"forward"`
	Receipts     Receipts `yaml:"receipts"`      // signed: answers carry receipts; with routes they say it
	ReceiptDelay Period   `yaml:"receipt_delay"` // after which a record is promised to be in the log; 0 means 1h

	Rules        []Rule  `yaml:"rules"`         // with upstream; routes have their own
	RulesDefault Default `yaml:"rules_default"` // of what no rule decides; empty means allow

	ProxyProtocol *ProxyProtocol `yaml:"proxy_protocol"` // without it connections begin with a request

	AccessLog Path `yaml:"access_log"` // file, or - for standard output; empty means none

	Timeouts ProxyTimeouts `yaml:"timeouts"`
	Limits   ProxyLimits   `yaml:"limits"`
	Rate     *Rate         `yaml:"rate"` // of each client; without it any

	Telemetry Telemetry `yaml:"telemetry"`

	Admin Admin  `yaml:"admin"`
	Drain Period `yaml:"drain"` // how long exchanges may take to end once the proxy is told to stop; 0 means 5s
}

// Progress says when exchanges that last leave records.
type Progress struct {
	Every Period `yaml:"every"` // if anything has passed meanwhile; 0 means 30s
	Bytes Size   `yaml:"bytes"` // in both directions together; 0 means 64MiB
}

// TLS configures a listener.
type TLS struct {
	Cert     Path `yaml:"cert"`
	Key      Path `yaml:"key"`
	ClientCA Path `yaml:"client_ca"` // asks for client certificates and verifies them
}

// Log configures one log server.
type Log struct {
	Listen             string  `yaml:"listen"`              // required
	Database           Path    `yaml:"database"`            // SQLite file; required
	Key                Path    `yaml:"key"`                 // signs checkpoints; its name is the log's origin; required
	PostQuantumKey     Path    `yaml:"post_quantum_key"`    // signs checkpoints beside key; of the same name
	OperatorKey        Path    `yaml:"operator_key"`        // signs the genesis of an empty database, and that post_quantum_key is the log's; not needed later
	Genesis            Path    `yaml:"genesis"`             // what an empty database begins with, in the place of operator_key: of a successor
	Policy             Path    `yaml:"policy"`              // whose cosignatures a checkpoint needs; required
	CheckpointInterval Period  `yaml:"checkpoint_interval"` // 0 means 100ms
	PruneInterval      Period  `yaml:"prune_interval"`      // between two looks at what the retention policy lets go; 0 means 1h
	OpeningsIdentity   Path    `yaml:"openings_identity"`   // age identity that opens sealed fields for readers
	Readers            Readers `yaml:"readers"`
	Limits             Limits  `yaml:"limits"`

	Storage *Storage `yaml:"storage"` // without it the log is in database
}

// Limits bound what a log takes at once.
type Limits struct {
	BatchEntries           Count  `yaml:"batch_entries"`             // 0 means 4096
	BatchBytes             Size   `yaml:"batch_bytes"`               // 0 means 8MiB
	ProducerBytesPerSecond Size   `yaml:"producer_bytes_per_second"` // of each producer, on average; 0 means 64MiB
	QueueBatches           Count  `yaml:"queue_batches"`             // that wait; 0 means 4096
	QueueBytes             Size   `yaml:"queue_bytes"`               // that wait; 0 means 64MiB
	ReadingBytes           Size   `yaml:"reading_bytes"`             // of requests that are being read; 0 means 64MiB
	PublishWait            Period `yaml:"publish_wait"`              // for a batch that asks for it; 0 means 20s
}

// Readers says who may see sealed fields. Nobody may, by default.
type Readers struct {
	Loopback bool `yaml:"loopback"` // clients on this machine
	Tokens   Path `yaml:"tokens"`   // file of lines NAME HEX-SHA-256 of bearer tokens
}

// Path is a path in the file's directory, or an absolute one.
type Path string

// URL is an absolute http or https URL.
type URL struct{ *url.URL }

// Prefix is an address range in CIDR form, or a single address.
type Prefix struct{ netip.Prefix }

// Period is a duration such as 10s or 500ms.
type Period time.Duration

// Size is a number of bytes such as 4096, 64KiB, 16MiB or 1GiB.
type Size int64

// Count is a number of things.
type Count int

// VKey is a verifier key.
type VKey struct{ keys.Public }

// Load reads and checks the file at path.
func Load(path string) (*File, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	return Parse(path, data)
}

// Parse reads and checks the content of the file at path.
func Parse(path string, data []byte) (*File, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil {
		return nil, fmt.Errorf("%w: %s: %s", ErrInvalid, path, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	f := &File{Path: path, SHA256: sha256.Sum256(data)}
	if len(root.Content) == 0 {
		return nil, fmt.Errorf("%w: %s: the file is empty", ErrInvalid, path)
	}
	f.lines = make(map[string]int)
	d := decoder{path: path, lines: f.lines}
	if err := d.decode(root.Content[0], f); err != nil {
		return nil, err
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	f.resolve(filepath.Dir(path))
	return f, nil
}

// resolve makes the paths of the file independent of the working directory.
func (f *File) resolve(dir string) {
	at := func(list ...*Path) {
		for _, p := range list {
			if *p != "" && !filepath.IsAbs(string(*p)) {
				*p = Path(filepath.Join(dir, string(*p)))
			}
		}
	}
	if p := f.Proxy; p != nil {
		at(&p.Key, &p.Policy, &p.Spool, &p.DigestKey, &p.JWKS)
		at(p.identityPaths()...)
		if p.AccessLog != "-" {
			at(&p.AccessLog)
		}
		if p.TLS != nil {
			at(&p.TLS.Cert, &p.TLS.Key, &p.TLS.ClientCA)
		}
		p.resolveUpstreams(at)
		p.Forward.resolve(at)
		if t := p.Telemetry.Traces; t != nil {
			at(&t.HeadersFile, &t.CA)
		}
	}
	if l := f.Log; l != nil {
		at(&l.Database, &l.Key, &l.PostQuantumKey, &l.OperatorKey, &l.Genesis, &l.Policy, &l.OpeningsIdentity, &l.Readers.Tokens)
		l.Storage.resolve(at)
	}
	for i := range f.Witnesses {
		f.Witnesses[i].resolve(at)
	}
}

// UnmarshalYAML implements [yaml.Unmarshaler].
func (u *URL) UnmarshalYAML(n *yaml.Node) error {
	p, err := url.Parse(n.Value)
	if err != nil || p.Scheme != "http" && p.Scheme != "https" || p.Host == "" {
		return fmt.Errorf("%q is not an http or https URL", n.Value)
	}
	u.URL = p
	return nil
}

// UnmarshalYAML implements [yaml.Unmarshaler].
func (p *Prefix) UnmarshalYAML(n *yaml.Node) error {
	var err error
	if a, bad := netip.ParseAddr(n.Value); bad == nil {
		p.Prefix = netip.PrefixFrom(a, a.BitLen())
	} else if p.Prefix, err = netip.ParsePrefix(n.Value); err != nil {
		return fmt.Errorf("%q is not an address or a range such as 10.0.0.0/8", n.Value)
	}
	// Addresses are compared in this form: a range in the other one would hold none.
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p.Prefix = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return nil
}

// UnmarshalYAML implements [yaml.Unmarshaler].
func (p *Period) UnmarshalYAML(n *yaml.Node) error {
	d, err := time.ParseDuration(n.Value)
	if err != nil || d < 0 {
		return fmt.Errorf("%q is not a duration such as 10s or 500ms", n.Value)
	}
	*p = Period(d)
	return nil
}

// UnmarshalYAML implements [yaml.Unmarshaler].
func (s *Size) UnmarshalYAML(n *yaml.Node) (err error) {
	*s, err = ParseSize(n.Value)
	return err
}

// ParseSize reads a number of bytes as it stands in a file.
func ParseSize(text string) (Size, error) {
	value, shift := text, 0
	for suffix, bits := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30} {
		if v, ok := strings.CutSuffix(value, suffix); ok {
			value, shift = strings.TrimSpace(v), bits
		}
	}
	v, err := strconv.ParseInt(value, 10, 64)
	if err != nil || v < 0 || v > 1<<62>>shift {
		return 0, fmt.Errorf("%q is not a number of bytes such as 4096, 64KiB or 1GiB", text)
	}
	return Size(v << shift), nil
}

// UnmarshalYAML implements [yaml.Unmarshaler].
func (c *Count) UnmarshalYAML(n *yaml.Node) error {
	v, err := strconv.ParseUint(n.Value, 10, 31)
	if err != nil {
		return fmt.Errorf("%q is not a number such as 4096", n.Value)
	}
	*c = Count(v)
	return nil
}

// UnmarshalYAML implements [yaml.Unmarshaler].
func (v *VKey) UnmarshalYAML(n *yaml.Node) error {
	var err error
	v.Public, err = keys.ParsePublic(n.Value)
	return err
}

package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"os"
	"strings"

	"filippo.io/age"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/proxy"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/witness/policy"
)

// proxyFiles is what the proxy section of a configuration names.
type proxyFiles struct {
	key        *keys.Private
	policy     *policy.Policy
	digestKey  []byte
	recipients []age.Recipient
	jwks       []byte
	apiKeys    []proxy.APIKey
	tls        *tls.Config

	upstreamTLS []*tls.Config // of each upstream, or nil
	forward     forwardFiles
}

func readProxyFiles(c *config.Proxy) (*proxyFiles, error) {
	f := new(proxyFiles)
	var err error
	if f.key, err = loadKey("proxy.key", string(c.Key), keys.Ed25519); err != nil {
		return nil, err
	}
	if f.policy, err = loadPolicy("proxy.policy", string(c.Policy)); err != nil {
		return nil, err
	}
	if f.digestKey, err = loadDigestKey(string(c.DigestKey)); err != nil {
		return nil, err
	}
	for _, s := range c.OpeningsTo {
		r, err := age.ParseX25519Recipient(s)
		if err != nil {
			return nil, usagef("proxy.openings_to: %q is not an age recipient", s)
		}
		f.recipients = append(f.recipients, r)
	}
	if err := readIdentityFiles(c, f); err != nil {
		return nil, err
	}
	if f.upstreamTLS, err = readUpstreamTLS(c); err != nil {
		return nil, err
	}
	if f.forward, err = readForward(&c.Forward); err != nil {
		return nil, err
	}
	if t := c.Telemetry.Traces; t != nil {
		if _, err := (&said{Traces: *t}).read(); err != nil {
			return nil, err
		}
	}
	if c.TLS != nil {
		f.tls, err = loadTLS(c.TLS)
	}
	return f, err
}

func loadKey(key, path string, t keys.Type) (*keys.Private, error) {
	k, err := keys.Load(path)
	if err != nil {
		return nil, usagef("%s: %w", key, err)
	}
	if k.Type != t {
		return nil, usagef("%s: %s holds a key of signature type 0x%02x, 0x%02x is wanted", key, path, byte(k.Type), byte(t))
	}
	return k, nil
}

func loadPolicy(key, path string) (*policy.Policy, error) {
	data, err := readBounded(path)
	if err != nil {
		return nil, usagef("%s: %w", key, err)
	}
	p, err := policy.Parse(data)
	if err != nil {
		return nil, usagef("%s: %s: %w", key, path, err)
	}
	return p, nil
}

func loadDigestKey(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, usagef("proxy.digest_key: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) < 32 {
		return nil, usagef("proxy.digest_key: %s does not hold 32 bytes or more in hexadecimal", path)
	}
	return key, nil
}

func loadTLS(c *config.TLS) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(string(c.Cert), string(c.Key))
	if err != nil {
		return nil, usagef("proxy.tls: %w", err)
	}
	t := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	if c.ClientCA != "" {
		pem, err := os.ReadFile(string(c.ClientCA))
		if err != nil {
			return nil, usagef("proxy.tls.client_ca: %w", err)
		}
		t.ClientCAs = x509.NewCertPool()
		if !t.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, usagef("proxy.tls.client_ca: %s holds no certificate", c.ClientCA)
		}
		t.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return t, nil
}

// logFiles is what the log section of a configuration names.
type logFiles struct {
	begin      [][]byte // the first entries of a successor
	key        *keys.Private
	quantum    *keys.Private // the post-quantum key; nil if none is named
	operator   *keys.Private // nil if none is named
	policy     *policy.Policy
	identities []age.Identity
	tokens     [][32]byte
}

func readLogFiles(c *config.Log) (*logFiles, error) {
	f := new(logFiles)
	var err error
	if f.key, err = loadKey("log.key", string(c.Key), keys.Ed25519); err != nil {
		return nil, err
	}
	if c.OperatorKey != "" {
		if f.operator, err = loadKey("log.operator_key", string(c.OperatorKey), keys.Ed25519); err != nil {
			return nil, err
		}
	}
	if c.Genesis != "" {
		if f.begin, err = loadBeginning(string(c.Genesis)); err != nil {
			return nil, err
		}
	}
	if f.policy, err = loadPolicy("log.policy", string(c.Policy)); err != nil {
		return nil, err
	}
	if c.PostQuantumKey != "" {
		if f.quantum, err = loadKey("log.post_quantum_key", string(c.PostQuantumKey), keys.MLDSA44); err != nil {
			return nil, err
		}
		if f.quantum.Name != f.key.Name {
			return nil, usagef("log.post_quantum_key: its name is %s, that of log.key is %s: make one with sealtap keygen --post-quantum %s", f.quantum.Name, f.key.Name, f.key.Name)
		}
		if f.policy, err = tlog.OwnPolicy(f.policy, f.key, f.quantum); err != nil {
			return nil, usagef("log.policy: %w", err)
		}
	}
	if c.OpeningsIdentity != "" {
		r, err := os.Open(string(c.OpeningsIdentity))
		if err != nil {
			return nil, usagef("log.openings_identity: %w", err)
		}
		defer r.Close()
		if f.identities, err = age.ParseIdentities(r); err != nil {
			return nil, usagef("log.openings_identity: %s does not hold an age identity", c.OpeningsIdentity)
		}
	}
	f.tokens, err = loadTokens(string(c.Readers.Tokens))
	return f, err
}

// loadTokens reads the digests of readers' tokens.
func loadTokens(path string) (list [][32]byte, err error) {
	if path == "" {
		return nil, nil
	}
	sums, err := loadSums("log.readers.tokens", path)
	for _, s := range sums {
		list = append(list, s.sum)
	}
	return list, err
}

package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/proxy"
)

// readIdentityFiles reads what says who requests come from.
func readIdentityFiles(c *config.Proxy, f *proxyFiles) (err error) {
	if c.JWKS != "" {
		if f.jwks, err = os.ReadFile(string(c.JWKS)); err != nil {
			return usagef("proxy.jwks: %w", err)
		}
	}
	if c.JWT != nil && c.JWT.JWKS != "" {
		if f.jwks, err = os.ReadFile(string(c.JWT.JWKS)); err != nil {
			return usagef("proxy.jwt.jwks: %w", err)
		}
	}
	if c.APIKeys != nil {
		list, err := loadSums("proxy.api_keys.keys", string(c.APIKeys.Keys))
		if err != nil {
			return err
		}
		for _, s := range list {
			f.apiKeys = append(f.apiKeys, proxy.APIKey{Name: s.name, SHA256: s.sum})
		}
	}
	return nil
}

// setIdentity tells a proxy who requests come from.
func setIdentity(p *proxy.Config, c *config.Proxy, f *proxyFiles) {
	p.XFCC = c.XFCC
	if f.jwks != nil {
		p.JWT = &proxy.JWT{Keys: f.jwks}
	}
	if j := c.JWT; j != nil {
		p.JWT = &proxy.JWT{
			Keys: f.jwks, Issuers: j.Issuers, Audiences: j.Audiences, Claims: j.Claims, Leeway: time.Duration(j.Leeway),
			IDClaim: j.IDClaim, Header: j.Header, Cookie: j.Cookie,
		}
		if j.JWKSURL.URL != nil {
			p.JWT.KeysURL = j.JWKSURL.String()
		}
	}
	if k := c.APIKeys; k != nil {
		p.APIKeys = &proxy.APIKeys{Header: k.Header, Query: k.Query, Keys: f.apiKeys}
	}
	if c.ProxyProtocol != nil {
		for _, t := range c.ProxyProtocol.From {
			p.ProxyProtocol = append(p.ProxyProtocol, t.Prefix)
		}
	}
}

type namedSum struct {
	name string
	sum  [sha256.Size]byte
}

// loadSums reads lines NAME HEX-SHA-256; a line that starts with # is a comment.
func loadSums(key, path string) (list []namedSum, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, usagef("%s: %w", key, err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for n := 1; s.Scan(); n++ {
		fields := strings.Fields(s.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		var e namedSum
		if len(fields) != 2 || len(fields[1]) != hex.EncodedLen(len(e.sum)) {
			return nil, usagef("%s: %s:%d: a line reads NAME HEX-SHA-256", key, path, n)
		}
		if _, err := hex.Decode(e.sum[:], []byte(fields[1])); err != nil {
			return nil, usagef("%s: %s:%d: a line reads NAME HEX-SHA-256", key, path, n)
		}
		e.name = fields[0]
		list = append(list, e)
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return list, nil
}

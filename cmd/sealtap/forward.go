package main

import (
	"bufio"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/proxy"
	"github.com/sealtap/sealtap/proxy/intercept"
)

// forwardFiles is what the forward section of a proxy names.
type forwardFiles struct {
	users     proxy.Users
	authority *intercept.Authority
	roots     *x509.CertPool
}

func readForward(c *config.Forward) (f forwardFiles, err error) {
	if c.Users != "" {
		if f.users, err = loadUsers(string(c.Users)); err != nil {
			return f, err
		}
	}
	i := c.Intercept
	if i == nil {
		return f, nil
	}
	cert, err := os.ReadFile(string(i.CACert))
	if err != nil {
		return f, usagef("proxy.forward.intercept.ca_cert: %w", err)
	}
	key, err := os.ReadFile(string(i.CAKey))
	if err != nil {
		return f, usagef("proxy.forward.intercept.ca_key: %w", err)
	}
	if f.authority, err = intercept.Load(cert, key); err != nil {
		return f, usagef("proxy.forward.intercept: %s with %s: %w", i.CACert, i.CAKey, err)
	}
	if i.Roots != "" {
		pem, err := os.ReadFile(string(i.Roots))
		if err != nil {
			return f, usagef("proxy.forward.intercept.roots: %w", err)
		}
		f.roots = x509.NewCertPool()
		if !f.roots.AppendCertsFromPEM(pem) {
			return f, usagef("proxy.forward.intercept.roots: %s holds no certificate", i.Roots)
		}
	}
	return f, nil
}

// loadUsers reads lines NAME HEX-SHA-256; a line that starts with # is a comment.
func loadUsers(path string) (proxy.Users, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, usagef("proxy.forward.users: %w", err)
	}
	defer f.Close()
	users := make(proxy.Users)
	s := bufio.NewScanner(f)
	for n := 1; s.Scan(); n++ {
		fields := strings.Fields(s.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		var sum [sha256.Size]byte
		if len(fields) != 2 || strings.Contains(fields[0], ":") || len(fields[1]) != hex.EncodedLen(len(sum)) {
			return nil, usagef("proxy.forward.users: %s:%d: a line reads NAME HEX-SHA-256, and a name has no colon", path, n)
		}
		if _, err := hex.Decode(sum[:], []byte(fields[1])); err != nil {
			return nil, usagef("proxy.forward.users: %s:%d: a line reads NAME HEX-SHA-256", path, n)
		}
		if _, twice := users[fields[0]]; twice {
			return nil, usagef("proxy.forward.users: %s:%d: %s comes twice", path, n, fields[0])
		}
		users[fields[0]] = sum
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(users) == 0 {
		return nil, usagef("proxy.forward.users: %s names nobody", path)
	}
	return users, nil
}

// addForward says what a forward proxy reaches.
func addForward(p *proxy.Config, c *config.Forward, f *forwardFiles) {
	w := &p.Forward
	for _, t := range c.Allow {
		w.AllowCIDRs = append(w.AllowCIDRs, t.Prefix)
	}
	for _, t := range c.Deny {
		w.DenyCIDRs = append(w.DenyCIDRs, t.Prefix)
	}
	for _, r := range c.Ports {
		w.Ports = append(w.Ports, r.Ports)
	}
	w.AllowHosts, w.DenyHosts = c.Hosts.Allow, c.Hosts.Deny
	w.Users, w.RequireUser = f.users, c.RequireUser
	if i := c.Intercept; i != nil {
		w.Intercept = &proxy.Intercept{Authority: f.authority, Hosts: i.Hosts, Except: i.Except, Roots: f.roots}
	}
}

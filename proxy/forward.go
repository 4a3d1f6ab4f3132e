package proxy

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proxy/hosts"
)

// Users are those who may use a forward proxy: SHA-256 of the password by name.
type Users map[string][sha256.Size]byte

// check reports whether a name and a password are those of a user. It takes as
// long for a name that is none.
func (u Users) check(name, password string) bool {
	want, known := u[name]
	got := sha256.Sum256([]byte(password))
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1 && known
}

// The names of decisions in records.
const (
	ruleUser  = "forward.require_user"
	ruleForm  = "forward.form" // of the target: what can be read in two ways
	rulePorts = "forward.ports"
	ruleAllow = "forward.hosts.allow"
	ruleDeny  = "forward.hosts.deny"
)

// DefaultPorts are the ports that a forward proxy reaches without further
// configuration: those of the web, and none of other services with a number
// below 1024 (mail, say), which could be talked to through a tunnel.
func DefaultPorts() []hosts.Ports {
	return []hosts.Ports{{From: 80, To: 80}, {From: 443, To: 443}, {From: 1024, To: 65535}}
}

// forwarding is what a forward proxy knows of its rules.
type forwarding struct {
	ports       []hosts.Ports
	allow, deny hosts.Set
	configured  bool // something of it is, so that what passes leaves its decision too
	intercept   *interception
}

func (p *Proxy) newForwarding() error {
	c, f := &p.cfg.Forward, &p.forwarding
	var err error
	if f.allow, err = hosts.Parse(c.AllowHosts); err != nil {
		return fmt.Errorf("%w: forward.hosts.allow: %w", ErrConfig, err)
	}
	if f.deny, err = hosts.Parse(c.DenyHosts); err != nil {
		return fmt.Errorf("%w: forward.hosts.deny: %w", ErrConfig, err)
	}
	if c.RequireUser && len(c.Users) == 0 {
		return fmt.Errorf("%w: forward.require_user: there are no users", ErrConfig)
	}
	f.configured = c.Ports != nil || !f.allow.Empty() || !f.deny.Empty() || c.RequireUser
	if f.ports = c.Ports; f.ports == nil {
		f.ports = DefaultPorts()
	}
	f.intercept, err = newInterception(c.Intercept)
	return err
}

// verdict is what the rules of a forward proxy say about a request.
type verdict struct {
	rule    string // empty if none of them said anything
	allowed bool
	status  int // of the answer to what is not allowed
	why     string
}

// admit asks the rules of a forward proxy about a request. If they do not let it
// through the client is told, and admit reports false.
func (x *exchange) admit() bool {
	if x.p.reverse() || x.conn.inside != nil {
		return true // inside a tunnel it has been asked when that was opened
	}
	h, port, err := hosts.Split(x.r.Host, 80)
	if errors.Is(err, hosts.ErrPort) {
		x.refuse(http.StatusBadRequest, "the target has no valid port")
		return false
	}
	v := x.judge(h, port, err)
	x.verdict = v
	if v.status != 0 {
		x.deny(v.status, codeDenied, v.why)
		return false
	}
	return true
}

func (x *exchange) judge(h hosts.Host, port uint16, err error) verdict {
	f := &x.p.forwarding
	if x.p.cfg.Forward.RequireUser && x.proxyUser().id == "" {
		return verdict{ruleUser, false, http.StatusProxyAuthRequired, "this proxy needs to know its user"}
	}
	if err != nil {
		return verdict{ruleForm, false, http.StatusForbidden, "the target is denied: " + err.Error()}
	}
	deny := func(rule, why string) verdict {
		return verdict{rule, false, http.StatusForbidden, "the target is denied: " + why}
	}
	open := false
	for _, r := range f.ports {
		open = open || r.Contains(port)
	}
	switch {
	case !open:
		return deny(rulePorts, fmt.Sprintf("port %d is not among those that are reached", port))
	case f.deny.Match(h):
		return deny(ruleDeny, "its host is among those that are not reached")
	case !f.allow.Empty() && !f.allow.Match(h):
		return deny(ruleAllow, "its host is not among those that are reached")
	case !f.configured:
		return verdict{}
	}
	passed := verdict{allowed: true}
	switch c := &x.p.cfg.Forward; {
	case !f.allow.Empty():
		passed.rule = ruleAllow
	case !f.deny.Empty():
		passed.rule = ruleDeny
	case c.Ports != nil:
		passed.rule = rulePorts
	default:
		passed.rule = ruleUser
	}
	return passed
}

// captureVerdict records what the rules said.
func (x *exchange) captureVerdict(q *sealtapv1.Request) {
	if x.verdict.rule != "" {
		q.Decision = &sealtapv1.Decision{Rule: x.verdict.rule, Allowed: x.verdict.allowed}
	}
	if u := x.conn.socks; u != nil && u.name != "" {
		x.credential("socks5", "password", u.name+":"+u.password)
	}
}

// who returns who a request comes from; its id is empty if nothing says so. A
// user that a forward proxy verified itself wins; what a tunnel was opened for
// counts for what is said inside.
func (x *exchange) who() identity {
	if user := x.proxyUser(); user.id != "" {
		return user
	}
	if found := x.identify(); found.id != "" {
		return found
	}
	switch {
	case x.conn.inside != nil:
		return x.conn.inside.who
	case x.conn.socks != nil:
		return identity{id: x.conn.socks.name, how: howSOCKS}
	}
	return identity{}
}

// howSOCKS is the value of Who.how of users of SOCKS5.
const howSOCKS = "socks"

// proxyUser returns a user that this proxy verified by its password, or for a
// request inside a tunnel who that was opened for, if that was verified.
func (x *exchange) proxyUser() identity {
	if in := x.conn.inside; in != nil {
		if in.who.verified {
			return in.who
		}
		return identity{}
	}
	users := x.p.cfg.Forward.Users
	if len(users) == 0 || x.p.reverse() {
		return identity{}
	}
	if u := x.conn.socks; u != nil {
		if u.name != "" && users.check(u.name, u.password) {
			return identity{id: u.name, how: howSOCKS, verified: true}
		}
		return identity{}
	}
	values := x.r.Header["Proxy-Authorization"]
	if len(values) != 1 {
		return identity{}
	}
	scheme, credential, _ := strings.Cut(values[0], " ")
	plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(credential))
	name, password, ok := strings.Cut(string(plain), ":")
	if strings.EqualFold(scheme, "basic") && err == nil && ok && users.check(name, password) {
		return identity{id: name, how: howBasic, verified: true}
	}
	return identity{}
}

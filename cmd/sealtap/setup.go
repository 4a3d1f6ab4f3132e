package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"filippo.io/age"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/durable"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness/policy"
)

// dataDir is the directory of sealtap up: everything it knows, under one lock.
type dataDir struct {
	path string
	lock *os.File
}

// ownFiles are the names that a first run makes before config.yaml, which comes
// last: a directory with these alone was left by a first run that was cut short.
var ownFiles = []string{"LOCK", "keys", "policy.txt"}

// openDataDir takes the directory for this process. It refuses one with other
// people's files before it touches anything, and addresses that cannot be had before
// it makes one.
func openDataDir(path string, f upFlags) (*dataDir, error) {
	names, err := os.ReadDir(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, usagef("--dir: %w", err)
	}
	_, err = config.Load(filepath.Join(path, "config.yaml"))
	if errors.Is(err, fs.ErrNotExist) {
		for _, n := range names {
			if !slices.Contains(ownFiles, n.Name()) && !strings.HasPrefix(n.Name(), ".new-") {
				return nil, usagef("%s is not a data directory of sealtap: it has no config.yaml, but %s; say --dir with a new or empty directory", path, n.Name())
			}
		}
		s := setup{Listen: f.listen, LogListen: f.logListen}
		if err := s.chooseAddresses(); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, usagef("--dir %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Join(path, "keys"), 0o700); err != nil {
		return nil, usagef("--dir: %w", err)
	}
	lock, err := durable.Lock(filepath.Join(path, "LOCK"))
	if errors.Is(err, durable.ErrLocked) {
		return nil, usagef("%s is in use by another sealtap; stop it, or say --dir with another directory", path)
	} else if err != nil {
		return nil, usagef("--dir: %w", err)
	}
	return &dataDir{path, lock}, nil
}

func (d *dataDir) close() { d.lock.Close() }

func (d *dataDir) file(name ...string) string {
	return filepath.Join(append([]string{d.path}, name...)...)
}

// upFlags are the flags of sealtap up; an empty one leaves what config.yaml says.
type upFlags struct {
	upstream, listen, logListen string
}

// prepare makes the directory's keys, policy and configuration where they are
// not there yet, and returns the configuration with the flags applied.
func (d *dataDir) prepare(f upFlags) (*config.File, error) {
	path := d.file("config.yaml")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := d.firstRun(f); err != nil {
			return nil, err
		}
	} else if err := d.change(f); err != nil {
		return nil, err
	}
	c, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	if c.Proxy == nil || c.Log == nil || len(c.Witnesses) == 0 {
		return nil, usagef("%s: sealtap up runs a proxy, a log and witnesses, and not all are in it; run the parts with sealtap proxy, log and witness", path)
	}
	return c, nil
}

// setup fills the template of a first configuration.
type setup struct {
	Upstream, Listen, LogListen, LogURL, Recipient string
	Witnesses                                      []setupWitness
	LogKey                                         keys.Public
}

type setupWitness struct {
	Name, Listen string
	key          keys.Public
}

func (d *dataDir) firstRun(f upFlags) error {
	s := setup{Upstream: f.upstream, Listen: f.listen, LogListen: f.logListen}
	if err := s.chooseAddresses(); err != nil {
		return err
	}
	// Any name will do that no other log has: witnesses tell logs apart by it.
	id := make([]byte, 4)
	_, _ = rand.Read(id)
	origin := "sealtap.local/" + hex.EncodeToString(id)
	logKey, err := d.key("log", origin, keys.Ed25519)
	if err != nil {
		return err
	}
	s.LogKey = logKey.Public
	operator, err := d.key("operator", logKey.Name+"/operator", keys.Ed25519)
	if err != nil {
		return err
	}
	if _, err = d.key("proxy", "proxy", keys.Ed25519); err != nil {
		return err
	}
	for i := range s.Witnesses {
		w := &s.Witnesses[i]
		k, err := d.key(w.Name, logKey.Name+"/"+w.Name, keys.Cosignature)
		if err != nil {
			return err
		}
		w.key = k.Public
	}
	if s.Recipient, err = d.secrets(); err != nil {
		return err
	}
	if err := d.writePolicy(s, operator.Public); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := configTemplate.Execute(&b, s); err != nil {
		return fmt.Errorf("writing configuration: %w", err)
	}
	return d.replace("config.yaml", b.Bytes())
}

// key makes a signing key, or finds the one that a first run left that was cut
// short: that one keeps its name.
func (d *dataDir) key(file, name string, t keys.Type) (*keys.Private, error) {
	path := d.file("keys", file+".key")
	k, err := keys.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		if k, err = keys.Generate(name, t); err == nil {
			err = k.Save(path)
		}
	}
	return k, err
}

// secrets makes the key of credential digests and the identity that opens sealed
// fields, and returns the recipient of the latter.
func (d *dataDir) secrets() (recipient string, err error) {
	digest := make([]byte, 32)
	_, _ = rand.Read(digest)
	err = durable.Create(d.file("keys", "digest.key"), []byte(hex.EncodeToString(digest)+"\n"), 0o600)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return "", fmt.Errorf("making age identity: %w", err)
	}
	path := d.file("keys", "openings.key")
	err = durable.Create(path, []byte(id.String()+"\n"), 0o600)
	if err == nil {
		return id.Recipient().String(), nil
	} else if !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	list, err := age.ParseIdentities(f)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", path, err)
	}
	if x, ok := list[0].(*age.X25519Identity); ok {
		return x.Recipient().String(), nil
	}
	return "", fmt.Errorf("reading %s: not an X25519 identity", path)
}

func (d *dataDir) writePolicy(s setup, operator keys.Public) error {
	var list []policy.Witness
	all := policy.Group{Name: "all-witnesses", K: len(s.Witnesses)}
	for _, w := range s.Witnesses {
		list = append(list, policy.Witness{Name: w.Name, Key: w.key, URL: "http://" + w.Listen})
		all.Members = append(all.Members, w.Name)
	}
	p, err := policy.New([]policy.Log{{Key: s.LogKey, URL: s.LogURL}}, list, []policy.Group{all}, all.Name, &operator)
	if err != nil {
		return fmt.Errorf("writing policy: %w", err)
	}
	text := "# Trust policy (C2SP tlog-policy): the log, and the witnesses who must all have cosigned a\n" +
		"# head for it to count. Give this file to auditors: it holds public keys only.\n" +
		"# These witnesses run beside the log and are not independent: add others.\n" + p.String()
	return d.replace("policy.txt", []byte(text))
}

// replace writes a file whole or not at all.
func (d *dataDir) replace(name string, data []byte) error {
	if err := durable.Replace(d.file(name), data, 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// chooseAddresses settles where everything listens. The witnesses take the ports
// after the log's where those are free.
func (s *setup) chooseAddresses() error {
	if s.Listen == "" {
		s.Listen = defaultListen
	}
	if s.LogListen == "" {
		s.LogListen = defaultLogListen
	}
	var err error
	if s.Listen, err = settle("--listen", s.Listen); err != nil {
		return err
	}
	if s.LogListen, err = settle("--log-listen", s.LogListen); err != nil {
		return err
	}
	_, text, _ := net.SplitHostPort(s.LogListen)
	port, _ := strconv.Atoi(text)
	taken := []string{s.Listen, s.LogListen}
	for i := range 2 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port+1+i))
		if slices.Contains(taken, addr) || !free(addr) {
			if addr, err = settle("a witness", "127.0.0.1:0"); err != nil {
				return err
			}
		}
		taken = append(taken, addr)
		s.Witnesses = append(s.Witnesses, setupWitness{Name: "w" + strconv.Itoa(i+1), Listen: addr})
	}
	s.LogURL = "http://" + reachable(s.LogListen)
	return nil
}

// settle checks an address and gives a port to one with port 0, so that it is the
// same again after a restart.
func settle(flag, addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", usagef("%s %q is not an address such as 127.0.0.1:8080", flag, addr)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", usagef("%s: %w", flag, err)
	}
	defer l.Close()
	if port == "0" {
		port = strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	}
	return net.JoinHostPort(host, port), nil
}

func free(addr string) bool {
	l, err := net.Listen("tcp", addr)
	if err == nil {
		l.Close()
	}
	return err == nil
}

// reachable turns an address to listen on into one to connect to.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// change applies flags to the configuration of an earlier run, and keeps the rest
// of it, comments included. An address that cannot be had changes nothing.
func (d *dataDir) change(f upFlags) error {
	if f == (upFlags{}) {
		return nil
	}
	path := d.file("config.yaml")
	old, err := os.ReadFile(path)
	if err != nil {
		return usageError{err}
	}
	c, err := config.Parse(path, old)
	if err != nil {
		return err
	}
	edits := make(map[string]string)
	if f.upstream != "" {
		edits["proxy.upstream"] = f.upstream
	}
	if f.listen != "" && (c.Proxy == nil || f.listen != c.Proxy.Listen) {
		if edits["proxy.listen"], err = settle("--listen", f.listen); err != nil {
			return err
		}
	}
	if f.logListen != "" && (c.Log == nil || f.logListen != c.Log.Listen) {
		if edits["log.listen"], err = settle("--log-listen", f.logListen); err != nil {
			return err
		}
		edits["proxy.log"] = "http://" + reachable(edits["log.listen"])
	}
	data, err := config.Edit(path, old, edits)
	if err != nil || bytes.Equal(data, old) {
		return err
	}
	if to, ok := edits["proxy.log"]; ok && c.Proxy != nil {
		if err := d.movePolicy(c.Proxy.Log.String(), to); err != nil {
			return err
		}
	}
	return d.replace("config.yaml", data)
}

// movePolicy tells those who read policy.txt that the log has another URL.
func (d *dataDir) movePolicy(from, to string) error {
	text, err := os.ReadFile(d.file("policy.txt"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the configuration names another one
	} else if err != nil {
		return usageError{err}
	}
	lines := strings.SplitAfter(string(text), "\n")
	for i, l := range lines {
		if f := strings.Fields(l); len(f) == 3 && f[0] == "log" && f[2] == from {
			lines[i] = "log " + f[1] + " " + to + "\n"
		}
	}
	if moved := strings.Join(lines, ""); moved != string(text) {
		return d.replace("policy.txt", []byte(moved))
	}
	return nil
}

// checkUpstream checks --upstream before anything is written.
func checkUpstream(s string) error {
	if s == "" {
		return nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return usagef("--upstream %q is not a URL such as http://127.0.0.1:9000", s)
	case u.User != nil:
		return usagef("--upstream: a user name or password does not belong into the URL")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return usagef("--upstream %q: only a path can stand behind the host", s)
	}
	return nil
}

var configTemplate = template.Must(template.New("config").Parse(`# What sealtap up runs here. Each section also runs on its own, on another machine if you like:
#   sealtap proxy --config FILE, sealtap log --config FILE, sealtap witness --config FILE --name NAME
# docs/configuration.md describes every key; sealtap config check FILE checks the file.

proxy:
  listen: {{.Listen}}
{{- if .Upstream}}
  upstream: {{.Upstream}}
{{- else}}
  # upstream: http://127.0.0.1:9000   # without it, a forward proxy (curl -x, HTTP_PROXY)
{{- end}}
  key: keys/proxy.key
  log: {{.LogURL}}
  policy: policy.txt
  spool: spool
  digest_key: keys/digest.key
  openings_to: [{{.Recipient}}]
  heartbeat: 10s
  # timeouts: {response_idle: 5m}     # how long to wait for more of an answer: longer for streams that are seldom heard of
  # limits: {body_bytes: 1GiB, body_rate: 100, connections: 16384, connections_per_client: 4096}
  # rate: {per_second: 100, burst: 200, by: address}   # requests of each client

log:
  listen: {{.LogListen}}
  database: log.db
  key: keys/log.key
  operator_key: keys/operator.key   # needed once, for the first entry and to enrol the proxy: keep it elsewhere then
  policy: policy.txt
  openings_identity: keys/openings.key
  readers:
    loopback: true   # whoever is on this machine sees sealed fields: set it to false before you put a proxy in front

witnesses:
{{- range .Witnesses}}
  - name: {{.Name}}
    listen: {{.Listen}}
    database: {{.Name}}.db
    key: keys/{{.Name}}.key
    logs: ["{{$.LogKey}}"]
{{- end}}
`))

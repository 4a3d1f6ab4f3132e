// Package cluster runs on one machine what a log on Trillian is made of: PostgreSQL,
// Trillian's log server and signer, log servers of sealtap that share the log,
// witnesses, and proxies that each hand over to another log server.
//
// Start with [Up].
package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"filippo.io/age"

	"github.com/sealtap/sealtap/interop/internal/stack"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/storage/postgres/pgtest"
	"github.com/sealtap/sealtap/storage/trillian"
	"github.com/sealtap/sealtap/storage/trillian/trilliantest"
	"github.com/sealtap/sealtap/witness/policy"
)

// Cluster is everything, running.
type Cluster struct {
	Dir        string
	Bin        string // sealtap
	PolicyFile string
	Policy     *policy.Policy
	Postgres   *pgtest.Server
	Trillian   *trilliantest.Cluster
	Logs       []*Node
	Witnesses  []*Node
	Proxies    []*Node
	Relays     []*Relay // between each log server and PostgreSQL
	Twin       *Node    // nil without one

	recipient string
	databases []string // addresses, as each log server reaches it
	tree      int64
	logLines  string
	host      string // on which all but the log servers listen
	trillian  string // where log servers reach Trillian
	links     []link // of each log server; empty unless they are apart
}

// Node is one server of sealtap.
type Node struct {
	*stack.Process
	URL    string
	Addr   string
	Config string // file
	bin    string
	args   []string
	within []string // command that runs it somewhere else
}

// Options say how much of it there is.
type Options struct {
	Logs, Witnesses, Proxies int
	Upstream                 string // of the proxies
	Disk                     string // directory for PostgreSQL; empty means in memory
	SQLite                   bool   // one log server, and the log in a file: to be migrated
	Twin                     bool   // beside them a log server of the same keys and the same beginning, and the log in a file
	LogLines                 string // further lines of the section log
	// Apart puts each log server into a network namespace of its own, where it has one link
	// to the database and one to all else. Only root can.
	Apart bool
	// Before returns the URL of what stands before a witness at an address, on the same host;
	// nil: nothing does.
	Before func(host, addr string) (url string, err error)
}

// Up starts a cluster in an empty directory. sealtap is the binary at bin.
func Up(bin, dir string, o Options) (_ *Cluster, err error) {
	c := &Cluster{Dir: dir, Bin: bin, PolicyFile: filepath.Join(dir, "policy.txt"), logLines: o.LogLines, host: "127.0.0.1"}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Down())
		}
	}()
	if err := os.MkdirAll(filepath.Join(dir, "keys"), 0o700); err != nil {
		return nil, err
	}
	if c.Postgres, err = pgtest.New(o.Disk); err != nil {
		return nil, err
	}
	if o.Apart {
		if err := c.apart(o.Logs); err != nil {
			return nil, err
		}
	}
	if c.Trillian, err = trilliantest.New(c.Postgres, dir); err != nil {
		return nil, err
	}
	if c.trillian, err = c.reachTrillian(); err != nil {
		return nil, err
	}
	if err := c.make(o); err != nil {
		return nil, err
	}
	for _, w := range c.Witnesses {
		if err := w.Start(); err != nil {
			return nil, err
		}
	}
	for _, l := range c.servers() {
		if err := l.Start(); err != nil {
			return nil, err
		}
	}
	if err := c.Await("the first checkpoint", time.Minute, func() bool { return c.Published(0) > 0 }); err != nil {
		return nil, err
	}
	for i, p := range c.Proxies {
		if _, err := c.Run("enrol", c.keyFile(fmt.Sprintf("proxy%d", i))+".pub", "--log", c.Logs[0].URL, "--policy", c.PolicyFile,
			"--operator-key", c.keyFile("operator")); err != nil {
			return nil, err
		}
		if err := p.Start(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// servers are all log servers.
func (c *Cluster) servers() []*Node {
	if c.Twin == nil {
		return c.Logs
	}
	return append(c.Logs[:len(c.Logs):len(c.Logs)], c.Twin)
}

// Down ends everything.
func (c *Cluster) Down() error {
	var errs []error
	for _, list := range [][]*Node{c.Proxies, c.servers(), c.Witnesses} {
		for _, n := range list {
			if n.Process != nil {
				errs = append(errs, n.Stop())
			}
		}
	}
	for _, r := range c.Relays {
		r.Close()
	}
	for _, l := range c.links {
		errs = append(errs, l.remove())
	}
	if c.Trillian != nil {
		c.Trillian.Close()
	}
	if c.Postgres != nil {
		c.Postgres.Close()
	}
	return errors.Join(errs...)
}

// Start starts the server, and waits until it listens.
func (n *Node) Start() (err error) {
	command := append(append([]string(nil), n.within...), append([]string{n.bin}, n.args...)...)
	if n.Process, err = stack.Start(nil, command[0], command[1:]...); err != nil {
		return err
	}
	return n.Await("listening", time.Minute, func() bool {
		conn, err := net.DialTimeout("tcp", n.Addr, time.Second)
		if err == nil {
			conn.Close()
		}
		return err == nil && strings.Contains(n.Output(), "listens on")
	})
}

// Run runs sealtap to its end, and returns what it printed.
func (c *Cluster) Run(args ...string) (string, error) {
	out, err := exec.Command(c.Bin, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("sealtap %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// Await waits until something is so.
func (c *Cluster) Await(what string, limit time.Duration, ready func() bool) error {
	for end := time.Now().Add(limit); !ready(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("waiting for %s: not after %v: %s", what, limit, c.outputs())
		}
	}
	return nil
}

func (c *Cluster) outputs() string {
	var b strings.Builder
	for _, n := range c.Logs {
		if n.Process != nil {
			out := n.Output()
			fmt.Fprintf(&b, "\n%s: %s", n.Addr, out[max(0, len(out)-2000):])
		}
	}
	return b.String()
}

// Published is how many entries a log server shows, 0 if it shows none.
func (c *Cluster) Published(i int) (size uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	signed, err := stack.Fetch(ctx, c.Logs[i].URL+"/checkpoint")
	if err != nil {
		return 0
	}
	cp, err := c.Policy.Verify(signed)
	if err != nil {
		return 0
	}
	return cp.Size
}

// Writer returns the number of the log server that writes, -1 if none does.
func (c *Cluster) Writer() int {
	for i := range c.Logs {
		if c.Writes(i) {
			return i
		}
	}
	return -1
}

// Writes reports whether a log server writes.
func (c *Cluster) Writes(i int) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	b, err := stack.Fetch(ctx, c.Logs[i].URL+"/metrics")
	return err == nil && strings.Contains(string(b), "\nsealtap_log_writing 1")
}

// Exchange sends a request through a proxy.
func (c *Cluster) Exchange(i int, path string) (status int, exchange string, err error) {
	client := &http.Client{Timeout: 20 * time.Second}
	resp, err := client.Get(c.Proxies[i].URL + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Header.Get("Sealtap-Exchange"), err
}

func (c *Cluster) keyFile(name string) string { return filepath.Join(c.Dir, "keys", name+".key") }

func (c *Cluster) key(file, name string, t keys.Type) (*keys.Private, error) {
	k, err := keys.Generate(name, t)
	if err != nil {
		return nil, err
	}
	if err := k.Save(c.keyFile(file)); err != nil {
		return nil, err
	}
	return k, os.WriteFile(c.keyFile(file)+".pub", []byte(k.Public.String()+"\n"), 0o644)
}

// make makes keys, the policy, the tree and the configurations.
func (c *Cluster) make(o Options) error {
	logKey, err := c.key("log", "cluster.example/log", keys.Ed25519)
	if err != nil {
		return err
	}
	operator, err := c.key("operator", "cluster.example/operator", keys.Ed25519)
	if err != nil {
		return err
	}
	if err := c.secrets(); err != nil {
		return err
	}
	for i := range o.Logs {
		host := c.host
		if o.Apart {
			host = c.links[i].rest.there
		}
		if err := c.node(&c.Logs, host); err != nil {
			return err
		}
	}
	if err := c.witnesses(o, logKey.Public, operator.Public); err != nil {
		return err
	}
	if c.tree, err = trillian.CreateTree(context.Background(), trillian.Config{Address: c.Trillian.Address}, logKey.Name); err != nil {
		return err
	}
	database, err := c.Postgres.NewName()
	if err != nil {
		return err
	}
	if o.Twin {
		if err := c.twin(logKey.Public, operator); err != nil {
			return err
		}
	}
	for i := range c.Logs {
		if err := c.reachDatabase(i, database); err != nil {
			return err
		}
		if err := c.configureLog(i, o.SQLite); err != nil {
			return err
		}
	}
	for i := range o.Proxies {
		if err := c.proxy(i, o.Upstream); err != nil {
			return err
		}
	}
	return nil
}

// Ports are taken below those that the kernel gives to outgoing connections: a server
// that was killed finds its own free again.
func (c *Cluster) node(list *[]*Node, host string) error {
	for range 200 {
		var b [2]byte
		_, _ = rand.Read(b[:])
		addr := fmt.Sprintf("%s:%d", host, 12000+(int(b[0])<<8|int(b[1]))%18000)
		ln, err := net.Listen("tcp", addr)
		if err == nil {
			ln.Close()
		} else if !errors.Is(err, syscall.EADDRNOTAVAIL) { // that one is in a namespace
			continue
		}
		*list = append(*list, &Node{Addr: addr, URL: "http://" + addr, bin: c.Bin})
		return nil
	}
	return errors.New("no port is free")
}

func (c *Cluster) secrets() error {
	digest := make([]byte, 32)
	_, _ = rand.Read(digest)
	if err := os.WriteFile(c.keyFile("digest"), []byte(hex.EncodeToString(digest)+"\n"), 0o600); err != nil {
		return err
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
	c.recipient = id.Recipient().String()
	return os.WriteFile(c.keyFile("openings"), []byte(id.String()+"\n"), 0o600)
}

func (c *Cluster) write(n *Node, name, text string, args ...string) error {
	n.Config = filepath.Join(c.Dir, name+".yaml")
	n.args = append(args, "--config", n.Config)
	return os.WriteFile(n.Config, []byte(text), 0o600)
}

// witnesses makes witnesses, two thirds of which have to agree.
func (c *Cluster) witnesses(o Options, log, operator keys.Public) error {
	var list []policy.Witness
	n := o.Witnesses
	if n == 0 {
		return c.writePolicy(log, operator, nil, nil, policy.None)
	}
	group := policy.Group{Name: "quorum", K: max(1, (2*n+2)/3)}
	for i := range n {
		name := fmt.Sprintf("w%d", i)
		k, err := c.key(name, "cluster.example/"+name, keys.Cosignature)
		if err != nil {
			return err
		}
		if err := c.node(&c.Witnesses, c.host); err != nil {
			return err
		}
		w := c.Witnesses[i]
		if o.Before != nil {
			if w.URL, err = o.Before(c.host, w.Addr); err != nil {
				return err
			}
		}
		list, group.Members = append(list, policy.Witness{Name: name, Key: k.Public, URL: w.URL}), append(group.Members, name)
		if err := c.write(w, name, fmt.Sprintf("witnesses:\n  - name: %s\n    listen: %s\n    database: %s.db\n    key: keys/%s.key\n    logs: [%q]\n",
			name, w.Addr, name, name, log.String()), "witness"); err != nil {
			return err
		}
	}
	return c.writePolicy(log, operator, list, []policy.Group{group}, group.Name)
}

func (c *Cluster) writePolicy(log, operator keys.Public, list []policy.Witness, groups []policy.Group, quorum string) (err error) {
	if c.Policy, err = policy.New([]policy.Log{{Key: log, URL: c.Logs[0].URL}}, list, groups, quorum, &operator); err != nil {
		return err
	}
	return os.WriteFile(c.PolicyFile, []byte(c.Policy.String()), 0o644)
}

// configureLog writes the configuration of a log server.
func (c *Cluster) configureLog(i int, inFile bool) error {
	storage := ""
	if !inFile {
		storage = fmt.Sprintf("  storage:\n    trillian:\n      address: %s\n      tree_id: %d\n      postgres: %q\n", c.trillian, c.tree, c.databases[i])
		if len(c.links) > 0 {
			storage += "      advertise: " + c.links[i].url + "\n"
		}
	}
	return c.writeLog(c.Logs[i], fmt.Sprintf("log%d", i), storage)
}

func (c *Cluster) writeLog(n *Node, name, lines string) error {
	return c.write(n, name, fmt.Sprintf(`log:
  listen: %s
  database: %s.db
  key: keys/log.key
  operator_key: keys/operator.key
  policy: policy.txt
  openings_identity: keys/openings.key
  readers: {loopback: true}
%s%s`, n.Addr, name, lines, c.logLines), "log")
}

// MoveToTrillian has the configuration of log server 0 say that its log is in Trillian.
func (c *Cluster) MoveToTrillian() error { return c.configureLog(0, false) }

func (c *Cluster) proxy(i int, upstream string) error {
	name := fmt.Sprintf("proxy%d", i)
	if _, err := c.key(name, name, keys.Ed25519); err != nil {
		return err
	}
	if err := c.node(&c.Proxies, c.host); err != nil {
		return err
	}
	return c.write(c.Proxies[i], name, fmt.Sprintf(`proxy:
  listen: %s
  upstream: %s
  key: keys/%s.key
  log: %s
  policy: policy.txt
  spool: spool%d
  digest_key: keys/digest.key
  openings_to: [%s]
  heartbeat: 1s
`, c.Proxies[i].Addr, upstream, name, c.Logs[i%len(c.Logs)].URL, i, c.recipient), "proxy")
}

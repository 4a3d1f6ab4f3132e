package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// ErrNoNamespaces is wrapped where a machine does not let us have network namespaces.
var ErrNoNamespaces = errors.New("network namespaces are not to be had here")

// link is the namespace of a log server with its two links.
type link struct {
	namespace      string
	database, rest wire
	url            string // where other log servers reach it
}

// wire is a link between this host and a namespace. Its addresses are reserved for tests
// of networks (RFC 2544), a /30 for each.
type wire struct {
	device, peer string // here and there
	network      string
	here, there  string // addresses
}

// apart makes namespaces and links, and has PostgreSQL listen on them.
func (c *Cluster) apart(n int) error {
	// 16 addresses for each process that does this at a time, behind those of partition.
	base := os.Getpid() % 4096 * 16
	address := func(i int) string { return fmt.Sprintf("198.19.%d.%d", (base+i)>>8, (base+i)&0xff) }
	var listen []string
	hba := "local all all trust\n"
	for i := range n {
		name := fmt.Sprintf("stx%x-%d", os.Getpid(), i)
		l := link{namespace: name,
			database: wire{name + "d", "database", address(8*i) + "/30", address(8*i + 1), address(8*i + 2)},
			rest:     wire{name + "r", "rest", address(8*i+4) + "/30", address(8*i + 5), address(8*i + 6)}}
		c.links = append(c.links, l)
		if err := l.make(); err != nil {
			return err
		}
		listen = append(listen, l.database.here)
		hba += "host all all " + l.database.there + "/32 trust\n"
	}
	file, err := c.Postgres.Write("hba.conf", []byte(hba))
	if err != nil {
		return err
	}
	if err := c.Postgres.Set("listen_addresses="+strings.Join(listen, ","), "hba_file="+file); err != nil {
		return err
	}
	// Every namespace finds the rest here, whichever link it is on.
	c.host = c.links[0].rest.here
	return nil
}

// reachTrillian returns where log servers reach Trillian.
func (c *Cluster) reachTrillian() (string, error) {
	if len(c.links) == 0 {
		return c.Trillian.Address, nil
	}
	r, err := newRelay(c.host, "tcp", c.Trillian.Address)
	if err != nil {
		return "", err
	}
	c.Relays = append(c.Relays, r)
	return r.Addr, nil
}

// reachDatabase settles how a log server reaches the database, and others it.
func (c *Cluster) reachDatabase(i int, database string) error {
	if len(c.links) == 0 {
		r, err := newRelay(c.host, "unix", c.Postgres.Socket())
		if err != nil {
			return err
		}
		c.Relays, c.databases = append(c.Relays, r), append(c.databases, fmt.Sprintf("postgres://sealtap@%s/%s?sslmode=disable", r.Addr, database))
		return nil
	}
	r, err := newRelay(c.host, "tcp", c.Logs[i].Addr)
	if err != nil {
		return err
	}
	l := &c.links[i]
	c.Relays, l.url = append(c.Relays, r), "http://"+r.Addr
	c.databases = append(c.databases, fmt.Sprintf("postgres://sealtap@%s/%s?sslmode=disable", l.database.here, database))
	c.Logs[i].within = []string{"ip", "netns", "exec", l.namespace}
	return nil
}

// Cut has all packets between a log server and the database vanish, until Heal.
func (c *Cluster) Cut(i int) error { return ip("link", "set", c.links[i].database.device, "down") }

// Heal lets packets pass again.
func (c *Cluster) Heal(i int) error { return ip("link", "set", c.links[i].database.device, "up") }

// Source is the address from which a log server that is apart reaches all but the database.
func (c *Cluster) Source(i int) string { return c.links[i].rest.there }

func (l link) make() error {
	if err := ip("netns", "add", l.namespace); err != nil {
		return fmt.Errorf("%w: %w", ErrNoNamespaces, err)
	}
	if err := ip("-n", l.namespace, "link", "set", "lo", "up"); err != nil {
		return err
	}
	for _, w := range []wire{l.database, l.rest} {
		if err := w.make(l.namespace); err != nil {
			return err
		}
	}
	return ip("-n", l.namespace, "route", "add", "default", "via", l.rest.here)
}

func (w wire) make(namespace string) error {
	if err := ip("link", "add", w.device, "type", "veth", "peer", "name", w.peer, "netns", namespace); err != nil {
		return fmt.Errorf("%w: %w", ErrNoNamespaces, err)
	}
	for _, args := range [][]string{
		{"addr", "add", w.here + "/30", "dev", w.device},
		{"link", "set", w.device, "up"},
		{"-n", namespace, "addr", "add", w.there + "/30", "dev", w.peer},
		{"-n", namespace, "link", "set", w.peer, "up"},
		// While the link is down nothing goes another way.
		{"route", "add", "blackhole", w.network, "metric", "4096"},
	} {
		if err := ip(args...); err != nil {
			return err
		}
	}
	mac, err := os.ReadFile("/sys/class/net/" + w.device + "/address")
	if err != nil {
		return err
	}
	// Nobody is told that the other end does not answer.
	return ip("-n", namespace, "neigh", "replace", w.here, "lladdr", strings.TrimSpace(string(mac)), "dev", w.peer, "nud", "permanent")
}

// remove gives back what was made, as far as it was.
func (l link) remove() error {
	for _, w := range []wire{l.database, l.rest} {
		_ = ip("route", "del", "blackhole", w.network, "metric", "4096")
		_ = ip("link", "del", w.device) // it goes with the namespace, but later
	}
	_ = ip("netns", "del", l.namespace)
	if list, err := exec.Command("ip", "netns", "list").Output(); err == nil && bytes.Contains(list, []byte(l.namespace)) {
		return fmt.Errorf("network namespace %s is still there", l.namespace)
	}
	return nil
}

func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

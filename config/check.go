package config

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	leastSpool     = 4 << 20 // four segments of 1 MiB
	leastHeartbeat = 100_000_000
	leastPrune     = 100_000_000
	leastProgress  = 100_000_000

	leastProgressBytes = 64 << 10

	mostBuffer = 64 << 20 // a body of that size is held for every exchange

	// A proxy sends up to so much in one batch; refused, it could never get past it.
	leastBatchEntries = 3072
	leastBatchBytes   = 4 << 20
	mostBatchBytes    = 256 << 20      // a batch is held in memory
	mostQueueBatches  = 1 << 20        // the queue has its places from the start
	mostPublishWait   = 50_000_000_000 // the server takes a client for gone whose request began a minute ago
)

// checker finds what is wrong with values that were well-formed. It keeps the
// first error: one line for the user.
type checker struct {
	file *File
	err  error
}

// fail notes that something is wrong with a key such as proxy.listen. A key that
// is not there is looked for where its section starts.
func (c *checker) fail(key, format string, args ...any) {
	if c.err != nil {
		return
	}
	where := c.file.Path
	for k := key; k != ""; k = parent(k) {
		if line := c.file.lines[k]; line > 0 {
			where += ":" + strconv.Itoa(line)
			break
		}
	}
	c.err = fmt.Errorf("%w: %s: %s%w", ErrInvalid, where, key, fmt.Errorf(format, args...))
}

func parent(key string) string {
	for i := len(key) - 1; i >= 0; i-- {
		if key[i] == '.' {
			return key[:i]
		}
	}
	return ""
}

// needed checks that keys of a section are set.
func (c *checker) needed(section string, keys ...need) {
	for _, n := range keys {
		if !n.set {
			c.fail(section+"."+n.key, " is required")
		}
	}
}

// need is a key that a section cannot do without.
type need struct {
	key string
	set bool
}

func (c *checker) address(key, addr string) {
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		c.fail(key, ": %q is not an address such as 127.0.0.1:8080", addr)
	}
}

// listener takes sockets too, in the file system and of systemd.
func (c *checker) listener(key, addr string) {
	path, socket := strings.CutPrefix(addr, "unix:")
	name, passed := strings.CutPrefix(addr, "fd:")
	switch {
	case passed && name == "":
		c.fail(key, ": a socket that systemd passes reads fd:NAME or fd:3")
	case passed:
	case !socket:
		c.address(key, addr)
	case !filepath.IsAbs(path):
		c.fail(key, ": %q is not a socket such as unix:/run/sealtap.sock", addr)
	}
}

// url refuses what is not for a URL to say: passwords are files.
func (c *checker) url(key string, u URL) {
	switch {
	case u.URL == nil:
	case u.User != nil:
		c.fail(key, ": a user name or password does not belong into the URL")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		c.fail(key, ": only a path can stand behind the host")
	}
}

func (f *File) check() error {
	c := &checker{file: f}
	if f.Proxy == nil && f.Log == nil && len(f.Witnesses) == 0 {
		return fmt.Errorf("%w: %s: it has none of the sections proxy, log and witnesses", ErrInvalid, f.Path)
	}
	if f.Proxy != nil {
		c.proxy(f.Proxy)
	}
	if l := f.Log; l != nil {
		c.needed("log", need{"listen", l.Listen != ""}, need{"database", l.Database != ""}, need{"key", l.Key != ""}, need{"policy", l.Policy != ""})
		c.address("log.listen", l.Listen)
		if l.PruneInterval != 0 && l.PruneInterval < leastPrune {
			c.fail("log.prune_interval", ": it is at least 100ms")
		}
		c.limits(l.Limits)
		c.storage(l)
	}
	c.witnesses(f.Witnesses)
	return c.err
}

func (c *checker) limits(l Limits) {
	if l.BatchEntries != 0 && l.BatchEntries < leastBatchEntries {
		c.fail("log.limits.batch_entries", ": a proxy sends up to 3072 entries in a batch, so it is at least that")
	}
	if l.BatchBytes != 0 && l.BatchBytes < leastBatchBytes || l.BatchBytes > mostBatchBytes {
		c.fail("log.limits.batch_bytes", ": a proxy sends up to 4MiB in a batch, and each is held in memory: from 4MiB to 256MiB")
	}
	if l.QueueBatches > mostQueueBatches {
		c.fail("log.limits.queue_batches", ": it is at most %d", mostQueueBatches)
	}
	if l.PublishWait > mostPublishWait {
		c.fail("log.limits.publish_wait", ": it is at most 50s, for the server gives a request a minute")
	}
}

func (c *checker) proxy(p *Proxy) {
	c.needed("proxy", need{"listen", p.Listen != ""}, need{"key", p.Key != ""}, need{"log", p.Log.URL != nil},
		need{"policy", p.Policy != ""}, need{"spool", p.Spool != ""}, need{"digest_key", p.DigestKey != ""}, need{"openings_to", len(p.OpeningsTo) > 0})
	c.listener("proxy.listen", p.Listen)
	c.routes(p)
	c.policies(p)
	c.forward(p)
	c.url("proxy.upstream", p.Upstream)
	c.url("proxy.log", p.Log)
	if p.TLS != nil {
		c.needed("proxy.tls", need{"cert", p.TLS.Cert != ""}, need{"key", p.TLS.Key != ""})
	}
	c.identity(p)
	c.life(p)
	c.bounds(p)
	c.telemetry(p)
	for _, field := range p.Seal {
		switch field {
		case "source", "query", "headers", "path", "who":
		default:
			c.fail("proxy.seal", ": %q cannot be sealed; source, query, headers, path and who can", field)
		}
	}
	c.operations(p.Operations)
	c.receipts(p)
	if p.SpoolMaxBytes != 0 && p.SpoolMaxBytes < leastSpool {
		c.fail("proxy.spool_max_bytes", ": a spool needs at least 4MiB")
	}
	if p.Heartbeat != 0 && p.Heartbeat < leastHeartbeat {
		c.fail("proxy.heartbeat", ": it is at least 100ms")
	}
	if e := p.Progress.Every; e != 0 && e < leastProgress {
		c.fail("proxy.progress.every", ": it is at least 100ms")
	}
	if b := p.Progress.Bytes; b != 0 && b < leastProgressBytes {
		c.fail("proxy.progress.bytes", ": it is at least 64KiB")
	}
	if p.BufferLimit > mostBuffer {
		c.fail("proxy.buffer_limit", ": it is at most 64MiB, for every exchange may take that much memory")
	}
}

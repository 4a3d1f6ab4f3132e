package config

// Admin says where operators look at a proxy.
type Admin struct {
	Listen string `yaml:"listen"` // address, or unix:/path/to/socket; empty means nowhere
}

const (
	leastDrain = 100_000_000
	mostDrain  = 3600_000_000_000
)

// life checks what a proxy does from its start to its end.
func (c *checker) life(p *Proxy) {
	if p.Admin.Listen != "" {
		c.listener("proxy.admin.listen", p.Admin.Listen)
		if p.Admin.Listen == p.Listen {
			c.fail("proxy.admin.listen", ": it is the address of proxy.listen: choose another")
		}
	}
	if d := p.Drain; d != 0 && (d < leastDrain || d > mostDrain) {
		c.fail("proxy.drain", ": it is from 100ms to 1h")
	}
}

// Fault returns an error about a key such as proxy.listen, with its line.
func (f *File) Fault(key, format string, args ...any) error {
	c := &checker{file: f}
	c.fail(key, format, args...)
	return c.err
}

package config

import "github.com/sealtap/sealtap/proxy/meaning"

// operations checks the protocols of which is recorded what was asked for.
func (c *checker) operations(protocols []string) {
	if _, err := meaning.Parse(protocols); err != nil {
		c.fail("proxy.operations", ": %w", err)
	}
}

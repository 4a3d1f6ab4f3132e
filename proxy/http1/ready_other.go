//go:build !unix

package http1

// prepare does nothing here: connections keep their buffer while they wait.
func (c *conn) prepare() {}

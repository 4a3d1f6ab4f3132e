package trilliantest

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Another starts one more log server over the same database, with further flags, and
// returns its address. It logs in a directory.
func (c *Cluster) Another(dir string, flags ...string) (*Process, string, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, "", err
	}
	args := slices.DeleteFunc(slices.Clone(c.Server.args), func(s string) bool { return strings.HasPrefix(s, "--rpc_endpoint=") })
	p := &Process{path: c.Server.path, log: filepath.Join(dir, "trillian_log_server."+strings.ReplaceAll(addr, ":", ".")+".log"),
		args: append(append(args, "--rpc_endpoint="+addr), flags...)}
	if err := p.Run(); err != nil {
		return nil, "", err
	}
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			return p, addr, conn.Close()
		}
		if time.Now().After(end) {
			p.Kill()
			return nil, "", fmt.Errorf("another log server of Trillian does not start: %w", err)
		}
	}
}

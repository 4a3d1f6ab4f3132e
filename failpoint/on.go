//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// plan is what the environment says, read once.
var plan = sync.OnceValue(func() *spec { return parse(os.Getenv("SEALTAP_FAILPOINT")) })

type spec struct {
	name, action string
	count        int64
	passed       atomic.Int64
}

// parse returns nil for a text that is no specification. A test that expects the
// process to end notices.
func parse(text string) *spec {
	f := strings.Split(text, ":")
	if len(f) != 2 && len(f) != 3 {
		return nil
	}
	n, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil {
		return nil
	}
	return &spec{name: f[0], count: n, action: strings.Join(f[2:], "")}
}

// Here marks a step.
func Here(name string) {
	s := plan()
	if s == nil || s.name != name || s.passed.Add(1) != s.count {
		return
	}
	switch s.action {
	case "group":
		_ = syscall.Kill(0, syscall.SIGKILL)
	case "":
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
	case "stall":
		fmt.Fprintln(os.Stderr, "stalled at", name)
	}
	select {} // nothing more of this goroutine
}

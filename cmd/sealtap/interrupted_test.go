package main

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// asking ADDR PATH sends a request there, and neither waits for its answer nor hangs up
// before the script ends.
func asking(ts *testscript.TestScript, neg bool, args []string) {
	c, err := net.Dial("tcp", args[0])
	ts.Check(err)
	ts.Defer(func() { c.Close() })
	_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", args[1])
	ts.Check(err)
}

// suspend FILE suspends the process with the number in the file, until somebody lets it go
// on; after half a minute it does so by itself, lest a story that fails waits for it.
func suspend(ts *testscript.TestScript, neg bool, args []string) {
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[0])))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGSTOP))
	time.AfterFunc(30*time.Second, func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
}

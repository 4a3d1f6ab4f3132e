package main

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// holding ADDR begins a request there, and ends it no sooner than the script ends.
func holding(ts *testscript.TestScript, neg bool, args []string) {
	c, err := net.Dial("tcp", args[0])
	ts.Check(err)
	ts.Defer(func() { c.Close() })
	// The interim answer says that the request is being served.
	_, err = io.WriteString(c, "POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
	ts.Check(err)
	ts.Check(c.SetReadDeadline(time.Now().Add(20 * time.Second)))
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	ts.Check(err)
	if !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 100 ") {
		ts.Fatalf("%q", buf[:n])
	}
}

// answers URL STATUS TEXT waits for an answer with the status and the text.
func answers(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		res, err := http.Get(args[0])
		ts.Check(err)
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		ts.Check(err)
		if res.StatusCode == want && strings.Contains(string(body), args[2]) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%s %s", res.Status, body)
		}
	}
}

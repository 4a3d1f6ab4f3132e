package main

import (
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// send ADDR REQUEST STATUS sends a request, which is a Go string without its
// quotes, byte by byte as it stands, and wants the status. The exchange is in
// $SENT.
func send(ts *testscript.TestScript, neg bool, args []string) {
	request, err := strconv.Unquote(`"` + args[1] + `"`)
	ts.Check(err)
	conn, err := net.Dial("tcp", args[0])
	ts.Check(err)
	defer conn.Close()
	ts.Check(conn.SetDeadline(time.Now().Add(10 * time.Second)))
	_, err = io.WriteString(conn, request)
	ts.Check(err)
	answer, err := io.ReadAll(conn)
	ts.Check(err)
	text := string(answer)
	if !strings.HasPrefix(text, "HTTP/1.1 "+args[2]+" ") {
		ts.Fatalf("%s", text)
	}
	_, rest, _ := strings.Cut(text, "\r\nSealtap-Exchange: ")
	id, _, _ := strings.Cut(rest, "\r\n")
	ts.Setenv("SENT", id)
}

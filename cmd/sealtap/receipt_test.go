package main

import (
	"net/http"
	"net/http/httputil"
	"os"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// dump URL FILE writes the answer to a GET of the URL into the file, as curl -i does.
func dump(ts *testscript.TestScript, neg bool, args []string) {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get(args[0])
		if err == nil {
			text, err := httputil.DumpResponse(resp, true)
			resp.Body.Close()
			ts.Check(err)
			ts.Check(os.WriteFile(ts.MkAbs(args[1]), text, 0o600))
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%v", err)
		}
	}
}

// expand FILE CONFIG puts the script's variables into the file, and the recipient of
// openings of another configuration for RECIPIENT.
func expand(ts *testscript.TestScript, neg bool, args []string) {
	_, rest, _ := strings.Cut(ts.ReadFile(args[1]), "openings_to: [")
	recipient, _, _ := strings.Cut(rest, "]")
	text := strings.ReplaceAll(os.Expand(ts.ReadFile(args[0]), ts.Getenv), "RECIPIENT", recipient)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

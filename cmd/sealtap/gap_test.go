package main

import (
	"net/http"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// unrecorded URL asks until an answer says that its exchange is not recorded;
// ! unrecorded until one says that it is.
func unrecorded(ts *testscript.TestScript, neg bool, args []string) {
	for end := time.Now().Add(30 * time.Second); ; {
		resp, err := http.Get(args[0])
		ts.Check(err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			ts.Fatalf("GET %s: %s", args[0], resp.Status)
		}
		recorded := resp.Header.Get("Sealtap-Exchange") != ""
		if recorded == (resp.Header.Get("Sealtap-Unrecorded") == "true") {
			ts.Fatalf("it is neither recorded nor not: %v", resp.Header)
		}
		if recorded == neg {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("it stays so: %v", resp.Header)
		}
	}
}

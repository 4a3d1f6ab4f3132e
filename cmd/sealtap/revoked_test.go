package main

import (
	"net/http"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// refused URL VAR waits until the proxy lets nothing pass, since it cannot be
// recorded, and sets the variable to the id of the exchange that did not happen.
func refused(ts *testscript.TestScript, neg bool, args []string) {
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get(args[0])
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Sealtap-Error") == "audit-unavailable" {
				ts.Setenv(args[1], resp.Header.Get("Sealtap-Exchange"))
				return
			}
		}
		if time.Now().After(end) {
			ts.Fatalf("GET %s is not refused: %v, %v", args[0], resp, err)
		}
	}
}

package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/sealtap/sealtap/proxy/intercept"
)

// tlsUpstream ADDR CERT KEY answers over TLS with a leaf of an authority.
func tlsUpstream() {
	err := func() error {
		cert, err := os.ReadFile(os.Args[2])
		if err != nil {
			return err
		}
		key, err := os.ReadFile(os.Args[3])
		if err != nil {
			return err
		}
		a, err := intercept.Load(cert, key)
		if err != nil {
			return err
		}
		host, _, err := net.SplitHostPort(os.Args[1])
		if err != nil {
			return err
		}
		srv := &http.Server{
			Addr: os.Args[1],
			TLSConfig: &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				return a.Leaf(host)
			}},
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "private %s\n", r.URL.Path) }),
		}
		return srv.ListenAndServeTLS("", "")
	}()
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

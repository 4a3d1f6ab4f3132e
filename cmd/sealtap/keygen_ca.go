package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/sealtap/sealtap/durable"
	"github.com/sealtap/sealtap/proxy/intercept"
)

const day = 24 * time.Hour

// makeAuthority writes a certificate authority for interception.
func makeAuthority(w io.Writer, name, out string, permit []string, days int) error {
	const mostDays = 3650
	if days < 1 || days > mostDays {
		return usagef("--days %d: it is 1 to %d", days, mostDays)
	}
	if out == "" {
		out = fileName(name) + ".ca.key"
	}
	cert, key, err := intercept.Create(name, permit, time.Duration(days)*day)
	if err != nil {
		return usagef("--permit: %w", err)
	}
	certFile := strings.TrimSuffix(out, ".key") + ".crt"
	for _, f := range []struct {
		path string
		data []byte
		mode fs.FileMode
	}{{out, key, 0o600}, {certFile, cert, 0o644}} {
		if err := durable.Create(f.path, f.data, f.mode); errors.Is(err, fs.ErrExist) {
			return usagef("%s exists: a key is never overwritten; say --out FILE", f.path)
		} else if err != nil {
			return fmt.Errorf("saving the authority: %w", err)
		}
	}
	fmt.Fprintf(w, "wrote the authority's key to %s and its certificate to %s\n", out, certFile)
	if len(permit) == 0 {
		fmt.Fprintln(w, "whoever has the key can pretend to be any host to those who trust the certificate; --permit DOMAIN limits that")
	}
	return nil
}

package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"

	"github.com/sealtap/sealtap/web"
)

// writePage writes the page that verifies evidence in a browser.
func writePage(w io.Writer, file string) error {
	text := web.Verifier()
	if file == "-" {
		_, err := w.Write(text)
		return err
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return usageError{err}
	}
	fmt.Fprintf(w, "wrote %s: open it in a browser, and give it a policy and an evidence file\n  SHA-256 %x\n", file, sha256.Sum256(text))
	return nil
}

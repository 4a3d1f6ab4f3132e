package main

import (
	"fmt"
	"io"
	"os"
)

// mostEvidence bounds what is read of a file that somebody hands over to have it
// verified.
const mostEvidence = 32 << 20

// readBounded reads a file of at most mostEvidence bytes.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, mostEvidence+1))
	if err == nil && len(b) > mostEvidence {
		err = fmt.Errorf("%s has more than %d bytes, which no evidence has", path, mostEvidence)
	}
	return b, err
}

package main

import (
	"fmt"
	"io"
	"os"
)

// mostRead bounds what is read of a file that somebody hands over, to have it
// verified or to verify with it.
const mostRead = 32 << 20

// readBounded reads a file of at most mostRead bytes.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, mostRead+1))
	if err == nil && len(b) > mostRead {
		err = fmt.Errorf("%s has more than %d bytes, which no such file has", path, mostRead)
	}
	return b, err
}

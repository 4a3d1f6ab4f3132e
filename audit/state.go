package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/durable"
	"github.com/sealtap/sealtap/witness/policy"
)

// loadState returns the checkpoint in the state file, or nil if there is no file
// yet. The witnesses may have changed since it was written, so it is only asked
// to be the log's.
func loadState(path string, p *policy.Policy) (*policy.Checkpoint, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading audit state: %w: %w", ErrConfig, err)
	}
	cp, err := p.VerifyLogOnly(b)
	if err != nil {
		return nil, fmt.Errorf("reading audit state: %w: %s holds no checkpoint of a log of this policy: %w", ErrConfig, path, err)
	}
	return cp, nil
}

// saveState writes the checkpoint durably: the file is the old one or the new
// one, whatever happens.
func saveState(path string, signed []byte) error {
	if err := durable.Replace(path, signed, 0o600); err != nil {
		return fmt.Errorf("writing audit state: %w", err)
	}
	return nil
}

// signatures counts the signature lines of a signed note.
func signatures(signed []byte) int {
	text, err := checkpoint.Text(signed)
	if err != nil {
		return 0
	}
	return bytes.Count(signed[len(text):], []byte("— "))
}

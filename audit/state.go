package audit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"strings"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/durable"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/witness/policy"
)

// loadState returns the checkpoint in the state file, or nil if there is no file
// yet. The witnesses may have changed since it was written, so it is only asked
// to be the log's.
func loadState(path string, p *policy.Policy) (cp *policy.Checkpoint, edge []record.Hash, err error) {
	if path == "" {
		return nil, nil, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading audit state: %w: %w", ErrConfig, err)
	}
	b, lines, more := bytes.Cut(b, []byte(stateHeader))
	if cp, err = p.VerifyLogOnly(b); err != nil {
		return nil, nil, fmt.Errorf("reading audit state: %w: %s holds no checkpoint of a log of this policy: %w", ErrConfig, path, err)
	}
	for line := range strings.Lines(string(lines)) {
		h, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSuffix(line, "\n"))
		if err != nil || len(h) != len(record.Hash{}) {
			return nil, nil, fmt.Errorf("reading audit state: %w: %s holds a line that is no hash; delete the file if you do not need what it remembers", ErrConfig, path)
		}
		edge = append(edge, record.Hash(h))
	}
	if more && bits.OnesCount64(cp.Size/tileWidth) != len(edge) {
		return nil, nil, fmt.Errorf("reading audit state: %w: %s holds %d hashes for %d entries; delete the file if you do not need what it remembers", ErrConfig, path, len(edge), cp.Size)
	}
	return cp, edge, nil
}

// stateHeader stands in the state file between the checkpoint and the right edge of
// the tree of its whole bundles, one hash a line. With that it can be compared even
// with a log that was pruned beyond it.
const stateHeader = "\nsealtap/audit-state/v1\n"

// saveState writes the checkpoint durably: the file is the old one or the new
// one, whatever happens.
func saveState(path string, signed []byte, edge []record.Hash) error {
	text := append(signed[:len(signed):len(signed)], stateHeader...)
	for _, h := range edge {
		text = append(text, b64(h)+"\n"...)
	}
	if err := durable.Replace(path, text, 0o600); err != nil {
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

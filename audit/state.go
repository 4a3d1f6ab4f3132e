package audit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"os"
	"strings"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/durable"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/witness/policy"
)

// state is what an audit remembers of one that passed.
type state struct {
	head *policy.Checkpoint // nil if nothing is remembered
	// edge is of the tree of the head's whole bundles; nil if it is not known.
	edge []record.Hash
	// last is the newest statement of the operator that was seen; nil if that is
	// not known.
	last *stated
}

// loadState returns what the state file remembers, nothing if there is no file
// yet. The witnesses may have changed since it was written, so its checkpoint is
// only asked to be the log's.
func loadState(path string, p *policy.Policy) (s state, err error) {
	if path == "" {
		return state{}, nil
	}
	b, err := readState(path)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	}
	if err != nil {
		return state{}, fmt.Errorf("reading audit state: %w: %w", ErrConfig, err)
	}
	b, lines, more := bytes.Cut(b, []byte(stateHeader))
	if s.head, err = p.VerifyLogOnly(b); err != nil {
		return state{}, fmt.Errorf("reading audit state: %w: %s holds no checkpoint of a log of this policy: %w", ErrConfig, path, err)
	}
	for line := range strings.Lines(string(lines)) {
		if line = strings.TrimSuffix(line, "\n"); s.last == nil && strings.HasPrefix(line, statementsWord) {
			if s.last = parseStated(line); s.last != nil {
				continue
			}
		}
		h, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(h) != len(record.Hash{}) || s.last != nil {
			return state{}, fmt.Errorf("reading audit state: %w: %s holds a line that is no hash; delete the file if you do not need what it remembers", ErrConfig, path)
		}
		s.edge = append(s.edge, record.Hash(h))
	}
	if more && bits.OnesCount64(s.head.Size/tileWidth) != len(s.edge) {
		return state{}, fmt.Errorf("reading audit state: %w: %s holds %d hashes for %d entries; delete the file if you do not need what it remembers", ErrConfig, path, len(s.edge), s.head.Size)
	}
	return s, nil
}

// maxState bounds a state file: a checkpoint, and a line for each bit of its size.
const maxState = 1 << 20

func readState(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err == nil && len(b) > maxState {
		err = fmt.Errorf("%s has more than %d bytes, which no state file has", path, maxState)
	}
	return b, err
}

// stateHeader stands in the state file between the checkpoint and the right edge of
// the tree of its whole bundles, one hash a line. With that it can be compared even
// with a log that was pruned beyond it. The last line is that of the operator's newest
// statement, which such a log could leave out.
const stateHeader = "\nsealtap/audit-state/v1\n"

// saveState writes what is to be remembered durably: the file is the old one or
// the new one, whatever happens.
func saveState(path string, s state) error {
	signed := s.head.Note
	text := append(signed[:len(signed):len(signed)], stateHeader...)
	for _, h := range s.edge {
		text = append(text, b64(h)+"\n"...)
	}
	if s.last != nil {
		text = append(text, s.last.line()+"\n"...)
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

// StateCheckpoint returns the signed checkpoint in the text of a state file; of
// another text, all of it.
func StateCheckpoint(text []byte) []byte {
	signed, _, _ := bytes.Cut(text, []byte(stateHeader))
	return signed
}

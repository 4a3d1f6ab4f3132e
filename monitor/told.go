package monitor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/durable"
)

// mostTold bounds what is remembered: the oldest is forgotten, and told again
// should it still be so.
const mostTold = 10_000

// told is what was alerted to, in its file.
type told struct {
	path  string
	saved []byte

	Matched *uint64  `json:"matched,omitempty"` // entries that the rules have seen
	Keys    []string `json:"told"`              // oldest first

	Undelivered []undelivered `json:"undelivered,omitempty"` // oldest first
}

func loadTold(path string) (*told, error) {
	t := &told{path: path}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: reading what was alerted to: %w", audit.ErrConfig, err)
	}
	if err := json.Unmarshal(b, t); err != nil {
		return nil, fmt.Errorf("%w: %s is damaged: %w; delete it, and everything that is still so is told again", audit.ErrConfig, path, err)
	}
	t.saved = b
	return t, nil
}

// add notes a key and reports whether it is new.
func (t *told) add(key string) bool {
	if slices.Contains(t.Keys, key) {
		return false
	}
	if t.Keys = append(t.Keys, key); len(t.Keys) > mostTold {
		t.Keys = t.Keys[1:]
	}
	return true
}

// drop forgets a key: what it stands for has ended.
func (t *told) drop(key string) {
	t.Keys = slices.DeleteFunc(t.Keys, func(k string) bool { return k == key })
}

// save writes the file, if anything has changed.
func (t *told) save() error {
	b, err := json.Marshal(t)
	if err != nil || bytes.Equal(b, t.saved) {
		return err
	}
	if err := durable.Replace(t.path, b, 0o600); err != nil {
		return fmt.Errorf("remembering what was alerted to: %w", err)
	}
	t.saved = b
	return nil
}

// key tells findings apart. Its words are not part of it: they hold ages.
func key(f audit.Finding) string {
	s := string(f.Code) + " " + string(f.Severity)
	if f.Index != nil {
		s += fmt.Sprintf(" at %d", *f.Index)
	}
	if f.Sequence != nil {
		s += fmt.Sprintf(" %s %s %d", f.ProducerKey, f.Incarnation, *f.Sequence)
	}
	return s
}

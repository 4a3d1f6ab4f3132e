package keys

import (
	"fmt"
	"os"

	"github.com/sealtap/sealtap/durable"
)

// Load reads the signing key in the file at path.
func Load(path string) (*Private, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading signing key: %w", err)
	}
	k, err := ParsePrivate(string(b))
	if err != nil {
		return nil, fmt.Errorf("reading signing key %s: %w", path, err)
	}
	return k, nil
}

// Save writes the key to a new file at path, readable by its owner only, and
// its vkey to path with ".pub" appended. It never overwrites a key.
func (p *Private) Save(path string) error {
	if err := durable.Create(path, []byte(p.Encode()+"\n"), 0o600); err != nil {
		return fmt.Errorf("saving signing key: %w", err)
	}
	if err := durable.Replace(path+".pub", []byte(p.Public.String()+"\n"), 0o644); err != nil {
		return fmt.Errorf("saving verifier key: %w", err)
	}
	return nil
}

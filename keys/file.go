package keys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
	if err := WriteSecret(path, []byte(p.Encode()+"\n")); err != nil {
		return fmt.Errorf("saving signing key: %w", err)
	}
	if err := os.WriteFile(path+".pub", []byte(p.Public.String()+"\n"), 0o644); err != nil {
		return fmt.Errorf("saving verifier key: %w", err)
	}
	return nil
}

// LoadOrGenerate reads the key at path, or makes one where there is none.
func LoadOrGenerate(path, name string, t Type) (*Private, error) {
	k, err := Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		if err == nil && (k.Name != name || k.Type != t) {
			return nil, fmt.Errorf("%s holds %s, but %q of type 0x%02x is wanted", path, k, name, byte(t))
		}
		return k, err
	}
	if k, err = Generate(name, t); err != nil {
		return nil, err
	}
	return k, k.Save(path)
}

// WriteSecret writes data durably to a new file that only its owner can read:
// either the whole file comes to be, or none. It fails with [fs.ErrExist]
// where there is a file already.
func WriteSecret(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	// A link fails where a rename would overwrite.
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

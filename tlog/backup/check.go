package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Is reports whether a directory holds a backup, whole or damaged.
func Is(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, manifestFile))
	return err == nil
}

// Check compares the files of the backup in a directory with its manifest, byte by
// byte. Its errors wrap [ErrDamaged] where one is not what it was. It says nothing of
// what was signed: that is for [Restore], or an audit.
func Check(ctx context.Context, dir string) error {
	m, err := Read(dir)
	if err != nil {
		return err
	}
	if err := m.strangers(dir); err != nil {
		return err
	}
	for _, f := range m.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		have, err := describe(dir, f.Name)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: %s is gone", ErrDamaged, filepath.Join(dir, f.Name))
		}
		if err != nil {
			return fmt.Errorf("checking backup: %w", err)
		}
		if have != f {
			return fmt.Errorf("checking backup: %w: %s is not what %s says: it has been altered", ErrDamaged, filepath.Join(dir, f.Name), manifestFile)
		}
	}
	return nil
}

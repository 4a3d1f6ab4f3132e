// Package durable writes small files so that a crash leaves the old one, the new
// one, or none, and never half of one.
//
// It also keeps two processes from one set of files. Call [Replace] for a file that
// changes, [Rewrite] for one that changes all the time, [Create] for one that must
// not, [Lock] for what one process owns.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sealtap/sealtap/failpoint"
)

// Replace writes data to the file at path, whether there is one or not. On return
// it is durable.
func Replace(path string, data []byte, mode fs.FileMode) error {
	return put(path, data, mode, os.Rename)
}

// Create writes data to a new file at path. It fails with [fs.ErrExist] where
// there is a file already. On return it is durable.
func Create(path string, data []byte, mode fs.FileMode) error {
	return put(path, data, mode, os.Link) // which fails where a rename would overwrite
}

func put(path string, data []byte, mode fs.FileMode, move func(from, to string) error) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	failpoint.Here("file-written")
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	failpoint.Here("file-synced")
	if err := move(f.Name(), path); err != nil {
		return err
	}
	failpoint.Here("file-renamed")
	return SyncDir(dir)
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

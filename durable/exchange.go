package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Aside is what stands behind the name of a directory while [PutDir] replaces it
// on a file system that cannot exchange two names.
const Aside = ".old"

// PutDir gives the directory at from the name to, durably, and at once: whoever
// opens to finds the old directory or the new one. What had the name before has
// the name from afterwards. The two stand in one directory.
//
// On a file system that cannot exchange names there is a moment without to. A
// crash in it leaves the old one at to+[Aside], for [RecoverDir].
func PutDir(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = os.Rename(from, to)
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTSUP):
		err = putAside(from, to)
	case err != nil:
		err = &os.LinkError{Op: "exchanging", Old: from, New: to, Err: err}
	}
	if err != nil {
		return err
	}
	return SyncDir(filepath.Dir(to))
}

func putAside(from, to string) error {
	if _, err := os.Lstat(to + Aside); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, &os.PathError{Op: "putting the old one aside at", Path: to + Aside, Err: fs.ErrExist})
	}
	if err := os.Rename(to, to+Aside); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return errors.Join(err, os.Rename(to+Aside, to))
	}
	return os.Rename(to+Aside, from)
}

// RecoverDir gives a directory its name back where a crash of [PutDir] took it.
func RecoverDir(to string) error {
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(to+Aside, to); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

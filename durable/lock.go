package durable

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// ErrLocked says that another process, or another opening in this one, holds a
// lock.
var ErrLocked = errors.New("locked")

// Lock takes the lock of the file at path, which it makes if it is not there. The
// lock ends with the file's closing, or with the process. Whoever holds it may
// remove the file.
func Lock(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrLocked
		}
		if err != nil {
			return nil, errors.Join(&os.PathError{Op: "locking", Path: path, Err: err}, f.Close())
		}
		if named(f, path) {
			return f, nil
		}
		f.Close() // the one who held it has removed it: the next to come locks another file
	}
}

// named reports whether a file still has its name.
func named(f *os.File, path string) bool {
	opened, err := f.Stat()
	if err != nil {
		return false
	}
	st, err := os.Stat(path)
	return err == nil && os.SameFile(opened, st)
}

// Guard takes a lock as [Lock] does. Releasing it removes the file as well if there
// was none before.
func Guard(path string) (release func(), err error) {
	_, err = os.Lstat(path)
	fresh := errors.Is(err, fs.ErrNotExist)
	f, err := Lock(path)
	if err != nil {
		return nil, err
	}
	return func() {
		if fresh {
			_ = os.Remove(path)
		}
		f.Close()
	}, nil
}

package durable

import (
	"errors"
	"os"
	"syscall"
)

// ErrLocked says that another process, or another opening in this one, holds a
// lock.
var ErrLocked = errors.New("locked")

// Lock takes the lock of the file at path, which it makes if it is not there. The
// lock ends with the file's closing, or with the process.
func Lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrLocked
	}
	return nil, errors.Join(&os.PathError{Op: "locking", Path: path, Err: err}, f.Close())
}

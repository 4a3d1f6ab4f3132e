package durable

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sealtap/sealtap/failpoint"
)

// Next is what stands behind the name of a file that [Rewrite] keeps beside it.
const Next = ".next"

// Rewrite does what [Replace] does for a file that changes many times a second. It
// makes no new file each time, which costs a file system the more the more files
// were deleted lately: path+Next stays behind, with what the file held before, and
// is used again. Nobody else may use that name, and one caller at a time this path.
func Rewrite(path string, data []byte, mode fs.FileMode) error {
	if st, err := os.Lstat(path); err != nil || !st.Mode().IsRegular() {
		return Replace(path, data, mode) // the first time; or it says what is wrong
	}
	next, dir := path+Next, filepath.Dir(path)
	// The exchange of the last time must be on the disk before the file that it took
	// the name from is written over; where that process died it may not be.
	if err := SyncDir(dir); err != nil {
		return err
	}
	if err := overwrite(next, data, mode); err != nil {
		return err
	}
	failpoint.Here("file-synced")
	err := unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTSUP) {
		return Replace(path, data, mode) // a file system that cannot exchange names
	}
	if err != nil {
		return &os.LinkError{Op: "exchanging", Old: next, New: path, Err: err}
	}
	failpoint.Here("file-renamed")
	return SyncDir(dir)
}

// Read returns the content of a file that somebody may [Rewrite] meanwhile.
func Read(path string) ([]byte, error) {
	// While it is read the file can lose its name, be written over, and get the name
	// back. Two such readings differ.
	var last []byte
	for again := false; ; {
		data, whole, err := read(path)
		if err != nil || whole && again && bytes.Equal(data, last) {
			return data, err
		}
		last, again = data, whole
	}
}

// read also reports whether the file still had its name when it was read: otherwise
// somebody may have written over it.
func read(path string) (data []byte, whole bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	if data, err = io.ReadAll(f); err != nil {
		return nil, false, err
	}
	opened, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	named, err := os.Stat(path)
	return data, err == nil && os.SameFile(opened, named), err
}

// overwrite gives the file beside another content.
func overwrite(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	failpoint.Here("file-written")
	return errors.Join(err, f.Truncate(int64(len(data))), f.Chmod(mode), f.Sync(), f.Close())
}

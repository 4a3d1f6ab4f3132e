package backup

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sealtap/sealtap/durable"
)

// A directory with this file, and this in it, is one that is being written here or
// about to be replaced. Nothing else is ever removed, or given another name, because
// of what it is called.
const (
	markerFile = "SEALTAP-PARTIAL"
	marker     = "sealtap/backup-partial/v1\nbeing written or replaced by sealtap log backup or restore, which may remove this directory\n"
)

// ErrInTheWay is wrapped where something stands that was not left by an earlier run.
var ErrInTheWay = errors.New("something is in the way")

// mark says durably that a directory may be removed.
func mark(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, markerFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, marker)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return durable.SyncDir(dir)
}

// unmark takes the mark from a directory that stays.
func unmark(dir string) error {
	if err := os.Remove(filepath.Join(dir, markerFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.SyncDir(dir)
}

// marked reports whether a path is a directory with the mark.
func marked(path string) bool {
	if st, err := os.Lstat(path); err != nil || !st.IsDir() {
		return false
	}
	f, err := openPart(path, markerFile)
	if err != nil {
		return false
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(len(marker))+1))
	return err == nil && string(b) == marker
}

// unused reports whether a directory holds nothing, or a mark that was being
// written: that is how a crash can leave one that was just made.
func unused(path string) bool {
	names, err := os.ReadDir(path)
	if err != nil || len(names) > 1 {
		return false
	}
	if len(names) == 0 {
		return true
	}
	st, err := names[0].Info()
	return err == nil && names[0].Name() == markerFile && st.Mode().IsRegular() && st.Size() < int64(len(marker))
}

// checkStage reports whether the directory of a stage can be made.
func checkStage(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if !st.IsDir() || !marked(path) && !unused(path) {
		return fmt.Errorf("%w: %s was not left by an earlier run, and is what this one would write to; move it away", ErrInTheWay, path)
	}
	return nil
}

// makeStage makes the directory of a stage, in the place of one that a killed run
// left.
func makeStage(path string) error {
	if err := checkStage(path); err != nil {
		return err
	}
	if err := removeStage(path); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	return mark(path)
}

// removeStage removes a directory that is ours. The mark goes last: a crash must not
// leave what nobody can tell from somebody's own.
func removeStage(path string) error {
	names, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, n := range names {
		if n.Name() == markerFile {
			continue
		}
		if err := os.RemoveAll(filepath.Join(path, n.Name())); err != nil {
			return err
		}
	}
	if err := durable.SyncDir(path); err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// recoverDir gives a backup its name back where a crash took it, on a file system
// that cannot exchange names. What merely has the name of one is left alone.
func recoverDir(dir string) error {
	aside := dir + durable.Aside
	if !marked(aside) {
		return nil
	}
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return durable.RecoverDir(dir)
	}
	return removeStage(aside) // the new one has the name already
}

// putStage puts a stage in the place of a directory. Both carry the mark meanwhile, so
// that whichever a crash leaves behind can be removed.
func putStage(stage, dir string) error {
	_, err := os.Lstat(dir)
	if err == nil {
		err = mark(dir)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return err
	}
	if err := durable.PutDir(stage, dir); err != nil {
		if marked(dir) {
			err = errors.Join(err, unmark(dir))
		}
		return err
	}
	return unmark(dir)
}

// openPart opens a file of a backup. Whoever can write to a backup could put a pipe
// there that never ends, or a link to something else.
func openPart(dir, name string) (*os.File, error) {
	path := filepath.Join(dir, name)
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		if st, serr := os.Lstat(path); serr == nil && !st.Mode().IsRegular() {
			return nil, irregular(path, st.Mode())
		}
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = irregular(path, st.Mode())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func irregular(path string, mode fs.FileMode) error {
	what := "something else"
	switch {
	case mode.IsDir():
		what = "a directory"
	case mode&fs.ModeSymlink != 0:
		what = "a symbolic link"
	case mode&fs.ModeNamedPipe != 0:
		what = "a named pipe"
	case mode&fs.ModeSocket != 0:
		what = "a socket"
	case mode&fs.ModeDevice != 0:
		what = "a device"
	}
	return fmt.Errorf("%w: %s is %s, and the files of a backup are regular ones", ErrNotBackup, path, what)
}

// What a SQLite file begins with, and the mark of a search index (PRAGMA
// application_id) in it.
const (
	sqliteMagic = "SQLite format 3\x00"
	idOffset    = 68
	indexID     = "STIX"
)

// checkIndex reports whether what stands where the search index is kept is one,
// which is removed with the log that it was of.
func checkIndex(path string) error {
	f, err := openPart(filepath.Dir(path), filepath.Base(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %s is no search index; move it away", ErrInTheWay, path)
	}
	defer f.Close()
	head := make([]byte, idOffset+len(indexID))
	n, err := io.ReadFull(f, head)
	if n == 0 && errors.Is(err, io.EOF) {
		return nil
	}
	id := string(head[idOffset:])
	st, serr := f.Stat()
	young := serr == nil && id == "\x00\x00\x00\x00" && st.Size() <= 4096 // its first transaction is in the WAL
	if string(head[:len(sqliteMagic)]) != sqliteMagic || id != indexID && !young {
		return fmt.Errorf("%w: %s is no search index; move it away", ErrInTheWay, path)
	}
	return nil
}

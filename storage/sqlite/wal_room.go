package sqlite

import (
	"errors"
	"fmt"
	"os"
)

// walRoom is how long a WAL is from the start, where commits are small and each is
// waited for: about what is written until it begins anew (see checkpointBytes).
const walRoom = 8 << 20

// makeRoom fills the WAL of a database that was just opened up to walRoom. A sync
// after which a file is no longer than before costs a journalling file system half
// as much, and the witness waits for one with each cosignature. SQLite passes over
// zeros: no frame has page 0 (https://sqlite.org/fileformat2.html#the_write_ahead_log).
func makeRoom(path string) (err error) {
	f, err := os.OpenFile(path+"-wal", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("making room in the WAL: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("making room in the WAL: %w", err)
	}
	zeros := make([]byte, 1<<20)
	for at := info.Size(); at < walRoom; {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), walRoom-at)], at)
		if err != nil {
			return fmt.Errorf("making room in the WAL: %w", err)
		}
		at += int64(n)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("making room in the WAL: %w", err)
	}
	return nil
}

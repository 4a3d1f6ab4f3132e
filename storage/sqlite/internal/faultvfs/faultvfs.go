// Package faultvfs makes the disk under SQLite fail, for tests: chosen writes,
// syncs and truncations return errors, and the power can be cut, after which the
// files hold what had reached the disk and no more. A sync that fails loses what it
// should have written, and says so once to each that has the file open, as Linux does
// it.
//
// Call [Register] before the first database is opened, and [Reset] with the
// directory of those that shall fail. No other package than a test imports this one.
package faultvfs

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"errors"
	"io/fs"
	"os"
	"time"
	"unsafe"
)

// Mode says what a failing write leaves.
type Mode int

// The modes.
const (
	Nothing Mode = iota // an I/O error, and nothing written
	Half                // a full disk: half of it is written
)

// Register puts the faults under every database that is opened from now on.
func Register() error {
	if C.fv_register() != 0 {
		return errors.New("registering the VFS: this program has no SQLite")
	}
	return nil
}

// Reset forgets everything, and looks after the databases under a directory from
// then on, none if it is "". No database is open there.
func Reset(dir string) {
	d := C.CString(dir)
	C.fv_reset(d)
	C.free(unsafe.Pointer(d))
}

// Arm makes changes fail: that number at, counted from the last Reset, which is 1
// or more, and those behind it until there were count. With at 0 none fails.
func Arm(at, count int, m Mode) { C.fv_arm(C.int(at), C.int(count), C.int(m)) }

// Slow makes every sync take so long, until the next Reset, so that more happens
// beside it.
func Slow(d time.Duration) { C.fv_slow(C.int(d.Microseconds())) }

// Ops is how many changes there were since the last Reset.
func Ops() int { return int(C.fv_ops()) }

// Hits is how many failed since the last Arm.
func Hits() int { return int(C.fv_hits()) }

// Cut cuts the power: nothing changes any more. Databases are closed next, which
// may fail, and then [Boot] is called.
func Cut() { C.fv_cut(1) }

// Kill calls end with nothing changing any more: what the process does that it
// would not do if it were killed is not done. Then everything goes on.
func Kill(end func()) {
	C.fv_cut(1)
	defer C.fv_cut(0)
	end()
}

// Boot gives every file the content that a loss of power leaves: what was synced,
// and so many percent of the sectors that were not, but were not lost either.
// Then it looks after nothing any more.
func Boot(percent int, seed uint32) error {
	var errs []error
	for i := range int(C.fv_files()) {
		path := C.GoString(C.fv_path(C.int(i)))
		if path == "" {
			continue // deleted
		}
		var data *C.char
		var size C.int64_t
		if C.fv_survivors(C.int(i), C.int(percent), C.unsigned(seed), &data, &size) != 0 {
			return errors.New("out of memory")
		}
		errs = append(errs, os.WriteFile(path, C.GoBytes(unsafe.Pointer(data), C.int(size)), 0o600))
		C.free(unsafe.Pointer(data))
		if err := os.Remove(path + "-shm"); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	Reset("")
	return errors.Join(errs...)
}

// Package signed keeps the last signed checkpoint of a log in a file of its own,
// apart from the database, so that a database which is put back from an older copy
// gives itself away.
package signed

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/durable"
	"github.com/sealtap/sealtap/storage"
)

// File is the path of a file that holds a signed note and nothing else.
type File string

// Write replaces the checkpoint, durably and at once.
func (f File) Write(note []byte) error { return durable.Rewrite(string(f), note, 0o600) }

// Read returns the checkpoint, nil if there is no file. Its signature is for the
// log to check.
func (f File) Read() (*storage.Head, error) {
	note, err := durable.Read(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	text, err := checkpoint.Text(note)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", f, err)
	}
	body, _, err := checkpoint.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", f, err)
	}
	return &storage.Head{Size: body.Size, Root: body.Root, Note: note}, nil
}

// Newer returns the larger of the heads in the database and in the file, either of
// which can be nil. The file is written first, so either can be the newer one after
// a crash.
func (f File) Newer(inDB, inFile *storage.Head) (*storage.Head, error) {
	switch {
	case inDB == nil:
		return inFile, nil
	case inFile == nil:
		return inDB, nil
	case inDB.Size == inFile.Size && inDB.Root != inFile.Root:
		return nil, fmt.Errorf("%w: %s and the database hold signed checkpoints of size %d with different roots", storage.ErrCorrupt, f, inDB.Size)
	case inDB.Size > inFile.Size:
		return inDB, nil
	}
	return inFile, nil
}

// Check reports whether a head can be signed after the last one: with ErrConflict
// if not. One that was signed before is replaced by the very same.
func Check(h, last *storage.Head) error {
	switch {
	case last == nil || h.Size > last.Size:
		return nil
	case h.Size < last.Size || h.Root != last.Root:
		return fmt.Errorf("%w: of size %d with root %s", storage.ErrConflict, last.Size, last.Root)
	}
	*h = *last
	return nil
}

// CheckPublished reports whether a head can be published, with ErrConflict if not.
func CheckPublished(h storage.Head, signed, last *storage.Head) error {
	switch {
	case signed == nil || signed.Size < h.Size || signed.Size == h.Size && signed.Root != h.Root:
		return fmt.Errorf("%w: the checkpoint was not signed", storage.ErrConflict)
	case last != nil && (last.Size > h.Size || last.Size == h.Size && last.Root != h.Root):
		return fmt.Errorf("%w: one of size %d was published", storage.ErrConflict, last.Size)
	}
	return nil
}

// Package backup copies a log while it runs, and puts it back so that it cannot
// fork.
//
// A backup is a directory: the log's database, its openings, its last signed
// checkpoint, and a manifest with the digests of all. [Write] makes one and
// verifies it from the entries up, [Restore] verifies it again and puts it in place
// together with the largest checkpoint that anybody has seen of the log, so that a
// log with fewer entries does not start; [CatchUp] brings in the entries that are
// missing to that checkpoint from a copy of the log.
package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/witness/policy"
)

// Format is the version of what a backup consists of.
const Format = "sealtap/backup/v1"

// The names of the files of a backup.
const (
	manifestFile = "backup.json"
	logFile      = "log.db"
	signedFile   = "log.db.signed"
	openingsFile = "log.db.openings"
)

// maxManifest is more than a manifest can have, with the largest checkpoint.
const maxManifest = 2 << 20

var (
	// ErrNotBackup is wrapped where a directory holds something else.
	ErrNotBackup = errors.New("not a backup of a log")
	// ErrDamaged is wrapped where a backup, or what was to be backed up or brought
	// in, is not what was signed. It wraps [storage.ErrCorrupt].
	ErrDamaged = fmt.Errorf("what was read is not what was signed: %w", storage.ErrCorrupt)
	// ErrForked is wrapped where the log has signed two histories.
	ErrForked = errors.New("the log has signed two histories")
	// ErrOther is wrapped where something is of another log.
	ErrOther = errors.New("another log")
	// ErrExists is wrapped where there is a log already where one should be put.
	ErrExists = errors.New("there is a log already")
	// ErrNone is wrapped where there is no log to bring entries into.
	ErrNone = errors.New("there is no log")
	// ErrOlder is wrapped where a copy of the log has nothing, or nothing more, of what
	// is missing.
	ErrOlder = errors.New("there is nothing newer in it")
	// ErrIncomplete is wrapped where the log that is to be backed up lacks entries that
	// it has signed. It wraps [tlog.ErrBehind].
	ErrIncomplete = fmt.Errorf("entries are missing: %w", tlog.ErrBehind)
	// ErrGone is wrapped where the copies no longer have what comes after a backup.
	ErrGone = errors.New("a log that was pruned goes on after the backup")
	// ErrUnseen is wrapped where it is not known how much the log has signed.
	ErrUnseen = errors.New("it is not known how much the log has signed")
)

// Manifest says what a backup holds.
type Manifest struct {
	Format     string    `json:"format"`
	Origin     string    `json:"origin"`
	Size       uint64    `json:"size"` // entries
	Root       []byte    `json:"root"` // of the tree over them
	Time       time.Time `json:"time"`
	Signed     uint64    `json:"signed"`               // size of the last signed checkpoint, 0 if none
	Published  uint64    `json:"published"`            // size of the newest published checkpoint, 0 if none
	Checkpoint string    `json:"checkpoint,omitempty"` // the newest published one, with its cosignatures
	Openings   bool      `json:"openings"`             // whether the openings are in it
	Files      []File    `json:"files"`
	// Check is the SHA-256 of the manifest with an empty Check.
	Check string `json:"check"`
}

// File is a file of a backup.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // in hexadecimal
}

// Progress is told what is being done, and how much of it is.
type Progress func(what string, done, total uint64)

func (p Progress) of(what string) func(done, total uint64) {
	if p == nil {
		return nil
	}
	return func(done, total uint64) { p(what, done, total) }
}

// Read reads and checks the manifest of the backup in a directory.
func Read(dir string) (*Manifest, error) {
	f, err := openPart(dir, manifestFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s has no %s", ErrNotBackup, dir, manifestFile)
	}
	if errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("%w: %s is no directory", ErrNotBackup, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("reading backup: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err != nil {
		return nil, fmt.Errorf("reading backup: %w", err)
	}
	m, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("reading backup: %s: %w", filepath.Join(dir, manifestFile), err)
	}
	return m, nil
}

// parse reads a manifest. There is one spelling of each, so that a bit that was
// flipped is noticed wherever it is.
func parse(data []byte) (*Manifest, error) {
	var m Manifest
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if m.Format != Format {
		if strings.HasPrefix(m.Format, "sealtap/backup/") {
			return nil, fmt.Errorf("%w: its format is %q, this program knows %q; upgrade sealtap", ErrNotBackup, m.Format, Format)
		}
		return nil, fmt.Errorf("%w: its format is %q", ErrDamaged, m.Format)
	}
	again, err := m.encode()
	if err != nil || !bytes.Equal(again, data) {
		return nil, fmt.Errorf("%w: the manifest has been altered", ErrDamaged)
	}
	var names []string
	for _, f := range m.Files {
		names = append(names, f.Name)
	}
	want := []string{logFile}
	if m.Signed > 0 {
		want = append(want, signedFile)
	}
	if m.Openings {
		want = append(want, openingsFile)
	}
	if !slices.Equal(names, want) || len(m.Root) != len(record.Hash{}) {
		return nil, fmt.Errorf("%w: the manifest contradicts itself", ErrDamaged)
	}
	return &m, nil
}

// encode returns the bytes of a manifest, with its Check.
func (m Manifest) encode() ([]byte, error) {
	m.Check = ""
	unchecked, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(unchecked)
	m.Check = hex.EncodeToString(sum[:])
	data, err := json.MarshalIndent(m, "", "  ")
	return append(data, '\n'), err
}

// describe sums a file up.
func describe(dir, name string) (File, error) {
	f, err := openPart(dir, name)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return File{Name: name, Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, err
}

// strangers returns an error if the directory of a backup has files that belong
// to a database and not to the backup. SQLite would take them for the newest part of
// it.
func (m *Manifest) strangers(dir string) error {
	names, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("reading backup: %w", err)
	}
	for _, n := range names {
		known := slices.ContainsFunc(m.Files, func(f File) bool { return f.Name == n.Name() })
		if strings.HasPrefix(n.Name(), logFile) && !known {
			return fmt.Errorf("%w: %s is not part of the backup; somebody has worked with its files", ErrDamaged, filepath.Join(dir, n.Name()))
		}
	}
	return nil
}

// sighting is a checkpoint that the log has signed, and where it was seen.
type sighting struct {
	where string
	size  uint64
	root  record.Hash
	cp    *policy.Checkpoint // nil where it is known from a manifest only
}

func sightingOf(where string, cp *policy.Checkpoint) sighting {
	return sighting{where, cp.Size, cp.Root, cp}
}

// signed is the checkpoint with the log's signatures only.
func (s sighting) signed() []byte {
	return (&policy.Checkpoint{Note: s.cp.Note, Signatures: s.cp.Signatures}).Cosign()
}

// open verifies that the log has signed a checkpoint.
func open(p *policy.Policy, origin, where string, signed []byte) (sighting, error) {
	cp, err := p.VerifyLogOnly(signed)
	if err != nil {
		return sighting{}, fmt.Errorf("%w: the checkpoint of %s: %w", ErrDamaged, where, err)
	}
	if cp.Origin != origin {
		return sighting{}, fmt.Errorf("%w: the checkpoint of %s is of %q, the log is %q", ErrOther, where, cp.Origin, origin)
	}
	return sightingOf(where, cp), nil
}

// stored verifies a checkpoint that stands in a database.
func stored(p *policy.Policy, origin, where string, h *storage.Head) (sighting, error) {
	s, err := open(p, origin, where, h.Note)
	if err == nil && (s.size != h.Size || s.root != h.Root) {
		err = fmt.Errorf("%w: the checkpoint of %s is not what it was stored as", ErrDamaged, where)
	}
	return s, err
}

// newest returns the largest of checkpoints, nil if there is none, or an error
// that wraps ErrForked if two of one size differ.
func newest(list []sighting) (*sighting, error) {
	slices.SortStableFunc(list, func(a, b sighting) int {
		if a.size < b.size {
			return -1
		} else if a.size > b.size {
			return 1
		}
		return 0
	})
	for i := 1; i < len(list); i++ {
		if a, b := list[i-1], list[i]; a.size == b.size && a.root != b.root {
			return nil, fmt.Errorf("%w: of size %d, with root %s seen in %s and with root %s seen in %s; keep both as evidence",
				ErrForked, a.size, a.root, a.where, b.root, b.where)
		}
	}
	if len(list) == 0 {
		return nil, nil
	}
	return &list[len(list)-1], nil
}

package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealtap/sealtap/durable"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/witness/policy"
)

// partial is what a backup that is being written is called behind the name of its
// directory.
const partial = ".partial"

// WriteConfig says what is backed up.
type WriteConfig struct {
	// Database is the path of the log's database; the log may be running. Required.
	Database string
	// Policy has the log's key. Required.
	Policy *policy.Policy
	// WithoutOpenings leaves the openings out.
	WithoutOpenings bool
	// Unsure is told what is not known to be as it should be, although nothing is found
	// to be wrong with it. Nil: nobody is.
	Unsure func(error)
	// Progress may be nil.
	Progress Progress
}

// Write backs a log up into a directory, which is new, or holds an older backup
// of the same log. It writes beside the directory, verifies what it has written,
// and puts that in the directory's place at once; where anything is not as it
// should be the older backup stays. While it works DIR.lock is there.
func Write(ctx context.Context, c WriteConfig, dir string) (*Manifest, error) {
	dir, err := place(dir)
	if err != nil {
		return nil, fmt.Errorf("writing backup: %w", err)
	}
	// Before there is a lock: where something else stands nothing is left behind.
	if _, err := previous(dir); err != nil {
		return nil, err
	}
	if err := checkStage(dir + partial); err != nil {
		return nil, fmt.Errorf("writing backup: %w", err)
	}
	release, err := durable.Guard(dir + ".lock")
	if errors.Is(err, durable.ErrLocked) {
		return nil, fmt.Errorf("%w: another backup is being written to %s", sqlite.ErrLocked, dir)
	} else if err != nil {
		return nil, fmt.Errorf("writing backup: %w", err)
	}
	defer release()
	if err := recoverDir(dir); err != nil {
		return nil, fmt.Errorf("writing backup: %w", err)
	}
	old, err := previous(dir)
	if err != nil {
		return nil, err
	}
	stage := dir + partial
	if err := makeStage(stage); err != nil {
		return nil, fmt.Errorf("writing backup: %w", err)
	}
	defer func() { _ = removeStage(stage) }()
	m, err := c.write(ctx, stage, old)
	if err != nil {
		return nil, fmt.Errorf("backing up %s: %w", c.Database, err)
	}
	if err := putStage(stage, dir); err != nil {
		return nil, fmt.Errorf("writing backup: %w", err)
	}
	return m, nil
}

// place returns the path of the directory itself, where what is written beside it
// can take its place.
func place(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(dir); err == nil {
			return "", fmt.Errorf("%w: %s is a symbolic link to what is not there; make that, or say another directory", ErrNotBackup, dir)
		}
		return dir, nil
	} else if errors.Is(err, unix.ENOTDIR) {
		return "", fmt.Errorf("%w: above %s stands a file; say a directory", ErrNotBackup, dir)
	} else if err != nil {
		return "", err
	}
	if st, err := os.Stat(real); err == nil && !st.IsDir() {
		return "", fmt.Errorf("%w: %s is no directory; say one that is new, empty or an older backup of this log", ErrNotBackup, dir)
	}
	var self, parent unix.Stat_t
	if err := errors.Join(unix.Stat(real, &self), unix.Stat(filepath.Dir(real), &parent)); err != nil {
		return "", err
	}
	if self.Dev != parent.Dev || real == filepath.Dir(real) {
		return "", fmt.Errorf("%w: %s is a mount point; say a directory in it", ErrNotBackup, dir)
	}
	return real, nil
}

// previous returns the manifest of the backup in a directory, nil if there is none
// and the directory can be used.
func previous(dir string) (*Manifest, error) {
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(names) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("writing backup: %w", err)
	}
	for _, n := range names {
		switch n.Name() {
		case manifestFile, logFile, openingsFile, signedFile, markerFile:
		default:
			return nil, fmt.Errorf("%w: %s holds %s, which is no part of one; say a directory that is new, empty or an older backup of this log", ErrNotBackup, dir, n.Name())
		}
	}
	m, err := Read(dir)
	if errors.Is(err, ErrNotBackup) {
		return nil, fmt.Errorf("%w; say a directory that is new, empty or an older backup of this log", err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w; move %s away, or say another directory", err, dir)
	}
	return m, nil
}

// write writes a whole backup into an empty directory.
func (c *WriteConfig) write(ctx context.Context, dir string, old *Manifest) (*Manifest, error) {
	m := &Manifest{Format: Format, Time: time.Now().UTC().Truncate(time.Second)}
	// The signed checkpoint first: entries are durable before it is signed, so
	// that the copy has them.
	signed, err := sqlite.ReadSigned(c.Database)
	if err != nil {
		return nil, err
	}
	if err := sqlite.SnapshotLog(ctx, c.Database, filepath.Join(dir, logFile), c.Progress.of("copying entries")); err != nil {
		return nil, err
	}
	// The openings last, so that they are those of all entries that the copy has.
	if m.Openings = !c.WithoutOpenings; m.Openings {
		err := sqlite.SnapshotOpenings(ctx, c.Database+".openings", filepath.Join(dir, openingsFile), c.Progress.of("copying openings"))
		if err != nil {
			return nil, err
		}
	}
	if err := checkSchemas(ctx, dir, m.Openings); err != nil {
		return nil, err
	}
	if err := c.verify(ctx, dir, m, signed, old); err != nil {
		return nil, err
	}
	for _, name := range []string{logFile, signedFile, openingsFile} {
		f, err := describe(dir, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		m.Files = append(m.Files, f)
	}
	data, err := m.encode()
	if err != nil {
		return nil, err
	}
	// This makes the names of the others durable, too; their content is already.
	if err := durable.Replace(filepath.Join(dir, manifestFile), data, 0o600); err != nil {
		return nil, err
	}
	return parse(data)
}

// checkSchemas checks that the databases of a backup hold tables of ours alone.
func checkSchemas(ctx context.Context, dir string, openings bool) error {
	err := sqlite.CheckLog(ctx, filepath.Join(dir, logFile))
	if err == nil && openings {
		err = sqlite.CheckOpenings(ctx, filepath.Join(dir, openingsFile))
	}
	return damaged(err)
}

// verify verifies the copy and fills in the manifest what it has found.
func (c *WriteConfig) verify(ctx context.Context, dir string, m *Manifest, signed *storage.Head, old *Manifest) error {
	db, err := sqlite.OpenLogFile(ctx, filepath.Join(dir, logFile))
	if err != nil {
		return err
	}
	defer db.Close()
	state, err := db.Load(ctx)
	if err != nil {
		return err
	}
	if state.Size == 0 {
		return fmt.Errorf("%w: it has no entries", ErrNone)
	}
	key, err := genesis(ctx, db)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(c.Policy.Logs, func(l policy.Log) bool { return l.Key.String() == key.String() }) {
		return fmt.Errorf("%w: it is of log %s, which the policy does not name", ErrOther, key)
	}
	m.Origin, m.Size, m.Root = key.Name, state.Size, state.Root[:]
	marks, err := c.heads(m, state, signed, old)
	if err != nil {
		return err
	}
	found, err := verify(ctx, db, state, verification{c.Policy, marks, c.Progress.of("verifying entries")})
	if err != nil {
		return err
	}
	// What is there is whole. A log that was restored in part is such a one.
	for _, s := range []*storage.Head{signed, state.Signed, state.Published} {
		if s != nil && s.Size > state.Size {
			return fmt.Errorf("%w: a checkpoint of size %d was signed, and there are %d; "+
				"bring them in with sealtap log restore --config FILE --from URL, and back up then", ErrIncomplete, s.Size, state.Size)
		}
	}
	if old != nil && old.Size > state.Size {
		return fmt.Errorf("%w: the directory holds a backup of %d entries, the log has %d", tlog.ErrBehind, old.Size, state.Size)
	}
	if found.unsure != nil && c.Unsure != nil {
		c.Unsure(found.unsure)
	}
	if s := largest(signed, state.Signed); s != nil {
		return sqlite.WriteSigned(filepath.Join(dir, logFile), s.Note)
	}
	return nil
}

// heads returns the checkpoints that the copy has to agree with.
func (c *WriteConfig) heads(m *Manifest, state *storage.State, signed *storage.Head, old *Manifest) ([]sighting, error) {
	var list []sighting
	for _, h := range []struct {
		where string
		head  *storage.Head
	}{{c.Database + ".signed", signed}, {"the database", state.Signed}, {"the database", state.Published}} {
		if h.head == nil {
			continue
		}
		s, err := stored(c.Policy, m.Origin, h.where, h.head)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	if s := largest(signed, state.Signed); s != nil {
		m.Signed = s.Size
	}
	if p := state.Published; p != nil {
		m.Published, m.Checkpoint = p.Size, string(p.Note)
	}
	if old != nil {
		if old.Origin != m.Origin {
			return nil, fmt.Errorf("%w: the directory holds a backup of %q, this is %q", ErrOther, old.Origin, m.Origin)
		}
		list = append(list, sighting{where: "the older backup", size: old.Size, root: record.Hash(old.Root)})
	}
	_, err := newest(list)
	return list, err
}

// largest returns the larger of two checkpoints.
func largest(a, b *storage.Head) *storage.Head {
	if a == nil || b != nil && b.Size > a.Size {
		return b
	}
	return a
}

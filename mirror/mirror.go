// Package mirror copies a transparency log to a directory and keeps the copy up
// with it.
//
// The log is any that is served as C2SP tlog-tiles (https://c2sp.org/tlog-tiles);
// the directory has the same layout, so that any web server can serve it and any
// client of such logs can read it. Nothing is written that was not proven first
// to stand under a checkpoint that satisfies the policy, and the checkpoint comes
// last: what the directory's checkpoint covers is there and durable, whenever the
// mirror or its machine dies.
//
// Start with [Open], then call [Mirror.Update] or [Mirror.Follow].
package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/durable"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

var (
	// ErrConfig is wrapped where a directory cannot be the mirror of a log.
	ErrConfig = errors.New("not a mirror")
	// ErrLocked is wrapped where another process writes the directory.
	ErrLocked = durable.ErrLocked
	// ErrRewritten is wrapped, together with [client.ErrVerification], where the
	// log shows a history other than the one that was mirrored. Both checkpoints
	// are kept then, see [Conflict].
	ErrRewritten = errors.New("the log has another history than was mirrored")
)

const (
	tileWidth  = client.TileWidth
	tileLevels = 8 // tree levels in a tile

	checkpointFile = "checkpoint"
	lockFile       = ".mirror.lock"
)

// Conflict is the name of the file in the directory that keeps a checkpoint
// which contradicts the mirrored one.
func Conflict(c *policy.Checkpoint) string {
	return fmt.Sprintf(".conflict-%d-%x", c.Size, c.Root[:8])
}

// Config says what is mirrored and where.
type Config struct {
	// Source is the log.
	Source *client.Source
	// Policy says which checkpoints count.
	Policy *policy.Policy
	// Dir is made if it is not there.
	Dir string
	// Key cosigns what the directory holds. Its type is [keys.Cosignature] or
	// [keys.MLDSA44]. Nil: nothing is cosigned.
	Key *keys.Private
	// BytesPerSecond bounds what is fetched; zero means that nothing does.
	BytesPerSecond int
	// Progress, if set, learns how many of the entries are there.
	Progress func(done, total uint64)
	// Logger gets what Follow does; nil means nobody does.
	Logger *slog.Logger
}

// Mirror is a directory that is written by this process alone. Its methods are
// called by one goroutine.
type Mirror struct {
	cfg  Config
	src  client.Reader
	log  *slog.Logger
	lock *os.File
	held *policy.Checkpoint // what the directory holds; nil for nothing

	whole bool // every entry was read, or written, by this process; of use with a key
}

// Open takes the directory for this process and verifies its checkpoint.
func Open(c Config) (_ *Mirror, err error) {
	if c.Key != nil {
		if err := checkKey(c.Key, c.Policy); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("making mirror: %w", err)
	}
	m := &Mirror{cfg: c, src: paced(c.Source, c.BytesPerSecond), log: c.Logger}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if err := m.recognise(); err != nil {
		return nil, err
	}
	if m.lock, err = durable.Lock(m.path(lockFile)); err != nil {
		return nil, fmt.Errorf("opening mirror %s: another process writes it: %w", c.Dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	note, err := readRegular(m.path(checkpointFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening mirror: %w", err)
	}
	if m.held, err = c.Policy.VerifyLogOnly(note); err != nil {
		return nil, fmt.Errorf("%w: %s: its checkpoint is of no log of the policy: %w; mirror each log into a directory of its own", ErrConfig, c.Dir, err)
	}
	return m, nil
}

// recognise refuses a directory that holds other people's files.
func (m *Mirror) recognise() error {
	list, err := os.ReadDir(m.cfg.Dir)
	if err != nil {
		return fmt.Errorf("opening mirror: %w", err)
	}
	for _, e := range list {
		switch e.Name() {
		case checkpointFile, lockFile, "tile", "v1":
			return nil
		}
	}
	if len(list) > 0 {
		return fmt.Errorf("%w: %s holds other files, such as %s; name an empty directory", ErrConfig, m.cfg.Dir, list[0].Name())
	}
	return nil
}

// Close lets go of the directory.
func (m *Mirror) Close() error {
	if m.lock == nil {
		return nil
	}
	return m.lock.Close()
}

// Size is the number of entries that the directory's checkpoint covers.
func (m *Mirror) Size() uint64 {
	if m.held == nil {
		return 0
	}
	return m.held.Size
}

func (m *Mirror) path(name string) string { return filepath.Join(m.cfg.Dir, filepath.FromSlash(name)) }

// Update copies what the log has beyond the directory, and returns the checkpoint
// that the directory then holds. Its errors are of the two kinds of package
// client, or about the disk.
func (m *Mirror) Update(ctx context.Context) (*policy.Checkpoint, error) {
	note, err := m.src.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	head, err := m.cfg.Policy.Verify(note)
	if err != nil {
		return nil, fmt.Errorf("checkpoint of %s: %w: %w", m.cfg.Source, client.ErrVerification, err)
	}
	tree := client.NewTree(m.src, head.Size, head.Root)
	if err := m.consistent(ctx, tree, head); err != nil {
		return nil, err
	}
	if m.held != nil && string(m.held.Note) == string(head.Note) && (m.cfg.Key == nil || m.whole) {
		return m.held, nil
	}
	c := &copying{mirror: m, tree: tree, from: m.Size(), size: head.Size}
	if c.size > c.from {
		if err := c.run(ctx); err != nil {
			return nil, err
		}
	}
	// The checkpoint says that all it covers is there.
	if err := syncFS(m.cfg.Dir); err != nil {
		return nil, err
	}
	held := head.Note
	if m.cfg.Key != nil {
		if held, err = m.cosign(head); err != nil {
			return nil, err
		}
	}
	if err := durable.Replace(m.path(checkpointFile), held, 0o644); err != nil {
		return nil, fmt.Errorf("writing checkpoint: %w", err)
	}
	m.held = head
	c.tidy()
	return head, nil
}

// consistent proves that the log still has the history that was mirrored.
func (m *Mirror) consistent(ctx context.Context, tree *client.Tree, head *policy.Checkpoint) error {
	old := m.held
	if old == nil {
		return nil
	}
	var why error
	switch {
	case head.Origin != old.Origin:
		return fmt.Errorf("%w: %s is a mirror of %s, and %s is %s", ErrConfig, m.cfg.Dir, old.Origin, m.cfg.Source, head.Origin)
	case head.Size < old.Size:
		why = fmt.Errorf("it went back from %d entries to %d", old.Size, head.Size)
	case head.Size == old.Size && head.Root != old.Root:
		why = fmt.Errorf("there are two roots of %d entries", head.Size)
	case head.Size > old.Size:
		err := tree.Consistent(ctx, checkpoint.Body{Origin: old.Origin, Size: old.Size, Root: old.Root})
		if !errors.Is(err, client.ErrVerification) {
			return err // nil, or that something could not be had
		}
		why = err
	default:
		return nil
	}
	// A smaller head may also be an old copy in somebody's cache. It proves nothing
	// by itself, but is kept beside the other all the same.
	name := Conflict(head)
	if err := durable.Replace(m.path(name), head.Note, 0o644); err != nil {
		return fmt.Errorf("keeping a checkpoint that contradicts the mirror: %w", err)
	}
	return fmt.Errorf("%w: %w: %w; its checkpoint is kept as %s, the mirrored one as %s", ErrRewritten, client.ErrVerification, why, m.path(name), m.path(checkpointFile))
}

// Follow updates the directory again and again until the context ends, which is
// no error. What cannot be had is asked for again later; it returns when the log
// turns out not to be what was promised, or the disk fails.
func (m *Mirror) Follow(ctx context.Context, every time.Duration) error {
	for failures := 0; ; {
		before := m.Size()
		head, err := m.Update(ctx)
		pause := every
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, client.ErrVerification) || err != nil && !errors.Is(err, client.ErrUnavailable):
			return err
		case err != nil:
			failures++
			pause = min(every<<min(failures, 6), max(every, time.Minute))
			m.log.Warn("the log cannot be read; the mirror goes on later", "error", err, "again_in", pause.String())
		default:
			failures = 0
			if head.Size != before {
				m.log.Info("mirrored", "size", head.Size, "root", record.Hash(head.Root).String())
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

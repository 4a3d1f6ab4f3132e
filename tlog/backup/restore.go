package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/sealtap/sealtap/durable"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/policy"
)

// staging is what a log that is being restored is called behind the name of its
// database.
const staging = ".restore"

// RestoreConfig says which log is restored, and what is known of it.
type RestoreConfig struct {
	// Database is the path of the log's database. Required.
	Database string
	// Key and Policy are those of the log. Required.
	Key    *keys.Private
	Policy *policy.Policy
	// Witnesses is what the witnesses of the policy have seen of the log.
	Witnesses []witness.View
	// WithoutWitnesses goes on although not every witness could be asked.
	WithoutWitnesses bool
	// Checkpoints are more checkpoints that the log has signed.
	Checkpoints []Seen
	// From are copies of the log that entries can be brought in from.
	From []Copy
	// Logger is told what an operator should know. Nil: nobody is.
	Logger *slog.Logger
	// Progress may be nil.
	Progress Progress
}

// Seen is a checkpoint, and where it comes from.
type Seen struct {
	Where string
	Note  []byte
}

// Copy is a copy of the log, and where it is.
type Copy struct {
	Where string
	client.Reader
}

// Outcome is what became of a log.
type Outcome struct {
	Origin string
	Stored uint64 // entries of the backup, or that were there
	Size   uint64 // entries now
	Newest uint64 // size of the largest checkpoint that was seen; the log starts once it has these entries
	Seen   string // where that was seen
	Lost   uint64 // records whose openings are not there: of those brought in, or of all if there are none at all
	Copies []CopyOutcome
	// Minimum is the index of the first entry that the log keeps, and Before the largest
	// one that a copy of it shows; 0 if nothing was pruned.
	Minimum, Before uint64
	// Openings says what the log's openings are.
	Openings OpeningsOutcome
}

// Complete reports whether the log can start.
func (o *Outcome) Complete() bool { return o.Size >= o.Newest }

// CopyOutcome is what was found in a copy of the log.
type CopyOutcome struct {
	Where   string
	Size    uint64 // of its checkpoint, 0 if that is not known
	Brought uint64 // entries
	Err     error  // what kept more from being brought in
}

// OpeningsOutcome says where the openings of a restored log come from.
type OpeningsOutcome string

// The openings of a restored log are those of the backup, those that were there
// already, or new and empty.
const (
	OpeningsRestored OpeningsOutcome = "restored"
	OpeningsKept     OpeningsOutcome = "kept"
	OpeningsEmpty    OpeningsOutcome = "none"
)

// Restore puts the log of a backup in place. It refuses where there is a log
// already, where the backup is not what was signed, and where it does not know how
// much the log has signed since; then it has put nothing in place. After a crash
// it can be called again.
//
// It writes the largest checkpoint that was seen beside the database before it puts
// the database there. If that has fewer entries, also after what the copies have
// was brought in, the log does not start (tlog.ErrBehind), and [CatchUp] can bring
// in the rest.
func Restore(ctx context.Context, c RestoreConfig, dir string) (_ *Outcome, err error) {
	stage := c.Database + staging
	if err := checkStage(stage); err != nil {
		return nil, fmt.Errorf("restoring: %w", err)
	}
	release, err := durable.Guard(c.Database + ".lock")
	if errors.Is(err, durable.ErrLocked) {
		return nil, fmt.Errorf("restoring %s: %w: stop the log", c.Database, sqlite.ErrLocked)
	} else if err != nil {
		return nil, fmt.Errorf("restoring: %w", err)
	}
	defer release()
	if err := c.checkFree(ctx); err != nil {
		return nil, fmt.Errorf("restoring %s: %w", c.Database, err)
	}
	m, err := Read(dir)
	if err != nil {
		return nil, err
	}
	if m.Origin != c.Key.Name {
		return nil, fmt.Errorf("%w: %s is a backup of %q, the configured key is of %q", ErrOther, dir, m.Origin, c.Key.Name)
	}
	if err := makeStage(stage); err != nil {
		return nil, fmt.Errorf("restoring: %w", err)
	}
	defer func() { _ = removeStage(stage) }()
	r := &restore{RestoreConfig: c, path: filepath.Join(stage, logFile), outcome: &Outcome{Origin: m.Origin, Stored: m.Size}}
	if err := r.stage(ctx, m, dir, stage); err != nil {
		return nil, fmt.Errorf("restoring from %s: %w", dir, err)
	}
	if err := r.place(ctx); err != nil {
		return nil, fmt.Errorf("restoring %s: %w", c.Database, err)
	}
	return r.outcome, nil
}

// CatchUp brings the entries that a log lacks to the largest checkpoint that it
// has signed into its database. The log must not be running. After a crash it can
// be called again.
func CatchUp(ctx context.Context, c RestoreConfig) (_ *Outcome, err error) {
	if _, err := os.Stat(c.Database); errors.Is(err, fs.ErrNotExist) {
		if err := checkLink(c.Database); err != nil {
			return nil, fmt.Errorf("catching up: %w", err)
		}
		return nil, fmt.Errorf("%w at %s: say the directory of a backup", ErrNone, c.Database)
	} else if err != nil {
		return nil, fmt.Errorf("catching up: %w", err)
	}
	r := &restore{RestoreConfig: c, path: c.Database, outcome: &Outcome{Origin: c.Key.Name, Openings: OpeningsKept}}
	if err := sqlite.CheckLog(ctx, c.Database); err != nil {
		return nil, fmt.Errorf("catching up: %w", damaged(err))
	}
	openings := c.Database + ".openings"
	has, err := c.checkOpenings(ctx, openings)
	if err != nil {
		return nil, fmt.Errorf("catching up: %w", err)
	}
	if err := r.run(ctx, nil); err != nil {
		return nil, fmt.Errorf("catching up %s: %w", c.Database, err)
	}
	if !has {
		r.noOpenings()
	}
	if err := r.settleOpenings(ctx, openings); err != nil {
		return nil, fmt.Errorf("catching up %s: %w", c.Database, err)
	}
	return r.outcome, nil
}

// checkFree reports whether nothing stands where the log is to be put. A database
// without entries, as a log makes that is started without one, is nothing.
func (c *RestoreConfig) checkFree(ctx context.Context) error {
	openings := c.Database + ".openings"
	if _, err := c.checkOpenings(ctx, openings); err != nil {
		return err
	}
	if _, err := os.Stat(c.Database); errors.Is(err, fs.ErrNotExist) {
		if err := checkLink(c.Database); err != nil {
			return err
		}
	}
	if err := checkIndex(c.Database + ".index"); err != nil {
		return err
	}
	_, err := os.Stat(c.Database)
	if errors.Is(err, fs.ErrNotExist) {
		for _, suffix := range []string{"-wal", "-journal"} {
			if _, err := os.Stat(c.Database + suffix); err == nil {
				return fmt.Errorf("%w: %s is left of its database; move it away", ErrExists, c.Database+suffix)
			}
		}
		return nil
	}
	if err != nil {
		return err
	}
	db, err := sqlite.OpenLogFile(ctx, c.Database)
	if err != nil {
		return fmt.Errorf("%w, which cannot be read: %w; move it away with what stands beside it", ErrExists, err)
	}
	state, err := db.Load(ctx)
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("%w, which cannot be read: %w; move it away with what stands beside it", ErrExists, err)
	}
	if state.Size > 0 {
		return fmt.Errorf("%w, with %d entries; to bring in what it lacks leave out the backup, to replace it move it away", ErrExists, state.Size)
	}
	return checkLink(c.Database)
}

// checkOpenings reports whether there are openings, which are kept.
func (c *RestoreConfig) checkOpenings(ctx context.Context, path string) (has bool, err error) {
	if _, err := os.Stat(path); err == nil {
		if err := sqlite.CheckOpenings(ctx, path); err != nil {
			return false, fmt.Errorf("%w, whose openings cannot be kept: %w; move %s away with what stands beside it", ErrExists, err, path)
		}
	}
	if has, err = sqlite.HasOpenings(ctx, path); err != nil || has {
		return has, err
	}
	return false, checkLink(path)
}

// checkLink refuses a symbolic link where a file would be put: the link would be
// replaced, and what it was meant to lead to would not be written.
func checkLink(path string) error {
	to, err := os.Readlink(path)
	if err != nil {
		return nil // no link
	}
	return fmt.Errorf("%w: %s is a symbolic link to %s; remove it, or set log.database to where it leads", ErrInTheWay, path, to)
}

// restore is one restoration at work.
type restore struct {
	RestoreConfig
	path    string // of the database
	outcome *Outcome
	known   []sighting         // checkpoints of the log
	newest  *sighting          // nil if the log has signed nothing
	kept    []client.Retention // of the copies
	sealed  uint64             // records with sealed fields that were stored
	brought []placed           // records with sealed fields that were brought in
}

// stage copies a backup and makes it the log that is put in place.
func (r *restore) stage(ctx context.Context, m *Manifest, dir, stage string) error {
	if err := m.strangers(dir); err != nil {
		return err
	}
	for _, f := range m.Files {
		if err := copyFile(ctx, f, dir, stage); err != nil {
			return err
		}
	}
	// Before SQLite writes to them: whoever can write to a backup can write digests.
	if err := checkSchemas(ctx, stage, m.Openings); err != nil {
		return err
	}
	return r.run(ctx, m)
}

// copyFile copies a file of a backup if it is what the manifest says.
func copyFile(ctx context.Context, f File, from, to string) (err error) {
	src, err := openPart(from, f.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s is not there", ErrDamaged, f.Name)
	} else if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(filepath.Join(to, f.Name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(dst, h), reader{ctx, src})
	if err != nil {
		return err
	}
	if sum := hex.EncodeToString(h.Sum(nil)); n != f.Size || sum != f.SHA256 {
		return fmt.Errorf("%w: %s has %d bytes with SHA-256 %s; when it was written it had %d with %s", ErrDamaged, f.Name, n, sum, f.Size, f.SHA256)
	}
	return dst.Sync()
}

// reader reads until a context ends.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// run verifies the log at r.path, finds out how much it has signed, and brings in
// what it lacks. The manifest is nil where there is no backup.
func (r *restore) run(ctx context.Context, m *Manifest) (err error) {
	log, err := sqlite.OpenLog(ctx, r.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	if r.known, err = r.verify(ctx, m); err != nil {
		return err
	}
	if r.newest, err = newest(r.known); err != nil {
		return err
	}
	if r.newest != nil {
		r.outcome.Newest, r.outcome.Seen = r.newest.size, r.newest.where
	}
	r.askRetention(ctx)
	if m != nil {
		r.outcome.Size = m.Size
		if err := r.checkGap(); err != nil {
			return err
		}
	}
	if r.newest != nil {
		// From here on the log does not start with fewer entries.
		if err := sqlite.WriteSigned(r.path, r.newest.signed()); err != nil {
			return err
		}
	}
	// Without entries it shows that the log can be opened at all.
	body, err := r.replay(ctx, log, none)
	if err != nil {
		return err
	}
	r.outcome.Size = body.Size
	if err := r.bring(ctx, log); err != nil {
		return err
	}
	published, err := r.publish(ctx, log)
	if err != nil {
		return err
	}
	return r.lift(ctx, log, published)
}

// verify verifies the log at r.path and returns the checkpoints that are known of
// it.
func (r *restore) verify(ctx context.Context, m *Manifest) (known []sighting, err error) {
	db, err := sqlite.OpenLogFile(ctx, r.path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	state, err := db.Load(ctx)
	if err != nil {
		return nil, err
	}
	if state.Size == 0 {
		return nil, fmt.Errorf("%w: it has no entries", ErrNone)
	}
	key, err := genesis(ctx, db)
	if err != nil {
		return nil, err
	}
	if key.String() != r.Key.Public.String() {
		return nil, fmt.Errorf("%w: it is of log %s, the configured key is %s", ErrOther, key, r.Key.Public)
	}
	if m != nil && (m.Size != state.Size || string(m.Root) != string(state.Root[:])) {
		return nil, fmt.Errorf("%w: it has %d entries with root %s, its manifest says %d with %x", ErrDamaged, state.Size, state.Root, m.Size, m.Root)
	}
	r.outcome.Stored = state.Size
	if known, err = r.gather(ctx, state, m); err != nil {
		return nil, err
	}
	// One that contradicts another would hide behind it.
	if _, err := newest(known); err != nil {
		return nil, err
	}
	found, err := verify(ctx, db, state, verification{r.Policy, known, r.Progress.of("verifying entries")})
	r.sealed = found.sealed
	return known, err
}

// replay stores entries behind those that are there.
func (r *restore) replay(ctx context.Context, log storage.Log, entries entries) (body, error) {
	return tlog.Replay(ctx, tlog.Config{Key: r.Key, Policy: r.Policy, Storage: log, Logger: r.Logger}, entries)
}

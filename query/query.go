// Package query is the search index of the log: a cache that is rebuilt from
// the log at will, and never a source of truth. What it finds it shows from the
// log's own entries, and it serves the proofs that go with them: the calls
// /v1/records and /v1/producers, and the evidence files of docs/formats.md.
//
// The index is cut into segments of consecutive entries. A segment that is full
// is written once, as sets of entries by field and value; the newest one lives
// in memory and is made again from the log after a start. docs/formats.md says
// nothing about its file, because the file can be deleted.
//
// Start with [Open], let [Index.Run] follow the log, and serve [Index.Handler].
package query

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
)

// Source is the log that the index follows.
type Source interface {
	// Size is the number of entries that are durable.
	Size() uint64
	// Published is the size of the newest published checkpoint.
	Published() uint64
	// Bundle returns entry bundle n in the form of C2SP tlog-tiles, complete or
	// as far as the entries go.
	Bundle(ctx context.Context, n uint64) ([]byte, error)
	// Wait returns once Size is greater than size, or with the error of ctx.
	Wait(ctx context.Context, size uint64) error
}

// Config says how an index works.
type Config struct {
	// Logger is told of rebuilds and of entries that make no sense; nil discards.
	Logger *slog.Logger

	segment uint64 // entries in a segment, a multiple of 256; 0 is defaultSegment
}

// defaultSegment is a compromise: what a start reads again and memory holds
// grows with it, and a search visits the fewer segments.
const defaultSegment = 1 << 15

// cachedBytes bounds the entries kept in memory for being read again.
const cachedBytes = 16 << 20

// ErrUnavailable is wrapped where the index cannot answer for now: it is being
// rebuilt, has not read so far, or a search took too long.
var ErrUnavailable = errors.New("search index not available")

// gather is how long entries are waited for, once there is one, so that they are
// indexed together.
const gather = 10 * time.Millisecond

// errOtherLog says that the index file belongs to another log, or to a history
// that the log no longer has.
var errOtherLog = errors.New("the index does not match the log")

// Index is an open index. All methods can be called from many goroutines, Run
// from one at a time.
type Index struct {
	path    string
	src     Source
	log     *slog.Logger
	segment uint64
	bundles *bundles
	damaged chan error                         // holds one report of damage to the file, for Run
	wake    atomic.Pointer[context.CancelFunc] // ends the wait of Run for entries

	mu      sync.RWMutex // guards what follows
	st      *store
	indexed uint64
	tail    *tail
	zones   []zone // of the full segments; elements never change
	ring    *record.Keyring
	names   map[keys.ID]string
	// enrolments are the producers' keys, oldest first.
	enrolments []enrolment

	in      ingest // owned by Open, then by Run
	trimmed uint64 // the floor up to which the file is trimmed; owned like in
}

// Open opens the index file at path, or makes it. A file that is damaged, from
// another version or of another log is deleted, and the index starts anew; a
// file that is a database of something else is refused.
func Open(path string, src Source, cfg Config) (*Index, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.segment == 0 {
		cfg.segment = defaultSegment
	}
	ix := &Index{
		path: path, src: src, log: cfg.Logger, segment: cfg.segment,
		bundles: newBundles(src, cachedBytes), damaged: make(chan error, 1),
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := ix.open(ctx); err != nil {
		return nil, fmt.Errorf("opening search index: %w", err)
	}
	return ix, nil
}

// open opens the file and loads it, or replaces it.
func (ix *Index) open(ctx context.Context) error {
	st, err := openStore(ctx, ix.path, ix.segment, ix.log)
	if err != nil {
		return err
	}
	ix.setStore(st)
	err = ix.load(ctx)
	if isDamage(err) || errors.Is(err, errOtherLog) {
		return ix.rebuild(ctx, err)
	}
	if err != nil {
		err = errors.Join(err, st.close())
	}
	return err
}

// rebuild deletes the file and starts anew.
func (ix *Index) rebuild(ctx context.Context, why error) error {
	ix.mu.Lock()
	ix.indexed, ix.tail, ix.zones = 0, newTail(0, ix.segment), nil
	ix.mu.Unlock()
	ix.log.Warn("search index is deleted and rebuilt from the log", "file", ix.path, "reason", why)
	if err := ix.store().close(); err != nil {
		ix.log.Warn("closing the old search index", "error", err)
	}
	if err := removeDatabase(ix.path); err != nil {
		return err
	}
	st, err := openStore(ctx, ix.path, ix.segment, ix.log)
	if err != nil {
		return err
	}
	ix.setStore(st)
	select {
	case <-ix.damaged: //nolint:errcheck // a report about the old file
	default:
	}
	return ix.load(ctx)
}

func (ix *Index) store() *store {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return ix.st
}

func (ix *Index) setStore(st *store) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.st = st
}

// Close closes the file. Run must have returned.
func (ix *Index) Close() error {
	if err := ix.store().close(); err != nil {
		return fmt.Errorf("closing search index: %w", err)
	}
	return nil
}

// Indexed is the number of entries that searches cover.
func (ix *Index) Indexed() uint64 {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return ix.indexed
}

// published is the number of entries that calls may show.
func (ix *Index) published() uint64 { return min(ix.src.Published(), ix.src.Size()) }

// name returns the name under which a producer's key is enrolled, or "".
func (ix *Index) name(id keys.ID) string {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return ix.names[id]
}

// report hands damage that a reader found in a file to Run, and returns what the
// reader tells its caller.
func (ix *Index) report(st *store, err error) error {
	if !isDamage(err) && !isClosed(err) {
		return err
	}
	ix.mu.RLock()
	// A file that is replaced already is not replaced for it once more.
	if isDamage(err) && st == ix.st {
		ix.noteDamage(err)
	}
	ix.mu.RUnlock()
	return fmt.Errorf("%w: it is being rebuilt: %w", ErrUnavailable, err)
}

// noteDamage makes the next round of Run rebuild.
func (ix *Index) noteDamage(err error) {
	select {
	case ix.damaged <- err:
	default:
	}
	if wake := ix.wake.Load(); wake != nil {
		(*wake)()
	}
}

// Run follows the log until ctx ends; then it returns nil. Trouble with log or
// file is retried, damage to the file mended by building it anew.
func (ix *Index) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := ix.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		if isDamage(err) || errors.Is(err, errOtherLog) {
			err = ix.rebuild(ctx, err)
		} else {
			ix.log.Warn("search index is behind the log", "error", err, "indexed", ix.Indexed())
			sleep(ctx, time.Second)
			// What a failed batch left in memory is not to be trusted.
			err = ix.load(ctx)
		}
		if err != nil && ctx.Err() == nil {
			ix.log.Error("search index cannot be opened", "error", err)
			sleep(ctx, 5*time.Second)
			if isDamage(err) || isClosed(err) || errors.Is(err, errOtherLog) {
				ix.noteDamage(fmt.Errorf("%w: %w", errDamaged, err))
			}
		}
	}
	return nil
}

// follow indexes entries until something fails.
func (ix *Index) follow(ctx context.Context) error {
	for {
		select {
		case err := <-ix.damaged:
			return err
		default:
		}
		if floor := ix.floor(); floor > ix.trimmed {
			if err := ix.trim(ctx, floor); err != nil {
				return fmt.Errorf("trimming search index: %w", err)
			}
		}
		if n := ix.Indexed(); ix.src.Size() <= n {
			if err := ix.await(ctx, n); err != nil {
				return err
			}
			// Searches see what is published, which takes longer than this.
			sleep(ctx, gather)
			continue
		}
		if err := ix.step(ctx); err != nil {
			return err
		}
	}
}

// await returns once the log has more than n entries, or a reader has found
// damage.
func (ix *Index) await(ctx context.Context, n uint64) error {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	ix.wake.Store(&cancel)
	if len(ix.damaged) > 0 || ix.floor() > ix.trimmed {
		return nil
	}
	err := ix.src.Wait(waiting, n)
	if waiting.Err() != nil {
		return ctx.Err()
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"github.com/sealtap/sealtap/failpoint"
	"github.com/sealtap/sealtap/witness"
)

// pageBytes is about what a head adds to a commit: it may lie on a page of its own.
const pageBytes = 4 << 10

// witnessSchema describes the database of a witness. Sizes are kept as the
// signed integer of the same 64 bits, and only ever compared for equality.
func witnessSchema() Schema {
	return Schema{
		Kind:          "witness",
		ApplicationID: 0x53545701, // "STW", 1
		Migrations: []string{`
CREATE TABLE head (
	id       INTEGER PRIMARY KEY,
	origin   TEXT NOT NULL UNIQUE,
	size     INTEGER NOT NULL,
	root     BLOB NOT NULL CHECK (length(root) = 32),
	note     BLOB NOT NULL, -- signed by the log
	cosigned BLOB           -- the same or an earlier one, with our cosignature
) STRICT;
CREATE TABLE fork (
	id           INTEGER PRIMARY KEY,
	origin       TEXT NOT NULL,
	kind         TEXT NOT NULL,
	offered_size INTEGER NOT NULL,
	offered_root BLOB NOT NULL,
	offered_note BLOB NOT NULL,
	latest_size  INTEGER NOT NULL,
	latest_root  BLOB NOT NULL,
	latest_note  BLOB,
	seen         INTEGER NOT NULL, -- nanoseconds since 1970
	UNIQUE (origin, kind, offered_size, offered_root)
) STRICT;
`, `
ALTER TABLE fork ADD COLUMN proof BLOB;     -- hashes of 32 bytes
ALTER TABLE fork ADD COLUMN beginning BLOB; -- the root that the proof leads from
UPDATE fork SET kind = 'unproven' WHERE kind = 'proof';
CREATE TABLE doubt (
	origin TEXT PRIMARY KEY, -- '' for all
	why    TEXT NOT NULL,
	since  INTEGER NOT NULL, -- seconds since 1970
	note   BLOB              -- a head that was cosigned by us and is not known here
) STRICT;
CREATE TABLE life (
	id BLOB NOT NULL -- of the one row, as in the file beside the database
) STRICT;
`},
	}
}

// Witness is the store of a witness. It implements [witness.Store].
type Witness struct {
	db                            *DB
	path                          string
	selectHead                    *sql.Stmt
	insertHead, updateHead        *sql.Stmt
	selectPublished, setPublished *sql.Stmt

	committing chan struct{} // held by the one goroutine that commits for all

	mu        sync.Mutex
	pending   []*advance              // wait for the next commit
	published map[string][]byte       // by origin: not written yet
	heads     map[string]witness.Head // by origin: as last committed, where that is certain
}

// advance is one waiting Advance.
type advance struct {
	from    *witness.Head
	next    witness.Head
	outcome error         // to be read once done is closed
	done    chan struct{} // closed by whoever committed
}

// OpenWitness opens the store at path as [Open] does.
func OpenWitness(ctx context.Context, path string) (*Witness, error) {
	db, err := Open(ctx, path, witnessSchema())
	if err != nil {
		return nil, err
	}
	if err = errors.Join(db.keepWAL(ctx, path), makeRoom(path)); err != nil {
		return nil, fmt.Errorf("opening database %s: %w", path, errors.Join(err, db.Close()))
	}
	w := &Witness{
		db:         db,
		path:       path,
		committing: make(chan struct{}, 1),
		published:  make(map[string][]byte),
		heads:      make(map[string]witness.Head),
	}
	for _, s := range []struct {
		stmt **sql.Stmt
		pool *sql.DB
		text string
	}{
		{&w.selectHead, db.Reader, `SELECT size, root, note FROM head WHERE origin = ?`},
		{&w.selectPublished, db.Reader, `SELECT cosigned FROM head WHERE origin = ?`},
		{&w.insertHead, db.Writer, `INSERT INTO head (size, root, note, cosigned, origin) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`},
		{&w.updateHead, db.Writer, `UPDATE head SET size = ?, root = ?, note = ?, cosigned = coalesce(?, cosigned)
			WHERE origin = ? AND size = ? AND root = ?`},
		{&w.setPublished, db.Writer, `UPDATE head SET cosigned = ? WHERE origin = ?`},
	} {
		if *s.stmt, err = s.pool.PrepareContext(ctx, s.text); err != nil {
			return nil, fmt.Errorf("opening database %s: %w", path, errors.Join(err, db.Close()))
		}
	}
	return w, nil
}

// Close writes what is published and closes the database.
func (w *Witness) Close() error {
	w.committing <- struct{}{}
	defer func() { <-w.committing }()
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.heads)
	var errs []error
	for origin, cosigned := range w.published {
		_, err := w.setPublished.Exec(cosigned, origin)
		errs = append(errs, err)
	}
	clear(w.published)
	return errors.Join(errors.Join(errs...), w.db.Close())
}

// Head implements [witness.Store].
func (w *Witness) Head(ctx context.Context, origin string) (witness.Head, bool, error) {
	w.mu.Lock()
	h, ok := w.heads[origin]
	w.mu.Unlock()
	if ok {
		return h, true, nil
	}
	var size int64
	h = witness.Head{Origin: origin}
	err := w.selectHead.QueryRowContext(ctx, origin).Scan(&size, (*hash)(&h.Root), &h.Note)
	if errors.Is(err, sql.ErrNoRows) {
		return witness.Head{}, false, nil
	}
	if err != nil {
		return witness.Head{}, false, fmt.Errorf("reading head of %s: %w", origin, err)
	}
	h.Size = uint64(size)
	return h, true, nil
}

// Origins implements [witness.Store].
func (w *Witness) Origins(ctx context.Context) ([]string, error) {
	rows, err := w.db.Reader.QueryContext(ctx, `SELECT origin FROM head UNION SELECT origin FROM fork`)
	if err != nil {
		return nil, fmt.Errorf("reading origins: %w", err)
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var origin string
		if err := rows.Scan(&origin); err != nil {
			return nil, fmt.Errorf("reading origins: %w", err)
		}
		all = append(all, origin)
	}
	return all, rows.Err()
}

// Advance implements [witness.Store]. Advances of several logs that wait at the
// same time are committed together, for the price of one.
func (w *Witness) Advance(ctx context.Context, from *witness.Head, next witness.Head) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	a := &advance{from: from, next: next, done: make(chan struct{})}
	w.mu.Lock()
	w.pending = append(w.pending, a)
	w.mu.Unlock()
	// Either somebody else commits this one with theirs, or it is our turn to
	// commit everything that waits, this one among it. Not with ctx, for the
	// batch is not ours alone.
	select {
	case <-a.done:
	case w.committing <- struct{}{}:
		w.commitPending()
		<-w.committing
		<-a.done
	}
	return a.outcome
}

// commitPending commits what waits. The caller holds committing.
func (w *Witness) commitPending() {
	w.mu.Lock()
	batch := w.pending
	w.pending = nil
	w.mu.Unlock()
	if len(batch) == 0 {
		return
	}
	err := w.commit(batch)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range batch {
		if err != nil {
			a.outcome = fmt.Errorf("writing head of %s: %w", a.next.Origin, err)
			delete(w.heads, a.next.Origin) // it may have been written for all we know
		} else if a.outcome == nil {
			w.heads[a.next.Origin] = a.next
		}
		close(a.done)
	}
}

// commit makes one transaction of the batch.
func (w *Witness) commit(batch []*advance) error {
	tx, err := w.db.Writer.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	insert, update := tx.Stmt(w.insertHead), tx.Stmt(w.updateHead)
	written := make(map[string][]byte)
	for _, a := range batch {
		n := a.next
		w.mu.Lock()
		cosigned := w.published[n.Origin]
		w.mu.Unlock()
		args := []any{int64(n.Size), n.Root[:], n.Note, cosigned, n.Origin}
		stmt := insert
		if a.from != nil {
			stmt, args = update, append(args, int64(a.from.Size), a.from.Root[:])
		}
		res, err := stmt.Exec(args...)
		if err != nil {
			return err
		}
		rows, err := res.RowsAffected()
		if err != nil {
			return err
		}
		if rows != 1 {
			a.outcome = fmt.Errorf("writing head of %s: %w", n.Origin, witness.ErrMoved)
		} else if cosigned != nil {
			written[n.Origin] = cosigned
		}
	}
	failpoint.Here("head-written")
	if err := tx.Commit(); err != nil {
		return err
	}
	failpoint.Here("head-committed")
	w.db.wal.wrote(len(batch) * pageBytes)
	w.mu.Lock()
	defer w.mu.Unlock()
	for origin, cosigned := range written {
		if now := w.published[origin]; len(now) > 0 && &now[0] == &cosigned[0] {
			delete(w.published, origin)
		}
	}
	return nil
}

// Publish implements [witness.Store]. The next Advance or Close writes it: a
// commit of its own would double the cost of every cosignature.
func (w *Witness) Publish(_ context.Context, origin string, cosigned []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.published[origin] = cosigned
	return nil
}

// Published implements [witness.Store].
func (w *Witness) Published(ctx context.Context, origin string) (cosigned []byte, err error) {
	w.mu.Lock()
	cosigned = w.published[origin]
	w.mu.Unlock()
	if cosigned != nil {
		return cosigned, nil
	}
	err = w.selectPublished.QueryRowContext(ctx, origin).Scan(&cosigned)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("reading cosigned checkpoint of %s: %w", origin, err)
	}
	return cosigned, nil
}

// hash reads a column that holds a hash; a damaged database must not panic.
type hash [32]byte

// Scan implements [sql.Scanner].
func (h *hash) Scan(src any) error {
	b, ok := src.([]byte)
	if !ok || len(b) != len(h) {
		return errors.New("the column holds no 32-byte hash")
	}
	copy(h[:], b)
	return nil
}

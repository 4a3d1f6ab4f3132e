package sqlite

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/sealtap/sealtap/durable"
	"github.com/sealtap/sealtap/witness"
)

// Doubts implements [witness.Store].
func (w *Witness) Doubts(ctx context.Context) ([]witness.Doubt, error) {
	rows, err := w.db.Reader.QueryContext(ctx, `SELECT origin, why, since, note FROM doubt ORDER BY origin`)
	if err != nil {
		return nil, fmt.Errorf("reading doubts: %w", err)
	}
	defer rows.Close()
	var all []witness.Doubt
	for rows.Next() {
		var d witness.Doubt
		var since int64
		if err := rows.Scan(&d.Origin, &d.Why, &since, &d.Seen); err != nil {
			return nil, fmt.Errorf("reading doubts: %w", err)
		}
		d.Since = time.Unix(since, 0)
		all = append(all, d)
	}
	return all, rows.Err()
}

// AddDoubt implements [witness.Store].
func (w *Witness) AddDoubt(ctx context.Context, d witness.Doubt) error {
	_, err := w.db.Writer.ExecContext(ctx, `INSERT INTO doubt (origin, why, since, note) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		d.Origin, d.Why, d.Since.Unix(), d.Seen)
	if err != nil {
		return fmt.Errorf("keeping doubt: %w", err)
	}
	return nil
}

// SplitDoubt implements [witness.Store].
func (w *Witness) SplitDoubt(ctx context.Context, origins []string) error {
	return w.change(ctx, "splitting doubt", func(tx *sql.Tx) error {
		const each = `INSERT INTO doubt (origin, why, since) SELECT ?, why, since FROM doubt WHERE origin = '' ON CONFLICT DO NOTHING`
		for _, origin := range origins {
			if _, err := tx.ExecContext(ctx, each, origin); err != nil {
				return err
			}
		}
		for _, s := range []string{
			`INSERT INTO doubt (origin, why, since) SELECT head.origin, doubt.why, since FROM head, doubt WHERE doubt.origin = '' ON CONFLICT DO NOTHING`,
			`DELETE FROM doubt WHERE origin = ''`,
		} {
			if _, err := tx.ExecContext(ctx, s); err != nil {
				return err
			}
		}
		return nil
	})
}

// Settle implements [witness.Store].
func (w *Witness) Settle(ctx context.Context, origin string, next *witness.Head) error {
	err := w.change(ctx, "settling doubt", func(tx *sql.Tx) error {
		if next != nil {
			_, err := tx.ExecContext(ctx, `INSERT INTO head (origin, size, root, note) VALUES (?, ?, ?, ?)
ON CONFLICT (origin) DO UPDATE SET size = excluded.size, root = excluded.root, note = excluded.note`, origin, int64(next.Size), next.Root[:], next.Note)
			if err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM doubt WHERE origin = ?`, origin)
		return err
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.heads, origin)
	return err
}

// change makes one transaction.
func (w *Witness) change(ctx context.Context, what string, do func(*sql.Tx) error) error {
	tx, err := w.db.Writer.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer tx.Rollback()
	if err := do(tx); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// lifeHeader is the first line of the file beside the database of a witness; the
// other lines are identifiers.
const lifeHeader = "sealtap/witness-life/v1"

// BeginLife looks whether the database is the one that was last used here: a
// random identifier stands in it and in the file beside it, <path>.life, and is
// replaced now and by [Witness.Renew]. A database that was put back from a copy has
// an older one. If it is not the same the witness is in doubt about all logs from
// then on, and why is returned.
func (w *Witness) BeginLife(ctx context.Context) (why string, err error) {
	var own []byte
	err = w.db.Reader.QueryRowContext(ctx, `SELECT id FROM life`).Scan(&own)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("reading identifier of the database: %w", err)
	}
	ids, err := w.readLife()
	if err != nil {
		return "", err
	}
	switch name := w.path + ".life"; {
	case own == nil && ids == nil: // the first life
	case own == nil:
		why = fmt.Sprintf("the database is a new one, but %s says that there was another", name)
	case ids == nil:
		why = fmt.Sprintf("%s is not there: the database comes from elsewhere", name)
	case !ids[string(own)]:
		why = fmt.Sprintf("%s names another state of the database than this one: it was put back from a copy", name)
	}
	if why != "" {
		if err := w.AddDoubt(ctx, witness.Doubt{Why: why, Since: time.Now()}); err != nil {
			return "", err
		}
	}
	return why, w.Renew(ctx)
}

// readLife returns the identifiers in the file beside the database, nil if there is
// no file.
func (w *Witness) readLife() (map[string]bool, error) {
	text, err := os.ReadFile(w.path + ".life")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("reading identifier beside the database: %w", err)
	}
	ids := make(map[string]bool)
	lines := strings.Split(string(text), "\n")
	for _, line := range lines[1:] {
		if id, err := hex.DecodeString(line); err == nil && len(id) > 0 && lines[0] == lifeHeader {
			ids[string(id)] = true
		}
	}
	return ids, nil
}

// Renew gives the database and the file beside it a new identifier. At no moment
// does the file lack the one that the database has.
func (w *Witness) Renew(ctx context.Context) error {
	var own []byte
	err := w.db.Reader.QueryRowContext(ctx, `SELECT id FROM life`).Scan(&own)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("reading identifier of the database: %w", err)
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	if err := w.writeLife(own, id); err != nil {
		return err
	}
	err = w.change(ctx, "renewing identifier of the database", func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM life`); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO life (id) VALUES (?)`, id)
		return err
	})
	if err != nil {
		return err
	}
	return w.writeLife(id)
}

func (w *Witness) writeLife(ids ...[]byte) error {
	var b bytes.Buffer
	b.WriteString(lifeHeader + "\n")
	for _, id := range ids {
		if id != nil {
			fmt.Fprintf(&b, "%x\n", id)
		}
	}
	if err := durable.Replace(w.path+".life", b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("writing identifier beside the database: %w", err)
	}
	return nil
}

// KeepLife renews the identifier until ctx ends, so that a copy of the database is
// known for one soon after it was made. It tells of errors, and tries again.
func (w *Witness) KeepLife(ctx context.Context, every time.Duration, failed func(error)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := w.Renew(ctx); err != nil && ctx.Err() == nil {
			failed(err)
		}
	}
}

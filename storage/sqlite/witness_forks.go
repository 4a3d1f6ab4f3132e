package sqlite

import (
	"context"
	"fmt"
	"time"

	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/fork"
)

// maxForks and maxForkBytes are how many forks of a log and kind are kept, and how
// many bytes of them, the first one whatever its size. The first proves the case,
// and what proves nothing anybody can send: bounds keep a log gone mad, and
// strangers, from filling the disk.
const (
	maxForks     = 16
	maxForkBytes = 1 << 20
)

// AddFork implements [witness.Store].
func (w *Witness) AddFork(ctx context.Context, f witness.Fork) (bool, error) {
	proof := make([]byte, 0, len(f.Proof)*32)
	for _, h := range f.Proof {
		proof = append(proof, h[:]...)
	}
	var beginning []byte
	if f.Beginning != nil {
		beginning = f.Beginning[:]
	}
	bytes := len(f.Offered.Note) + len(f.Latest.Note) + len(proof)
	res, err := w.db.Writer.ExecContext(ctx, `
INSERT INTO fork (origin, kind, offered_size, offered_root, offered_note, latest_size, latest_root, latest_note, seen, proof, beginning)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?14
FROM (SELECT count(*) AS n, coalesce(sum(length(offered_note) + coalesce(length(latest_note), 0) + coalesce(length(proof), 0)), 0) AS bytes
	FROM fork WHERE origin = ?1 AND kind = ?2)
WHERE n = 0 OR n < ?11 AND bytes + ?12 <= ?13
ON CONFLICT DO NOTHING`,
		f.Offered.Origin, string(f.Kind), int64(f.Offered.Size), f.Offered.Root[:], f.Offered.Note,
		int64(f.Latest.Size), f.Latest.Root[:], f.Latest.Note, f.Seen.UnixNano(), proof, maxForks, bytes, maxForkBytes, beginning)
	if err != nil {
		return false, fmt.Errorf("keeping fork of %s: %w", f.Offered.Origin, err)
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// Forks implements [witness.Store].
func (w *Witness) Forks(ctx context.Context, origin string) ([]witness.Fork, error) {
	rows, err := w.db.Reader.QueryContext(ctx, `
SELECT id, kind, offered_size, offered_root, offered_note, latest_size, latest_root, latest_note, seen, proof, beginning
FROM fork WHERE origin = ? ORDER BY id`, origin)
	if err != nil {
		return nil, fmt.Errorf("reading forks of %s: %w", origin, err)
	}
	defer rows.Close()
	var forks []witness.Fork
	for rows.Next() {
		f := witness.Fork{Offered: witness.Head{Origin: origin}, Latest: witness.Head{Origin: origin}}
		var offeredSize, latestSize, seen int64
		var proof, beginning []byte
		if err := rows.Scan(&f.ID, &f.Kind, &offeredSize, (*hash)(&f.Offered.Root), &f.Offered.Note,
			&latestSize, (*hash)(&f.Latest.Root), &f.Latest.Note, &seen, &proof, &beginning); err != nil {
			return nil, fmt.Errorf("reading forks of %s: %w", origin, err)
		}
		f.Offered.Size, f.Latest.Size = uint64(offeredSize), uint64(latestSize)
		for ; len(proof) >= 32; proof = proof[32:] {
			f.Proof = append(f.Proof, [32]byte(proof[:32]))
		}
		if len(beginning) == 32 {
			f.Beginning = (*[32]byte)(beginning)
		}
		f.Seen = time.Unix(0, seen)
		forks = append(forks, f)
	}
	return forks, rows.Err()
}

// DropFork implements [witness.Store].
func (w *Witness) DropFork(ctx context.Context, fits witness.Head) (int, error) {
	res, err := w.db.Writer.ExecContext(ctx, `DELETE FROM fork WHERE origin = ? AND kind = ? AND offered_size = ? AND offered_root = ?`,
		fits.Origin, string(fork.Unproven), int64(fits.Size), fits.Root[:])
	if err != nil {
		return 0, fmt.Errorf("dropping forks of %s: %w", fits.Origin, err)
	}
	n, err := res.RowsAffected()
	return int(n), err
}

// CountForks implements [witness.Store].
func (w *Witness) CountForks(ctx context.Context) (map[string]map[fork.Kind]int, error) {
	rows, err := w.db.Reader.QueryContext(ctx, `SELECT origin, kind, count(*) FROM fork GROUP BY origin, kind`)
	if err != nil {
		return nil, fmt.Errorf("counting forks: %w", err)
	}
	defer rows.Close()
	counts := make(map[string]map[fork.Kind]int)
	for rows.Next() {
		var origin string
		var kind fork.Kind
		var n int
		if err := rows.Scan(&origin, &kind, &n); err != nil {
			return nil, fmt.Errorf("counting forks: %w", err)
		}
		if counts[origin] == nil {
			counts[origin] = make(map[fork.Kind]int)
		}
		counts[origin][kind] = n
	}
	return counts, rows.Err()
}

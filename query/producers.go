package query

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
)

// enrolment is a key that was enrolled.
type enrolment struct {
	key     keys.Public
	index   uint64  // of the statement that enrolled it
	revoked *uint64 // index of the one that revoked it
}

// enrol follows a key change that the keyring has accepted. The caller holds the
// lock.
func (ix *Index) enrol(c *record.KeyChange, index uint64) {
	for _, r := range c.Revoke {
		id := r.Key.ID()
		if i := slices.IndexFunc(ix.enrolments, func(e enrolment) bool { return e.key.ID() == id }); i >= 0 {
			ix.enrolments[i].revoked = &index
		}
	}
	for _, k := range c.Enrol {
		ix.enrolments = append(ix.enrolments, enrolment{key: k, index: index})
		ix.names[k.ID()] = k.Name
	}
}

// producerView is a producer in JSON.
type producerView struct {
	Name         string            `json:"name"`
	KeyID        string            `json:"key_id"`
	VKey         string            `json:"vkey"`
	Enrolled     uint64            `json:"enrolled"`          // index of the statement
	Revoked      *uint64           `json:"revoked,omitempty"` // index of the statement
	Incarnations []incarnationView `json:"incarnations"`
	// NewestPruned says that the newest incarnation is not among them: it has records,
	// all below the log's minimum index.
	NewestPruned bool `json:"newest_pruned,omitempty"`
}

// incarnationView is one incarnation of a producer in JSON.
type incarnationView struct {
	Incarnation string     `json:"incarnation"`
	Records     uint64     `json:"records"`
	Sealed      uint64     `json:"sealed"` // of them under a seal
	First       recordView `json:"first"`
	Last        recordView `json:"last"`
	LastSeal    *uint64    `json:"last_seal,omitempty"` // its index
}

type recordView struct {
	Index    uint64 `json:"index"`
	Sequence uint64 `json:"sequence"`
	Time     string `json:"time"`
}

// producers serves GET /v1/producers.
func (h *handler) producers(w http.ResponseWriter, r *http.Request) error {
	limit, from, err := parseProducers(r)
	if err != nil {
		return err
	}
	h.ix.mu.RLock()
	st, all := h.ix.st, slices.Clone(h.ix.enrolments)
	size := min(h.ix.indexed, h.ix.published())
	h.ix.mu.RUnlock()
	answer := struct {
		Producers []producerView `json:"producers"`
		// Size is how many entries of the log are looked at.
		Size uint64 `json:"size"`
		Next string `json:"next,omitempty"`
	}{Producers: []producerView{}, Size: size}
	for i := from; i < uint64(len(all)) && all[i].index < size; i++ {
		if len(answer.Producers) == limit {
			answer.Next = formatCursor(i, producersDigest())
			break
		}
		v, err := h.ix.producerView(r.Context(), st, all[i], size)
		if err != nil {
			return h.ix.report(st, err)
		}
		answer.Producers = append(answer.Producers, v)
	}
	return writeJSON(w, answer)
}

// producersDigest tells cursors of this call from those of searches.
func producersDigest() [8]byte {
	sum := sha256.Sum256([]byte("producers"))
	return [8]byte(sum[:8])
}

func parseProducers(r *http.Request) (limit int, from uint64, err error) {
	if err := onlyParameters(r, "limit", "cursor"); err != nil {
		return 0, 0, err
	}
	limit = defaultLimit
	values := r.URL.Query()
	if values.Has("limit") {
		if limit, err = parseLimit(values.Get("limit")); err != nil {
			return 0, 0, fmt.Errorf("%w: %q %w", errParameter, "limit", err)
		}
	}
	if values.Has("cursor") {
		// Producers are never removed, so the number of those shown is a place.
		if from, err = parseCursor(values.Get("cursor"), producersDigest()); err != nil {
			return 0, 0, fmt.Errorf("%w: %q %w", errParameter, "cursor", err)
		}
	}
	return limit, from, nil
}

// producerView describes a producer as far as the first size entries go.
func (ix *Index) producerView(ctx context.Context, st *store, e enrolment, size uint64) (producerView, error) {
	id := e.key.ID()
	v := producerView{Name: e.key.Name, KeyID: id.String(), VKey: e.key.String(), Enrolled: e.index, Incarnations: []incarnationView{}}
	if e.revoked != nil && *e.revoked < size {
		v.Revoked = e.revoked
	}
	streams, err := st.incarnations(ctx, id)
	if err != nil {
		return v, fmt.Errorf("reading producer %q: %w", e.key.Name, err)
	}
	for i, s := range streams {
		iv, ok, err := ix.incarnationView(ctx, st, s, size)
		if err == nil && !ok && i == len(streams)-1 {
			v.NewestPruned, err = ix.belowMinimum(ctx, record.Stream{Producer: id, Incarnation: s.name})
		}
		if err != nil {
			return v, fmt.Errorf("reading producer %q: %w", e.key.Name, err)
		}
		if ok {
			v.Incarnations = append(v.Incarnations, iv)
		}
	}
	return v, nil
}

// belowMinimum reports whether a stream has records that the log let go of.
func (ix *Index) belowMinimum(ctx context.Context, s record.Stream) (bool, error) {
	p, ok := ix.src.(PrunedSource)
	if !ok {
		return false, nil
	}
	n, _, err := p.StreamAtMinimum(ctx, s)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return n > 0, nil
}

type incarnation struct {
	id   int64
	name record.Incarnation
}

// incarnations returns the streams of a producer, oldest first.
func (st *store) incarnations(ctx context.Context, id keys.ID) ([]incarnation, error) {
	rows, err := st.db.Reader.QueryContext(ctx, "SELECT id, incarnation FROM stream WHERE producer = ? ORDER BY id", id[:])
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []incarnation
	for rows.Next() {
		var s incarnation
		var name []byte
		if err := rows.Scan(&s.id, &name); err != nil {
			return nil, err
		}
		copy(s.name[:], name)
		list = append(list, s)
	}
	return list, rows.Err()
}

// incarnationView reports false if nothing of the stream is among the first size
// entries.
func (ix *Index) incarnationView(ctx context.Context, st *store, s incarnation, size uint64) (v incarnationView, ok bool, err error) {
	var last run
	err = st.runLast.QueryRow(s.id, size).Scan(&last.seq, &last.index, &last.n)
	if errors.Is(err, sql.ErrNoRows) {
		return v, false, nil
	}
	if err != nil {
		return v, false, err
	}
	last.n = min(last.n, size-last.index)
	floor := ix.floor()
	if last.index+last.n <= floor {
		return v, false, nil // nothing is left of it
	}
	first, err := st.firstRun(s.id, floor)
	if err != nil {
		return v, false, err
	}
	v.Incarnation, v.Records = s.name.String(), last.seq+last.n
	if v.First, err = ix.recordView(ctx, first.index); err != nil {
		return v, false, err
	}
	if v.Last, err = ix.recordView(ctx, last.index+last.n-1); err != nil {
		return v, false, err
	}
	var seal uint64
	err = st.sealLast.QueryRow(s.id, size).Scan(&v.Sealed, &seal)
	if errors.Is(err, sql.ErrNoRows) {
		return v, true, nil
	}
	v.LastSeal = &seal
	return v, true, err
}

func (ix *Index) recordView(ctx context.Context, index uint64) (recordView, error) {
	r, err := ix.record(ctx, index)
	if err != nil {
		return recordView{}, err
	}
	if r == nil {
		return recordView{}, fmt.Errorf("%w: entry %d is not the record it should be", errDamaged, index)
	}
	return recordView{index, r.GetSequence(), time.Unix(0, r.GetTime()).UTC().Format("2006-01-02T15:04:05.000000000Z")}, nil
}

package query

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"net/http"

	tlogproof "github.com/transparency-dev/formats/proof"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// head is the checkpoint under which all proofs of one answer are made.
type head struct {
	signed []byte
	body   checkpoint.Body
}

func (h *handler) head() (head, error) {
	signed, body, ok := h.proofs.Checkpoint()
	if !ok {
		return head{}, fmt.Errorf("%w: no checkpoint is published yet", errNotFound)
	}
	return head{signed, body}, nil
}

// evidence serves GET /v1/records/{index}/evidence.
func (h *handler) evidence(w http.ResponseWriter, r *http.Request) error {
	disclose, err := h.wantsOpenings(r)
	if err != nil {
		return err
	}
	at, err := h.head()
	if err != nil {
		return err
	}
	index, entry, e, err := h.entry(r, at.body.Size)
	if err != nil {
		return err
	}
	ev, err := h.prove(r.Context(), index, entry, e, at)
	if err != nil {
		return err
	}
	if disclose {
		if ev.Openings, err = h.openings(r, index, e); err != nil {
			return err
		}
	}
	return writeText(w, ev.Marshal())
}

// wantsOpenings reports whether the caller asks to disclose openings; evidence
// is made to be given away, so they are never in it unasked.
func (h *handler) wantsOpenings(r *http.Request) (bool, error) {
	if err := onlyParameters(r, "openings"); err != nil {
		return false, err
	}
	switch v := r.URL.Query().Get("openings"); {
	case !r.URL.Query().Has("openings"), v == "0":
		return false, nil
	case v != "1":
		return false, fmt.Errorf("%w: %q is 0 or 1, not %.60q", errParameter, "openings", v)
	case !h.reader.Allowed(r):
		return false, fmt.Errorf("%w: openings are for readers: ask on loopback, or with a bearer token of the readers file", errForbidden)
	}
	return true, nil
}

func writeText(w http.ResponseWriter, text []byte) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write(text)
	return nil
}

// prove collects everything that proves the entry at the index.
func (h *handler) prove(ctx context.Context, index uint64, entry []byte, e record.Entry, at head) (*record.Evidence, error) {
	ev := &record.Evidence{Entry: entry}
	var err error
	if ev.Log, err = h.logProof(ctx, index, at); err != nil {
		return nil, err
	}
	if ev.Genesis, err = h.proven(ctx, 0, at); err != nil {
		return nil, err
	}
	if named, ok := h.ix.logKey(at.body.Size); ok {
		if ev.LogKey, err = h.proven(ctx, named, at); err != nil {
			return nil, err
		}
	}
	var producer *keys.ID
	switch {
	case e.Record != nil:
		producer = &e.Record.Stream.Producer
		if err := h.proveProducer(ctx, ev, index, e.Record, e.Leaf, at); err != nil {
			return nil, err
		}
	case e.Seal != nil:
		producer = &e.Seal.Stream.Producer
	}
	if producer == nil {
		return ev, nil
	}
	enrolled, ok := h.ix.enrolled(*producer)
	if !ok {
		return nil, fmt.Errorf("%w: the statement that enrolled producer %s is not indexed", h.behind(index), producer)
	}
	ev.KeyChange, err = h.proven(ctx, enrolled, at)
	return ev, err
}

// behind is the reason why something about an entry is not in the index.
func (h *handler) behind(index uint64) error {
	if h.ix.Indexed() <= index {
		return fmt.Errorf("%w: it has read %d entries", ErrUnavailable, h.ix.Indexed())
	}
	return fmt.Errorf("%w in the log", errNotFound)
}

// logKey returns the index of the newest statement, among the first size entries,
// that names a key of the log; the genesis apart.
func (ix *Index) logKey(size uint64) (index uint64, ok bool) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	if ix.ring == nil {
		return 0, false
	}
	for _, k := range ix.ring.LogKeys() {
		if k.Index > 0 && k.Index < size {
			index, ok = k.Index, true
		}
	}
	return index, ok
}

// enrolled returns the index of the statement that enrolled a producer.
func (ix *Index) enrolled(id keys.ID) (uint64, bool) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	if ix.ring == nil {
		return 0, false
	}
	return ix.ring.Enrolled(id)
}

// logProof proves an entry in the log.
func (h *handler) logProof(ctx context.Context, index uint64, at head) (tlogproof.TLogProof, error) {
	hashes, err := h.proofs.InclusionProof(ctx, index, at.body.Size)
	if err != nil {
		return tlogproof.TLogProof{}, fmt.Errorf("proving entry %d: %w", index, err)
	}
	return newProof(index, hashes, at.signed), nil
}

func newProof(index uint64, hashes []record.Hash, signed []byte) tlogproof.TLogProof {
	p := tlogproof.TLogProof{Index: index, Checkpoint: signed, Hashes: make([][32]byte, len(hashes))}
	for i, h := range hashes {
		p.Hashes[i] = h
	}
	return p
}

// proven returns the entry at an index with its proof.
func (h *handler) proven(ctx context.Context, index uint64, at head) (*record.Proven, error) {
	entry, err := h.ix.bundles.entry(ctx, index)
	if err != nil {
		return nil, err
	}
	p, err := h.logProof(ctx, index, at)
	if err != nil {
		return nil, err
	}
	return &record.Proven{Entry: entry, Proof: p}, nil
}

// proveProducer proves a record, and the newest beacon before it, in the
// producer's tree.
func (h *handler) proveProducer(ctx context.Context, ev *record.Evidence, index uint64, r *record.Record, leaf record.Hash, at head) error {
	if floor := h.ix.floor(); index < floor {
		return prunedError(index, floor) // the entry stands beside a statement, but the tree begins later
	}
	st := h.ix.store()
	seal, id, err := h.ix.sealOver(ctx, st, r.Stream, r.GetSequence(), at.body.Size)
	if err != nil {
		return h.ix.report(st, err)
	}
	if seal == nil {
		return fmt.Errorf("%w: no seal that is published covers record %d of its producer; ask again", h.behind(index), r.GetSequence())
	}
	// Where the log lacks records of the producer, so does the tree. It is not the
	// index then that is damaged.
	if last, ok, err := st.runAt(id, seal.Size-1); err != nil || !ok || last.seq+last.n < seal.Size {
		if err != nil {
			return h.ix.report(st, err)
		}
		return fmt.Errorf("%w: the log lacks records that the seal over record %d of its producer covers; audit it", errNotFound, r.GetSequence())
	}
	tree, err := h.ix.streamTree(ctx, st, r.Stream, id)
	if err != nil {
		return h.ix.report(st, err)
	}
	p, err := proveRecord(ctx, tree, seal, r.GetSequence(), leaf)
	if err != nil {
		return h.ix.report(st, err)
	}
	ev.Producer = p
	before, ok, err := st.beaconBefore(id, r.GetSequence())
	if err != nil || !ok || before < h.ix.floor() {
		return h.ix.report(st, err)
	}
	entry, err := h.ix.bundles.entry(ctx, before)
	if err != nil {
		return err
	}
	b, err := record.Parse(entry)
	if err != nil || b.Record == nil || b.Record.Stream != r.Stream {
		return h.ix.report(st, fmt.Errorf("%w: entry %d is not the beacon it should be", errDamaged, before))
	}
	if text, err := checkpoint.Text(b.Record.GetBeacon().GetCheckpoint()); err == nil {
		if body, _, err := checkpoint.Parse(text); err == nil && body.Origin != at.body.Origin {
			return nil // it holds a head of the log before this one, which bounds nothing here
		}
	}
	if p, err = proveRecord(ctx, tree, seal, b.Record.GetSequence(), b.Leaf); err != nil {
		return h.ix.report(st, err)
	}
	ev.Beacon = &record.Proven{Entry: entry, Proof: *p}
	return nil
}

// sealOver returns the first seal over a record among the first size entries of
// the log, nil if there is none, and the number of the stream.
func (ix *Index) sealOver(ctx context.Context, st *store, s record.Stream, sequence, size uint64) (*record.Seal, int64, error) {
	id, err := st.streamID(ctx, s)
	if err != nil || id == 0 || sequence > math.MaxInt64 {
		return nil, 0, err
	}
	at, err := indices(st.sealCovering, id, int64(sequence), int64(size))
	if err != nil || len(at) == 0 {
		return nil, 0, err
	}
	entry, err := ix.bundles.entry(ctx, at[0])
	if err != nil {
		return nil, 0, err
	}
	e, err := record.Parse(entry)
	if err != nil || e.Seal == nil || e.Seal.Stream != s {
		return nil, 0, fmt.Errorf("%w: entry %d is not the seal it should be", errDamaged, at[0])
	}
	return e.Seal, id, nil
}

// proveRecord proves a record in its producer's tree under a seal. The proof is
// checked before it leaves: the tiles are a cache.
func proveRecord(ctx context.Context, tree tiles.Reader, seal *record.Seal, sequence uint64, leaf record.Hash) (*tlogproof.TLogProof, error) {
	hashes, err := tiles.InclusionProof(ctx, tree, sequence, seal.Size)
	if errors.Is(err, tiles.ErrIncomplete) {
		err = fmt.Errorf("%w: %w", errDamaged, err)
	}
	if errors.Is(err, tiles.ErrRange) { // the minimum index moves beyond it
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err != nil {
		return nil, fmt.Errorf("proving record %d of a producer: %w", sequence, err)
	}
	p := newProof(sequence, hashes, seal.Note)
	raw := make([][]byte, len(hashes))
	for i := range hashes {
		raw[i] = hashes[i][:]
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, sequence, seal.Size, leaf[:], raw, seal.Root[:]); err != nil {
		return nil, fmt.Errorf("proving record %d of a producer: the seal has another root: %w", sequence, checkpoint.Unproven(err))
	}
	return &p, nil
}

// beaconBefore returns the index of the newest beacon before a record.
func (st *store) beaconBefore(stream int64, sequence uint64) (index uint64, ok bool, err error) {
	err = st.beacon.QueryRow(stream, int64(sequence)).Scan(&index)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	return index, err == nil, err
}

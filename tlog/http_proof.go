package tlog

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/transparency-dev/formats/proof"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/policy"
)

// number reads a decimal parameter, and reports whether it is there.
func number(q url.Values, name string) (uint64, bool, error) {
	if !q.Has(name) {
		return 0, false, nil
	}
	n, err := checkpoint.ParseSize(q.Get(name))
	if err != nil || len(q[name]) != 1 {
		return 0, false, fmt.Errorf("%w: %s is one decimal number", errBadRequest, name)
	}
	return n, true, nil
}

// query reads the parameters of a request, and refuses those it does not know.
func query(r *http.Request, known ...string) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBadRequest, err)
	}
next:
	for name := range q {
		for _, k := range known {
			if name == k {
				continue next
			}
		}
		return nil, fmt.Errorf("%w: unknown parameter %.40q", errBadRequest, name)
	}
	return q, nil
}

// head returns the published checkpoint.
func (l *Log) head() (*policy.Checkpoint, error) {
	cp := l.published.Load()
	if cp == nil {
		return nil, fmt.Errorf("%w: there is no checkpoint yet", ErrNotPublished)
	}
	return cp, nil
}

// serveInclusion serves one inclusion proof, or those that a POST asks for.
func (l *Log) serveInclusion(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodPost {
		return l.serveInclusions(w, r)
	}
	q, err := query(r, "index", "leaf", "size")
	if err != nil {
		return err
	}
	cp, err := l.head()
	if err != nil {
		return err
	}
	size, given, err := number(q, "size")
	if err != nil {
		return err
	}
	if !given {
		size = cp.Size
	}
	index, err := l.indexOf(r.Context(), q)
	if err != nil {
		return err
	}
	if index >= size {
		return fmt.Errorf("%w: entry %d, in a tree of size %d", ErrNotPublished, index, size)
	}
	if err := l.checkPublished(size); err != nil {
		return err
	}
	list, err := l.inclusionProofs(r.Context(), []uint64{index}, size)
	if err != nil {
		return err
	}
	b := make([]byte, 0, 256+len(cp.Note)+48*len(list[0].Path))
	b = append(appendInclusion(append(b, '{'), list[0]), ',')
	b = appendSize(b, size)
	// The one of another size is not kept.
	if size == cp.Size {
		b = append(append(b, `,"checkpoint":`...), l.noteJSON(cp)...)
	}
	return serveBytes(w, typeJSON, cacheNever, append(b, "}\n"...))
}

// indexOf returns the entry that a request names, by index or by leaf hash.
func (l *Log) indexOf(ctx context.Context, q url.Values) (uint64, error) {
	index, byIndex, err := number(q, "index")
	switch {
	case err != nil:
		return 0, err
	case byIndex == q.Has("leaf") || len(q["leaf"]) > 1:
		return 0, fmt.Errorf("%w: give either index or leaf", errBadRequest)
	case byIndex:
		return index, nil
	}
	leaf, err := base64.RawURLEncoding.Strict().DecodeString(q.Get("leaf"))
	if err != nil {
		leaf, err = base64.URLEncoding.Strict().DecodeString(q.Get("leaf"))
	}
	if err != nil || len(leaf) != len(record.Hash{}) {
		return 0, fmt.Errorf("%w: leaf is the base64url of a leaf hash", errBadRequest)
	}
	if l.config.LeafIndex == nil {
		return 0, fmt.Errorf("%w: this log finds entries by index only", errBadRequest)
	}
	index, ok, err := l.config.LeafIndex(ctx, record.Hash(leaf))
	if err == nil && !ok {
		err = fmt.Errorf("%w: no entry has this leaf hash", ErrNotPublished)
	}
	return index, err
}

func (l *Log) serveConsistency(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "from", "to")
	if err != nil {
		return err
	}
	from, ok1, err1 := number(q, "from")
	to, ok2, err2 := number(q, "to")
	switch {
	case err1 != nil:
		return err1
	case err2 != nil:
		return err2
	case !ok1 || !ok2:
		return fmt.Errorf("%w: give from and to", errBadRequest)
	}
	if _, err := l.head(); err != nil {
		return err
	}
	path, err := l.ConsistencyProof(r.Context(), from, to)
	if err != nil {
		return err
	}
	b := make([]byte, 0, 64+48*len(path))
	b = strconv.AppendUint(append(b, `{"from":`...), from, 10)
	b = strconv.AppendUint(append(b, `,"to":`...), to, 10)
	b = appendHashes(append(b, ','), path)
	return serveBytes(w, typeJSON, cacheNever, append(b, "}\n"...))
}

// serveProof serves C2SP tlog-proof (https://c2sp.org/tlog-proof).
func (l *Log) serveProof(w http.ResponseWriter, r *http.Request) error {
	index, err := checkpoint.ParseSize(r.PathValue("index"))
	if err != nil {
		return fmt.Errorf("%w: %w", errBadRequest, err)
	}
	text, err := l.Proof(r.Context(), index)
	if err != nil {
		return err
	}
	return serveBytes(w, typeText, cacheNever, text)
}

// Proof returns a C2SP tlog-proof of the entry at the index, under the published
// checkpoint.
func (l *Log) Proof(ctx context.Context, index uint64) ([]byte, error) {
	cp, err := l.head()
	if err != nil {
		return nil, err
	}
	if index >= cp.Size {
		return nil, fmt.Errorf("%w: entry %d of %d", ErrNotPublished, index, cp.Size)
	}
	path, err := l.InclusionProof(ctx, index, cp.Size)
	if err != nil {
		return nil, err
	}
	p := proof.TLogProof{Index: index, Checkpoint: cp.Note}
	for _, h := range path {
		p.Hashes = append(p.Hashes, h)
	}
	return p.Marshal(), nil
}

// witnessInfo is a witness in the answer of /v1/witnesses.
type witnessInfo struct {
	Name string `json:"name"`
	Key  string `json:"key"` // vkey
	// Size and Time are of its cosignature on the published checkpoint, or of
	// the newest that is known; absent if it has not cosigned yet.
	Size uint64     `json:"size,omitempty"`
	Time *time.Time `json:"time,omitempty"`
	// Lag is how many entries of the published checkpoint it has not cosigned.
	Lag       uint64 `json:"lag"`
	LatencyNS int64  `json:"latency_ns,omitempty"` // of the request with which it last cosigned
	Failures  uint64 `json:"failures"`             // requests that it did not cosign, since the start
	WentBack  uint64 `json:"went_back,omitempty"`  // how often it had forgotten what it cosigned
	Error     string `json:"error,omitempty"`
}

func (l *Log) serveWitnesses(w http.ResponseWriter, _ *http.Request) error {
	return serveJSON(w, http.StatusOK, map[string]any{"witnesses": l.witnesses(), "quorum": l.config.Policy.Quorum, "published": l.Published(), "size": l.Size()})
}

// witnesses returns what is known of the witnesses of the policy.
func (l *Log) witnesses() []witnessInfo {
	status := make(map[string]witness.WitnessStatus)
	if l.config.Cosigner != nil {
		for _, s := range l.config.Cosigner.Status() {
			status[s.Name] = s
		}
	}
	cp := l.published.Load()
	list := []witnessInfo{}
	for _, p := range l.config.Policy.Witnesses {
		s := status[p.Name]
		info := witnessInfo{Name: p.Name, Key: p.Key.String(), Size: s.Size, LatencyNS: s.Latency.Nanoseconds(), Failures: s.Failures, WentBack: s.WentBack, Error: s.LastError}
		if !s.LastSeen.IsZero() {
			seen := s.LastSeen.UTC().Truncate(time.Second)
			info.Time = &seen
		}
		if cp != nil {
			for _, c := range cp.Cosignatures {
				if c.Witness == p.Name && cp.Size >= info.Size {
					at := time.Unix(c.Time, 0).UTC()
					info.Size, info.Time = cp.Size, &at
				}
			}
			info.Lag = cp.Size - min(cp.Size, info.Size)
		}
		list = append(list, info)
	}
	return list
}

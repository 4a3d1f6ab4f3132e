package query

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"filippo.io/age"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/serve"
	"github.com/sealtap/sealtap/storage"
)

// searchTimeout bounds one call: a search that finds little can have to look
// through everything.
const searchTimeout = 10 * time.Second

// Proofs is the log that proves what the index shows.
type Proofs interface {
	// Checkpoint returns the newest published checkpoint, if there is one.
	Checkpoint() (signed []byte, body checkpoint.Body, ok bool)
	// InclusionProof returns the audit path of the entry at the index in the tree
	// of the given size.
	InclusionProof(ctx context.Context, index, size uint64) ([]record.Hash, error)
}

// HandlerConfig says what the calls may show.
type HandlerConfig struct {
	Proofs Proofs // required
	// Openings are shown to readers; nil if there are none to show.
	Openings Openings
	// Identities unwrap the data keys of openings; with none, none is shown.
	Identities []age.Identity
	// Readers says who may see openings; the zero value: nobody.
	Readers Readers
}

// handler serves the calls.
type handler struct {
	ix     *Index
	proofs Proofs
	reader Readers
	opener *opener // nil if there is nothing to open
}

// Handler serves GET /v1/records, /v1/records/{index}, its /evidence,
// and /v1/producers.
func (ix *Index) Handler(c HandlerConfig) *serve.Mux {
	h := &handler{ix: ix, proofs: c.Proofs, reader: c.Readers}
	if c.Openings != nil && len(c.Identities) > 0 {
		h.opener = newOpener(c.Openings, c.Identities)
	}
	mux := serve.NewMux()
	for path, call := range map[string]func(http.ResponseWriter, *http.Request) error{
		"/v1/records":                  h.records,
		"/v1/records/{index}":          h.record,
		"/v1/records/{index}/evidence": h.evidence,
		"/v1/producers":                h.producers,
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				w.Header().Set("Allow", "GET, HEAD")
				writeProblem(w, http.StatusMethodNotAllowed, "this call takes GET only")
				return
			}
			// Answers change as the log grows, and with who asks.
			w.Header().Set("Cache-Control", "no-store")
			ctx, cancel := context.WithTimeout(r.Context(), searchTimeout)
			defer cancel()
			if err := call(w, r.WithContext(ctx)); err != nil {
				h.fail(w, r, err)
			}
		})
	}
	return mux
}

// errNotFound and its like are errors that callers are told about.
var (
	errNotFound  = errors.New("not found")
	errForbidden = errors.New("not allowed")
)

// fail maps errors to problem details (RFC 9457).
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, errParameter):
		writeProblem(w, http.StatusBadRequest, err.Error())
	case errors.Is(err, errNotFound):
		writeProblem(w, http.StatusNotFound, err.Error())
	case errors.Is(err, errForbidden):
		writeProblem(w, http.StatusForbidden, err.Error())
	case errors.Is(err, storage.ErrPruned):
		h.gone(w, err)
	case errors.Is(err, ErrUnavailable):
		h.ix.log.Warn("call cannot be answered for now", "path", r.URL.Path, "error", err)
		w.Header().Set("Retry-After", "1")
		writeProblem(w, http.StatusServiceUnavailable, err.Error())
	default:
		// The cause can name files: it is for the operator.
		h.ix.log.Error("call failed", "path", r.URL.Path, "error", err)
		writeProblem(w, http.StatusInternalServerError, "the log could not answer; its own messages say why")
	}
}

func writeProblem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"type": "about:blank", "title": http.StatusText(status), "status": status, "detail": detail,
	})
}

// gone answers for what the log no longer keeps.
func (h *handler) gone(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(http.StatusGone)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"type": "about:blank", "title": http.StatusText(http.StatusGone), "status": http.StatusGone, "detail": err.Error(), "minimum_index": h.ix.floor(),
	})
}

func writeJSON(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, '\n'))
	return nil
}

// records serves GET /v1/records.
func (h *handler) records(w http.ResponseWriter, r *http.Request) error {
	q, err := parseSearch(r.URL.RawQuery, h.ix.producersNamed)
	if err != nil {
		return err
	}
	searched := min(h.ix.Indexed(), h.ix.published())
	found, more, err := h.ix.search(r.Context(), q, searched)
	if err != nil {
		return err
	}
	answer := struct {
		Records []*record.View `json:"records"`
		Next    string         `json:"next,omitempty"`
		// Indexed is how many entries of the log were searched. The newest are
		// missing as long as it is less than the size of the log.
		Indexed uint64 `json:"indexed"`
	}{Records: make([]*record.View, 0, len(found)), Indexed: searched}
	for _, index := range found {
		entry, err := h.ix.bundles.entry(r.Context(), index)
		if err != nil {
			return err
		}
		e, err := record.Parse(entry)
		if err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		answer.Records = append(answer.Records, record.NewView(e, index, h.ix.name, nil))
	}
	if more {
		answer.Next = formatCursor(found[len(found)-1], searchDigest(r.URL.Query()))
	}
	return writeJSON(w, answer)
}

// record serves GET /v1/records/{index}.
func (h *handler) record(w http.ResponseWriter, r *http.Request) error {
	if err := onlyParameters(r); err != nil {
		return err
	}
	index, _, e, err := h.entry(r, h.ix.published())
	if err != nil {
		return err
	}
	openings, err := h.openings(r, index, e)
	if err != nil {
		return err
	}
	return writeJSON(w, record.NewView(e, index, h.ix.name, openings))
}

// entry reads the entry that the path names, from the first size of the log.
func (h *handler) entry(r *http.Request, size uint64) (index uint64, entry []byte, e record.Entry, err error) {
	text := r.PathValue("index")
	index, err = strconv.ParseUint(text, 10, 63)
	if err != nil || text != strconv.FormatUint(index, 10) {
		return 0, nil, e, fmt.Errorf("%w: %q is an index in decimal, not %.60q; exchange ids go into /v1/records?exchange=", errParameter, "index", text)
	}
	if index >= size {
		return 0, nil, e, fmt.Errorf("%w: the published log has %d entries, there is no index %d yet", errNotFound, size, index)
	}
	if err := h.ix.checkKept(index); err != nil {
		return 0, nil, e, err
	}
	if entry, err = h.ix.bundles.entry(r.Context(), index); err != nil {
		return 0, nil, e, err
	}
	if e, err = record.Parse(entry); err != nil {
		// It is in the log all the same, and can be proven.
		e = record.Entry{Leaf: record.LeafHash(entry)}
		if len(entry) > 1 {
			e.Kind = record.Kind(entry[1])
		}
	}
	return index, entry, e, nil
}

// onlyParameters checks that the query string has no other parameters.
func onlyParameters(r *http.Request, names ...string) error {
	known := make(map[string]bool)
	for _, n := range names {
		known[n] = true
	}
	for name, values := range r.URL.Query() {
		switch {
		case !known[name]:
			return fmt.Errorf("%w: %q is not a parameter of this call", errParameter, name)
		case len(values) > 1:
			return fmt.Errorf("%w: %q is given more than once", errParameter, name)
		}
	}
	return nil
}

// producersNamed returns the keys that are or were enrolled under a name.
func (ix *Index) producersNamed(name string) []keys.ID {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	var ids []keys.ID
	for id, n := range ix.names {
		if n == name {
			ids = append(ids, id)
		}
	}
	return ids
}

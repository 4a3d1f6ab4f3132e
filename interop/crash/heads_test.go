package crash

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"testing"

	"github.com/transparency-dev/formats/log"
	"golang.org/x/mod/sumdb/note"
)

// heads are all checkpoints of one log that were seen anywhere, by size.
type heads struct {
	verifier note.Verifier

	mu        sync.Mutex
	roots     map[uint64][]byte
	largest   uint64
	published uint64 // the largest that the log itself has shown
	seen      int
	faults    []error
}

func newHeads(v note.Verifier) *heads { return &heads{verifier: v, roots: make(map[uint64][]byte)} }

func (h *heads) fault(format string, args ...any) {
	h.faults = append(h.faults, fmt.Errorf(format, args...))
}

// add takes a checkpoint that was found somewhere.
func (h *heads) add(where string, signed []byte) (size uint64, ok bool) {
	cp, _, _, err := log.ParseCheckpoint(signed, h.verifier.Name(), h.verifier)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.fault("%s: not a checkpoint of the log: %v: %q", where, err, signed)
		return 0, false
	}
	h.seen++
	if root, ok := h.roots[cp.Size]; ok && !bytes.Equal(root, cp.Hash) {
		h.fault("%s: root %x is signed for size %d, and %x was", where, cp.Hash, cp.Size, root)
	}
	h.roots[cp.Size], h.largest = cp.Hash, max(h.largest, cp.Size)
	return cp.Size, true
}

// addKept takes a checkpoint that a witness is asked to cosign while the .signed
// file has this content.
func (h *heads) addKept(asked, kept []byte) {
	size, ok := h.add("asked of a witness", asked)
	last, okKept := h.add("in the .signed file", kept)
	if ok && okKept && last < size {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.fault("a witness is asked for size %d, and the .signed file has size %d", size, last)
	}
}

// show takes a checkpoint that the log has published. The caller asks one after
// the other.
func (h *heads) show(signed []byte) uint64 {
	size, ok := h.add("published", signed)
	h.mu.Lock()
	defer h.mu.Unlock()
	if ok && size < h.published {
		h.fault("the log publishes size %d, and has published %d", size, h.published)
	}
	h.published = max(h.published, size)
	return size
}

// newestSize is that of the largest checkpoint seen.
func (h *heads) newestSize() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.largest
}

// compare compares every checkpoint seen with the roots that were recomputed.
func (h *heads) compare(roots [][]byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for size, root := range h.roots {
		if size >= uint64(len(roots)) {
			h.fault("size %d was signed, and the log has %d entries", size, len(roots)-1)
		} else if !bytes.Equal(root, roots[size]) {
			h.fault("root %x was signed for size %d; the entries give %x", root, size, roots[size])
		}
	}
	if len(h.faults) > 0 {
		return h.faults[0]
	}
	return nil
}

// relay stands between log and witness. It keeps every checkpoint that leaves the
// log, and looks whether it could have been forgotten by then: a copy of the
// database that is older could not be told then.
func relay(t *testing.T, witness, signedFile string, h *heads) string {
	t.Helper()
	target := &url.URL{Scheme: "http", Host: witness}
	forward := httputil.NewSingleHostReverseProxy(target)
	forward.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return // the log was killed while it asked
			}
			// C2SP tlog-witness, add-checkpoint: the checkpoint follows an empty line.
			if _, signed, ok := bytes.Cut(body, []byte("\n\n")); ok {
				kept, _ := os.ReadFile(signedFile)
				h.addKept(signed, kept)
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

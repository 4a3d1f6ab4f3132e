package query

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"filippo.io/age"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// Readers says who may see the openings of sealed fields.
type Readers struct {
	// Loopback lets programs on the same host see them.
	Loopback bool
	// Tokens are the SHA-256 digests of bearer tokens.
	Tokens [][sha256.Size]byte
}

// Allowed reports whether the caller may see openings.
func (p Readers) Allowed(r *http.Request) bool {
	return p.Loopback && onLoopback(r) || p.hasToken(r)
}

func (p Readers) hasToken(r *http.Request) bool {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return false
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return false
	}
	sum := sha256.Sum256([]byte(token))
	found := 0
	for _, t := range p.Tokens {
		found |= subtle.ConstantTimeCompare(sum[:], t[:])
	}
	return found == 1
}

// onLoopback reports whether the request comes from this host and was meant for
// it. A name in Host that merely resolves to loopback is how a web page reaches
// local services through the browser (DNS rebinding), and a forwarded request
// comes from who knows where.
func onLoopback(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !peer.Addr().Unmap().IsLoopback() {
		return false
	}
	for name := range r.Header {
		if name == "Forwarded" || name == "Via" || name == "X-Real-Ip" || strings.HasPrefix(name, "X-Forwarded-") {
			return false
		}
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	return err == nil && addr.Unmap().IsLoopback()
}

// Openings is where the encrypted openings are kept.
type Openings interface {
	// Opening returns the openings of the entry at the index, and reports whether
	// there are any.
	Opening(ctx context.Context, index uint64) ([]byte, bool, error)
	// WrappedKey returns a wrapped data key, and reports whether it is there.
	WrappedKey(ctx context.Context, id record.KeyID) ([]byte, bool, error)
}

// maxDataKeys bounds how many data keys are remembered: one a life of a producer.
const maxDataKeys = 256

// opener decrypts openings.
type opener struct {
	from       Openings
	identities []age.Identity

	mu   sync.Mutex
	keys map[record.KeyID][]byte
}

func newOpener(from Openings, identities []age.Identity) *opener {
	return &opener{from: from, identities: identities, keys: make(map[record.KeyID][]byte)}
}

// errDamagedOpenings is wrapped where stored openings are not what was kept.
var errDamagedOpenings = errors.New("openings are damaged")

// open returns the openings of a record that match its commitments: none if
// there are none, or if their key was erased.
func (o *opener) open(ctx context.Context, index uint64, leaf record.Hash, r *record.Record) ([]*sealtapv1.Opening, error) {
	box, ok, err := o.from.Opening(ctx, index)
	if err != nil {
		return nil, fmt.Errorf("reading openings of %d: %w", index, err)
	}
	if !ok {
		return nil, nil
	}
	id, err := record.BoxKey(box)
	if err != nil {
		return nil, fmt.Errorf("reading openings of %d: %w: %w", index, errDamagedOpenings, err)
	}
	key, err := o.key(ctx, id)
	if errors.Is(err, record.ErrNoDataKey) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading openings of %d: %w", index, err)
	}
	list, err := record.OpenBox(box, leaf, key)
	if err != nil {
		return nil, fmt.Errorf("reading openings of %d: %w: %w", index, errDamagedOpenings, err)
	}
	var match []*sealtapv1.Opening
	for _, p := range list {
		if record.CheckOpening(*r, p) == nil {
			match = append(match, p)
		}
	}
	return match, nil
}

// key returns a data key.
func (o *opener) key(ctx context.Context, id record.KeyID) ([]byte, error) {
	// A wrapped key that was erased must not live on here: look first.
	wrapped, ok, err := o.from.WrappedKey(ctx, id)
	if err != nil {
		return nil, err
	}
	if !ok {
		o.mu.Lock()
		delete(o.keys, id)
		o.mu.Unlock()
		return nil, record.ErrNoDataKey
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if key := o.keys[id]; key != nil {
		return key, nil
	}
	key, err := record.UnwrapKey(&sealtapv1.WrappedKey{Id: id[:], Wrapped: wrapped}, o.identities...)
	if err != nil {
		return nil, err
	}
	if len(o.keys) >= maxDataKeys {
		for old := range o.keys {
			delete(o.keys, old)
			break
		}
	}
	o.keys[id] = key
	return key, nil
}

// openings returns the openings that the caller may see.
func (h *handler) openings(r *http.Request, index uint64, e record.Entry) ([]*sealtapv1.Opening, error) {
	if h.opener == nil || e.Record == nil || len(e.Record.GetSealed()) == 0 || !h.reader.Allowed(r) {
		return nil, nil
	}
	list, err := h.opener.open(r.Context(), index, e.Leaf, e.Record)
	if errors.Is(err, errDamagedOpenings) {
		// The record and its proofs are good without them.
		h.ix.log.Error("stored openings are not what was kept; run sealtap audit on the data directory", "index", index, "error", err)
		return nil, nil
	}
	return list, err
}

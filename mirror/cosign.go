package mirror

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

// ErrIncomplete is wrapped, together with [client.ErrVerification], where a mirror
// that is to cosign lacks entries. It signs nothing then.
var ErrIncomplete = errors.New("the mirror does not hold the whole log, and signs nothing")

// checkKey refuses a key whose signatures say something else already: a mirror is a
// cosigner of its own (C2SP tlog-mirror, "add-checkpoint").
func checkKey(k *keys.Private, p *policy.Policy) error {
	if k.Type != keys.Cosignature && k.Type != keys.MLDSA44 {
		return fmt.Errorf("%w: the key of a mirror has signature type 0x04 or 0x06, and %s has 0x%02x; make one with sealtap keygen --witness NAME", ErrConfig, k.Name, byte(k.Type))
	}
	for _, l := range p.Logs {
		if l.Key.Name == k.Name {
			return fmt.Errorf("%w: %s is the name of the log; make the mirror a key of its own", ErrConfig, k.Name)
		}
	}
	for _, w := range p.Witnesses {
		if w.Key.Name == k.Name {
			return fmt.Errorf("%w: %s is the name of a witness, whose signature says less than a mirror's; make the mirror a key of its own", ErrConfig, k.Name)
		}
	}
	return nil
}

// cosign returns the checkpoint with the mirror's cosignature, which says that the
// directory durably holds all that the checkpoint covers (C2SP tlog-mirror,
// "Introduction"). Everything was synced before. What this process did not write
// itself is read again first.
func (m *Mirror) cosign(head *policy.Checkpoint) ([]byte, error) {
	if !m.whole {
		if err := m.holds(head); err != nil {
			return nil, fmt.Errorf("%w: %w: %s: %w", ErrIncomplete, client.ErrVerification, m.cfg.Dir, err)
		}
		m.whole = true
	}
	signer, err := m.cfg.Key.Signer()
	if err != nil {
		return nil, fmt.Errorf("cosigning: %w", err)
	}
	_, err = note.Open(head.Note, note.VerifierList())
	var unverified *note.UnverifiedNoteError
	if !errors.As(err, &unverified) {
		return nil, fmt.Errorf("cosigning: %w", errors.Join(err, errors.New("the checkpoint is no note")))
	}
	n := unverified.Note // which the policy verified
	signed, err := note.Sign(&note.Note{Text: n.Text, UnverifiedSigs: n.UnverifiedSigs}, signer)
	if err != nil {
		return nil, fmt.Errorf("cosigning: %w", err)
	}
	return signed, nil
}

// holds reads every entry under a head.
func (m *Mirror) holds(head *policy.Checkpoint) error {
	switch _, err := os.Lstat(m.path(retentionName)); {
	case err == nil:
		return errors.New("it was begun after the log had pruned entries")
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	tree := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	for n := uint64(0); n*tileWidth < head.Size; n++ {
		width := int(min(tileWidth, head.Size-n*tileWidth))
		name := client.TilePath("entries", n, width)
		raw, err := readRegular(m.path(name))
		var leaves []record.Hash
		if err == nil {
			_, leaves, err = client.BundleLeaves(raw, width)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for i := range leaves {
			if err := tree.Append(leaves[i][:], nil); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	root := rfc6962.DefaultHasher.EmptyRoot()
	if head.Size > 0 {
		var err error
		if root, err = tree.GetRootHash(nil); err != nil {
			return err
		}
	}
	if string(root) != string(head.Root[:]) {
		return errors.New("its entries have another root than the checkpoint; sealtap audit says which was altered")
	}
	return nil
}

// OriginHandler serves the mirror below the hash of its log's origin besides, which
// is where C2SP tlog-mirror has it under a monitoring prefix.
func OriginHandler(dir string, p *policy.Policy) http.Handler {
	h := Handler(dir)
	mux := http.NewServeMux()
	mux.Handle("/", h)
	known := make(map[string]bool)
	for _, l := range p.Logs {
		if known[l.Key.Name] {
			continue // a second key of the log
		}
		known[l.Key.Name] = true
		sum := sha256.Sum256([]byte(l.Key.Name))
		prefix := "/" + hex.EncodeToString(sum[:])
		only := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if held, err := readRegular(filepath.Join(dir, checkpointFile)); err != nil || !strings.HasPrefix(string(held), l.Key.Name+"\n") {
				http.Error(w, "the mirror does not have this log", http.StatusNotFound)
				return
			}
			http.StripPrefix(prefix, h).ServeHTTP(w, r)
		})
		for _, path := range []string{"/checkpoint", "/tile/", "/v1/"} {
			mux.Handle(prefix+path, only)
		}
	}
	return mux
}

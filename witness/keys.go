package witness

import (
	"fmt"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/keys"
)

// signer is a key of the witness.
type signer struct {
	note.Signer
	key     *keys.Private
	subtree *fnote.SubtreeSigner // nil for other types than MLDSA44
}

// setKeys prepares the keys of the witness.
func (s *Server) setKeys(key, quantum *keys.Private) error {
	switch {
	case key.Type != keys.Cosignature && key.Type != keys.MLDSA44:
		return fmt.Errorf("key %s has type 0x%02x; a witness needs type 0x%02x or 0x%02x", key.Name, byte(key.Type), byte(keys.Cosignature), byte(keys.MLDSA44))
	case quantum != nil && quantum.Type != keys.MLDSA44:
		return fmt.Errorf("key %s has type 0x%02x; a post-quantum key has type 0x%02x", quantum.Name, byte(quantum.Type), byte(keys.MLDSA44))
	case quantum != nil && key.Type == keys.MLDSA44:
		return fmt.Errorf("keys %s and %s are both post-quantum: one will do", key.Name, quantum.Name)
	}
	var own []note.Verifier
	for _, k := range []*keys.Private{key, quantum} {
		if k == nil {
			continue
		}
		sign, err := k.Signer()
		if err != nil {
			return fmt.Errorf("preparing key %s: %w", k.Name, err)
		}
		v, err := k.Verifier()
		if err != nil {
			return fmt.Errorf("preparing key %s: %w", k.Name, err)
		}
		x := signer{Signer: sign, key: k}
		if k.Type == keys.MLDSA44 {
			if x.subtree, err = k.SubtreeSigner(); err != nil {
				return fmt.Errorf("preparing key %s: %w", k.Name, err)
			}
		}
		s.signers, own = append(s.signers, x), append(own, v)
	}
	s.own = note.VerifierList(own...)
	return nil
}

// signersFor returns what signs the checkpoints of a log: every key that can
// (tlog-cosignature, "ML-DSA-44 signed message": log_origin has at most 255 bytes).
func (s *Server) signersFor(origin string) (list []note.Signer) {
	for _, x := range s.signers {
		if x.key.Type != keys.MLDSA44 || len(origin) <= maxMLDSAName {
			list = append(list, x)
		}
	}
	return list
}

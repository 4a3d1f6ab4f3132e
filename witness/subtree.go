package witness

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/http"
	"strings"

	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
)

// errNoSubtrees is wrapped by a witness that has no key to sign subtrees with.
var errNoSubtrees = errors.New("this witness signs no subtrees: it has no ML-DSA-44 key")

// subtreeRequest is the body of a sign-subtree.
type subtreeRequest struct {
	start, end uint64
	hash       [32]byte
	proof      [][32]byte
	note       []byte
	body       checkpoint.Body // of the note, unverified
}

// parseSubtree reads the body of a sign-subtree (tlog-witness, "sign-subtree").
func parseSubtree(data []byte) (r subtreeRequest, err error) {
	head, signed, ok := bytes.Cut(data, []byte("\n\n"))
	if !ok {
		return r, errors.New("no empty line before the checkpoint")
	}
	lines := strings.Split(string(head), "\n")
	if len(lines) < 2 {
		return r, errors.New("no line with the hash of the subtree")
	}
	if len(lines)-2 > maxProof {
		return r, fmt.Errorf("the proof has more than %d lines", maxProof)
	}
	span, ok := strings.CutPrefix(lines[0], "subtree ")
	start, end, ok2 := strings.Cut(span, " ")
	if !ok || !ok2 {
		return r, errors.New(`the first line does not read "subtree START END"`)
	}
	if r.start, err = checkpoint.ParseSize(start); err != nil {
		return r, fmt.Errorf("start of the subtree: %w", err)
	}
	if r.end, err = checkpoint.ParseSize(end); err != nil {
		return r, fmt.Errorf("end of the subtree: %w", err)
	}
	if r.hash, err = checkpoint.ParseHash(lines[1]); err != nil {
		return r, fmt.Errorf("hash of the subtree: %w", err)
	}
	for i, line := range lines[2:] {
		h, err := checkpoint.ParseHash(line)
		if err != nil {
			return r, fmt.Errorf("proof line %d: %w", i+1, err)
		}
		r.proof = append(r.proof, h)
	}
	text, err := checkpoint.Text(signed)
	if err != nil {
		return r, err
	}
	r.note = signed
	if r.body, _, err = checkpoint.Parse(text); err != nil {
		return r, err
	}
	if !isSubtree(r.start, r.end) || r.end > r.body.Size {
		return r, fmt.Errorf("[%d, %d) is no subtree of a tree of %d entries", r.start, r.end, r.body.Size)
	}
	return r, nil
}

// isSubtree reports whether the half-open interval is a valid subtree
// (draft-ietf-plants-merkle-tree-certs-03, section 4.1): not empty, and start a
// multiple of its length rounded up to a power of two.
func isSubtree(start, end uint64) bool {
	if start >= end {
		return false
	}
	// 64 for lengths above 2^63, of which only 0 is a multiple; such shifts give 0.
	ceil := bits.Len64(end - start - 1)
	return start&(uint64(1)<<ceil-1) == 0
}

// inTree reports whether a proof shows that a subtree with the hash is the one of
// the tree with the root (draft-ietf-plants-merkle-tree-certs-03, section 4.4.3).
func inTree(r subtreeRequest) bool {
	first, last, tail := r.start, r.end-1, r.body.Size-1
	up := func() { first, last, tail = first>>1, last>>1, tail>>1 }
	for first != last && (last == tail || last&1 == 1) {
		up()
	}
	sub, root, rest := r.hash, r.hash, r.proof
	if first != last {
		if len(rest) == 0 {
			return false
		}
		sub, root, rest = rest[0], rest[0], rest[1:]
	}
	for _, h := range rest {
		if tail == 0 {
			return false
		}
		if last&1 == 1 || last == tail {
			if first < last {
				sub = children(h, sub)
			}
			root = children(h, root)
			for last&1 == 0 {
				up()
			}
		} else {
			root = children(root, h)
		}
		up()
	}
	return tail == 0 && sub == r.hash && root == r.body.Root
}

func children(left, right [32]byte) [32]byte {
	return [32]byte(rfc6962.DefaultHasher.HashChildren(left[:], right[:]))
}

// signSubtree answers the body of a sign-subtree with signature lines.
func (s *Server) signSubtree(_ context.Context, data []byte) ([]byte, error) {
	var with []signer
	for _, x := range s.signers {
		if x.key.Type == keys.MLDSA44 {
			with = append(with, x)
		}
	}
	if len(with) == 0 {
		return nil, errNoSubtrees
	}
	r, err := parseSubtree(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	l := s.logs.Load().origins[r.body.Origin]
	if l == nil || l.keys == nil {
		return nil, fmt.Errorf("%w: %.80q", errUnknownLog, r.body.Origin)
	}
	if _, err := checkpoint.Verify(r.note, s.own); errors.Is(err, checkpoint.ErrSignature) {
		return nil, fmt.Errorf("%w: the checkpoint is not cosigned by this witness", errSignature)
	} else if err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	if len(r.body.Origin) > maxMLDSAName {
		return nil, fmt.Errorf("%w: its origin is longer than %d bytes, which subtrees cannot be signed for", errMalformed, maxMLDSAName)
	}
	if err := s.spend(&l.others); err != nil {
		return nil, err
	}
	if !inTree(r) {
		return nil, fmt.Errorf("%w: that [%d, %d) with that hash is in the tree of %d entries is not proven", errInconsistent, r.start, r.end, r.body.Size)
	}
	// A subtree says that it is consistent with all that was ever cosigned.
	if err := s.trusted(l.origin); err != nil {
		return nil, err
	}
	var lines []byte
	for _, x := range with {
		// The time is zero: nothing is said about the newest tree.
		sig, err := x.subtree.SignSubtree(0, r.body.Origin, r.start, r.end, r.hash[:])
		if err != nil {
			return nil, fmt.Errorf("signing subtree: %w", err)
		}
		id := binary.BigEndian.AppendUint32(nil, x.key.KeyID())
		lines = fmt.Appendf(lines, "— %s %s\n", x.key.Name, base64.StdEncoding.EncodeToString(append(id, sig...)))
	}
	s.counts.subtrees.Add(1)
	return lines, nil
}

// serveSubtree serves sign-subtree.
func (s *Server) serveSubtree(w http.ResponseWriter, r *http.Request) {
	s.submit(w, r, s.signSubtree)
}

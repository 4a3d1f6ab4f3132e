package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
)

// maxProof is the most lines that a proof may have (tlog-witness,
// "add-checkpoint"): a tree of 2^64 leaves needs no more.
const maxProof = 63

// What add-checkpoint refuses; see [statusOf].
var (
	errMalformed    = errors.New("malformed request")
	errUnknownLog   = errors.New("unknown log")
	errSignature    = errors.New("no valid signature by the log")
	errInconsistent = errors.New("inconsistent checkpoint")
)

// conflictError says that the old size is not the size of the latest checkpoint.
type conflictError struct{ size uint64 }

func (e *conflictError) Error() string {
	return fmt.Sprintf("the latest cosigned checkpoint has size %d", e.size)
}

// request is the body of an add-checkpoint.
type request struct {
	old   uint64
	proof [][32]byte
	note  []byte
	body  checkpoint.Body // of the note, unverified
}

// parseRequest reads the body of an add-checkpoint.
func parseRequest(data []byte) (request, error) {
	head, signed, ok := bytes.Cut(data, []byte("\n\n"))
	if !ok {
		return request{}, errors.New("no empty line before the checkpoint")
	}
	first, rest, more := strings.Cut(string(head), "\n")
	size, ok := strings.CutPrefix(first, "old ")
	if !ok {
		return request{}, errors.New(`the first line does not begin with "old "`)
	}
	r := request{note: signed}
	var err error
	if r.old, err = checkpoint.ParseSize(size); err != nil {
		return request{}, fmt.Errorf("old size: %w", err)
	}
	for n := 1; more; n++ {
		if n > maxProof {
			return request{}, fmt.Errorf("the proof has more than %d lines", maxProof)
		}
		var line string
		line, rest, more = strings.Cut(rest, "\n")
		h, err := checkpoint.ParseHash(line)
		if err != nil {
			return request{}, fmt.Errorf("proof line %d: %w", n, err)
		}
		r.proof = append(r.proof, h)
	}
	text, err := checkpoint.Text(signed)
	if err != nil {
		return request{}, err
	}
	r.body, _, err = checkpoint.Parse(text)
	return r, err
}

// addCheckpoint answers the body of an add-checkpoint with a signature line.
// The checks are in the order in which tlog-witness gives them.
func (s *Server) addCheckpoint(ctx context.Context, data []byte) ([]byte, error) {
	r, err := parseRequest(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	l := s.logs.Load().origins[r.body.Origin]
	if l == nil || l.keys == nil {
		return nil, fmt.Errorf("%w: %.80q", errUnknownLog, r.body.Origin)
	}
	n, err := checkpoint.Verify(r.note, l.keys)
	if errors.Is(err, checkpoint.ErrSignature) {
		return nil, fmt.Errorf("%w: %w", errSignature, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	if r.old > r.body.Size {
		return nil, fmt.Errorf("%w: the old size %d is larger than that of the checkpoint, %d", errMalformed, r.old, r.body.Size)
	}
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := s.trusted(l.origin); err != nil {
		return nil, err
	}
	if err := s.advance(ctx, l, r, n); err != nil {
		return nil, err
	}
	// Another log may have shown meanwhile that the state is old.
	if err := s.trusted(l.origin); err != nil {
		return nil, err
	}
	return s.sign(ctx, l, n)
}

// advance makes a checkpoint that the log signed the durable head, if it fits.
// The caller has the log's turn.
func (s *Server) advance(ctx context.Context, l *logState, r request, n *note.Note) error {
	latest, found, err := s.store.Head(ctx, l.origin)
	if err != nil {
		return err
	}
	if err := s.checkOwn(ctx, l, n, r.body, latest); err != nil {
		return err
	}
	signed, err := note.Sign(&note.Note{Text: n.Text, Sigs: n.Sigs}) // without the signatures nobody verified
	if err != nil {
		return err
	}
	next := Head{Origin: l.origin, Size: r.body.Size, Root: r.body.Root, Note: signed}
	if misfit, err := r.fits(latest, found); err != nil {
		if misfit {
			s.addFork(ctx, l, next, latest, r.proof)
		}
		if limited := s.spend(&l.others); limited != nil {
			return limited
		}
		return err
	}
	if found && next.Size == latest.Size {
		if err := s.spend(&l.others); err != nil {
			return err
		}
		s.counts.repeated.Add(1)
		return nil // durable already, so there is nothing to keep
	}
	if err := s.spend(&l.advances); err != nil {
		return err
	}
	from := &latest
	if !found {
		from = nil
	}
	err = s.store.Advance(ctx, from, next)
	if errors.Is(err, ErrMoved) {
		latest, _, err = s.store.Head(ctx, l.origin)
		if err == nil {
			err = &conflictError{latest.Size}
		}
	}
	if err == nil {
		s.counts.advanced.Add(1)
		s.dropForks(ctx, l, next)
	}
	return err
}

// fits checks the request against the latest head. With an error it reports
// whether the checkpoint does not fit, so that it is to be kept.
func (r request) fits(latest Head, found bool) (misfit bool, err error) {
	// Two roots for one size prove a fork whatever the old size was.
	other := found && r.body.Size == latest.Size && r.body.Root != latest.Root
	empty := r.body.CheckEmpty() != nil
	switch {
	case r.old != latest.Size:
		return other || empty, &conflictError{latest.Size}
	case empty:
		return true, fmt.Errorf("%w: the root hash of size 0 is not that of the empty tree", errInconsistent)
	case other:
		return true, fmt.Errorf("%w: another root hash was cosigned for size %d", errInconsistent, latest.Size)
	case r.old == 0 && len(r.proof) != 0:
		return false, fmt.Errorf("%w: a proof from size 0 must be empty", errInconsistent)
	case r.old == 0:
		return false, nil
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, r.old, r.body.Size, hashes(r.proof), latest.Root[:], r.body.Root[:]); err != nil {
		if r.old == r.body.Size {
			return false, fmt.Errorf("%w: a proof between equal sizes must be empty", errInconsistent)
		}
		return true, fmt.Errorf("%w: proof from size %d to %d: %w", errInconsistent, r.old, r.body.Size, checkpoint.Unproven(err))
	}
	return false, nil
}

func hashes(proof [][32]byte) [][]byte {
	list := make([][]byte, len(proof))
	for i := range proof {
		list[i] = proof[i][:]
	}
	return list
}

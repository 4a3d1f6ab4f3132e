package backup

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/policy"
)

// gather returns every checkpoint that is known of the log: from the backup, from
// what is left of the log, from the user, the witnesses and the copies.
func (r *restore) gather(ctx context.Context, state *storage.State, m *Manifest) ([]sighting, error) {
	var list []sighting
	add := func(s sighting, err error) error {
		if err == nil {
			list = append(list, s)
		}
		return err
	}
	var published []byte
	for _, h := range []struct {
		where string
		head  *storage.Head
	}{{"the stored log", state.Signed}, {"the stored log", state.Published}} {
		if h.head == nil {
			continue
		}
		if err := add(stored(r.Policy, r.Key.Name, h.where, h.head)); err != nil {
			return nil, err
		}
	}
	if state.Published != nil {
		published = state.Published.Note
	}
	if m != nil && m.Checkpoint != "" {
		if err := add(open(r.Policy, r.Key.Name, manifestFile, []byte(m.Checkpoint))); err != nil {
			return nil, err
		}
	}
	// What is left of the log knows more than any backup.
	left, err := sqlite.ReadSigned(r.Database)
	if err != nil {
		return nil, err
	}
	if left != nil {
		if err := add(stored(r.Policy, r.Key.Name, r.Database+".signed", left)); err != nil {
			return nil, err
		}
	}
	for _, s := range r.Checkpoints {
		if err := add(open(r.Policy, r.Key.Name, s.Where, s.Note)); err != nil {
			return nil, err
		}
	}
	for i := range r.From {
		if s, err := r.copied(ctx, &r.From[i]); err != nil {
			r.outcome.Copies = append(r.outcome.Copies, CopyOutcome{Where: r.From[i].Where, Err: err})
		} else {
			r.outcome.Copies = append(r.outcome.Copies, CopyOutcome{Where: s.where, Size: s.size})
			list = append(list, s)
		}
	}
	seen, err := r.witnessed(published)
	return append(list, seen...), err
}

// copied returns the checkpoint of a copy of the log.
func (r *restore) copied(ctx context.Context, c *Copy) (sighting, error) {
	signed, err := c.Checkpoint(ctx)
	if err != nil {
		return sighting{}, fmt.Errorf("%s: %w", c.Where, err)
	}
	return open(r.Policy, r.Key.Name, c.Where, signed)
}

// witnessed returns what the witnesses have seen. It refuses to go on where that
// is not known of each of those that the log asks for cosignatures, or where there
// are none.
func (r *restore) witnessed(published []byte) ([]sighting, error) {
	var list []sighting
	var unknown []string
	asked := 0
	for _, v := range r.Witnesses {
		if v.Checkpoint != nil {
			list = append(list, sightingOf("witness "+v.Witness.Name, v.Checkpoint))
		}
		if errors.Is(v.Err, witness.ErrNoURL) {
			continue
		}
		asked++
		if v.Err == nil && v.Checkpoint == nil && cosigned(r.Policy, published, v.Witness) {
			v.Err = errForgot
		}
		if v.Err != nil {
			unknown = append(unknown, fmt.Sprintf("witness %s cannot be asked (%v)", v.Witness.Name, v.Err))
		}
	}
	if asked == 0 {
		unknown = append(unknown, "the policy has no witness with a URL")
	}
	if len(unknown) > 0 && !r.WithoutWitnesses {
		return nil, fmt.Errorf("%w: %s", ErrUnseen, strings.Join(unknown, ", "))
	}
	return list, nil
}

var errForgot = errors.New("it says that it has cosigned nothing, and its cosignature is in the stored log")

// cosigned reports whether a witness has cosigned a checkpoint.
func cosigned(p *policy.Policy, signed []byte, w policy.Witness) bool {
	cp, err := p.VerifyLogOnly(signed)
	if err != nil {
		return false
	}
	for _, s := range cp.Cosignatures {
		if s.Witness == w.Name {
			return true
		}
	}
	return false
}

package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/witness/policy"
)

// ErrNotAllowed is wrapped where nothing that a log shows allows its minimum index.
var ErrNotAllowed = errors.New("nothing allows that")

// ForkedError says that a checkpoint which a log shows for its minimum index is of
// another history. It wraps [ErrNotAllowed].
type ForkedError struct {
	Checkpoint *policy.Checkpoint
}

// Error implements error.
func (e *ForkedError) Error() string {
	return fmt.Sprintf("%v: the checkpoint that the log shows for it is of another history", ErrNotAllowed)
}

// Unwrap implements the matching of [errors.Is].
func (e *ForkedError) Unwrap() error { return ErrNotAllowed }

// Decision is what a log shows for having let go of all below its minimum index: see
// "Pruning" in docs/formats.md.
type Decision struct {
	Minimum uint64
	At      []byte // the checkpoint at which it was decided
	Old     []byte // one that shows the age of what is gone; nil if age did not matter

	// Origin and Size are those of the log's head, and Policy is what its checkpoints
	// are verified with.
	Origin string
	Size   uint64
	Policy *policy.Policy
	// Ring has the operator's statements up to that head.
	Ring *record.Keyring
	// IsPrefix reports whether a checkpoint of at most Size and at least Minimum
	// entries is of this history.
	IsPrefix func(ctx context.Context, head checkpoint.Body) (bool, error)
}

func notAllowed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrNotAllowed, fmt.Sprintf(format, args...))
}

// Check checks the decision: at a checkpoint, the policy in force, which the
// operator's statement says, let go of everything below the minimum index. That a log
// could have let go of something at an earlier time it may do later as well. It
// returns the policy in words. An error wraps [ErrNotAllowed], or [ErrUnavailable]
// where it cannot be told.
func (d *Decision) Check(ctx context.Context) (why string, err error) {
	at, atErr, err := d.open(ctx, d.At)
	if err != nil {
		return "", err
	}
	r, ok := d.Ring.Retention(at.Size)
	switch {
	case !ok:
		return "", notAllowed("the operator has stated no retention policy before entry %d", at.Size)
	case r.Policy.Forever:
		return "", notAllowed("the operator's statement at index %d keeps everything", r.Index)
	case d.Minimum > at.Size-min(at.Size, r.Policy.Entries):
		return "", notAllowed("by the operator's statement at index %d the newest %d entries stay, and at %d entries, where the log says it was decided, that is from %d on",
			r.Index, r.Policy.Entries, at.Size, at.Size-min(at.Size, r.Policy.Entries))
	}
	why = fmt.Sprintf("%s, says its statement at index %d", r.Policy, r.Index)
	if r.Policy.Keep == 0 {
		return why, nil
	}
	old, oldErr, err := d.open(ctx, d.Old)
	if err != nil {
		return "", err
	}
	if err := errors.Join(atErr, oldErr); err != nil {
		return "", fmt.Errorf("%w: their age shows in checkpoints that do not satisfy this policy, which may have been another one then; add the witnesses of that time to it: %w", ErrUnavailable, err)
	}
	then, vouched1 := d.Policy.QuorumTime(old.Cosignatures)
	now, vouched2 := d.Policy.QuorumTime(at.Cosignatures)
	if !vouched1 || !vouched2 {
		return why + " (nobody vouches for their age: the policy asks for no witness)", nil
	}
	if age := time.Duration(now-then) * time.Second; age < r.Policy.Keep {
		return "", notAllowed("by the operator's statement at index %d they stay for %s; the witnesses saw the last of them %s before that was over", r.Index, r.Policy.Keep, r.Policy.Keep-age)
	}
	return why, nil
}

// open verifies a checkpoint that the log shows: it must be one of this log and of
// this history, with all that was let go under it. Whether it satisfies the policy is
// said in the second result.
func (d *Decision) open(ctx context.Context, signed []byte) (cp *policy.Checkpoint, quorum, err error) {
	if len(signed) == 0 {
		return nil, nil, notAllowed("the log shows no checkpoint for it")
	}
	cp, err = d.Policy.Verify(signed)
	if errors.Is(err, policy.ErrQuorum) {
		quorum = err
		cp, err = d.Policy.VerifyLogOnly(signed)
	}
	switch {
	case err != nil:
		return nil, nil, notAllowed("the checkpoint that the log shows for it is not to be trusted: %v", err)
	case cp.Origin != d.Origin || cp.Size < d.Minimum || cp.Size > d.Size:
		return nil, nil, notAllowed("the checkpoint that the log shows for it, of %d entries of %q, does not bear on it", cp.Size, cp.Origin)
	}
	good, err := d.IsPrefix(ctx, checkpoint.Body{Origin: cp.Origin, Size: cp.Size, Root: cp.Root})
	if err != nil {
		return nil, nil, err
	}
	if !good {
		return nil, nil, &ForkedError{cp}
	}
	return cp, quorum, nil
}

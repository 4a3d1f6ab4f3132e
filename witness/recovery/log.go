package recovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/fork"
	"github.com/sealtap/sealtap/witness/policy"
)

// reading is how long a copy has to give the tiles of a proof.
const reading = time.Minute

// recovering is the recovery of one log.
type recovering struct {
	Config
	Outcome
	own []byte // a head with our own cosignature that the store does not know

	policy    *policy.Policy // the log's keys and the other witnesses
	heads     []sighting
	witnessed bool             // another witness has cosigned a head of it
	fresh     bool             // the log says that it has published nothing
	readers   []*client.Source // of the log's entries
}

// sighting is a head of the log that was seen somewhere.
type sighting struct {
	where string
	head  witness.Head
}

func (r *recovering) run(ctx context.Context) error {
	if err := r.gather(ctx); err != nil {
		return err
	}
	if !r.witnessed && !r.TrustLog {
		return unfinishedf("no other witness says that it has cosigned it: name some in the policy, or say --trust-log to take the log's word for its newest head")
	}
	target, ok := r.largest()
	switch {
	case !ok && !r.fresh:
		return unfinishedf("nobody says what its newest head is")
	case !ok:
		r.State = Recovered
		return r.Store.Settle(ctx, r.Origin, nil)
	}
	r.Size = target.head.Size
	for _, s := range r.heads {
		fits, err := r.fits(ctx, s, target)
		if err != nil {
			return err
		}
		if !fits {
			r.State = Forked
			r.Detail = fmt.Sprintf("the head of %d entries (%s) and that of %d (%s) are of two histories; the evidence is kept and will be served at /%s/forks",
				s.head.Size, s.where, target.head.Size, target.where, witness.OriginHash(r.Origin))
			return nil
		}
	}
	r.State = Recovered
	return r.Store.Settle(ctx, r.Origin, &target.head)
}

// gather asks everybody for heads of the log. It returns an error where one who has
// to answer has not.
func (r *recovering) gather(ctx context.Context) error {
	var err error
	if r.policy, err = r.others(); err != nil {
		return err
	}
	stored, found, err := r.Store.Head(ctx, r.Origin)
	if err != nil {
		return err
	}
	if found {
		r.Before, r.Size = stored.Size, stored.Size
		r.heads = append(r.heads, sighting{"this witness", stored})
	}
	if r.own != nil {
		if err := r.addOwn(); err != nil {
			return err
		}
	}
	silent := r.askWitnesses(ctx)
	for _, l := range r.Policy.Logs {
		if l.Key.Name != r.Origin || l.URL == "" {
			continue
		}
		s, err := client.Open(l.URL, client.WithOrigin(r.Origin))
		if err != nil {
			return unfinishedf("the log cannot be read: %v", err)
		}
		r.ask(ctx, "the log, "+s.String(), s, false)
	}
	for _, s := range r.Copies {
		r.ask(ctx, s.String(), s, true)
	}
	if len(silent) > 0 {
		return unfinishedf("%s; have them answer, or go on without with --without NAME", strings.Join(silent, ", "))
	}
	return nil
}

// others returns the policy under which heads are read: with all keys of the log, and
// all witnesses but this one.
func (r *recovering) others() (*policy.Policy, error) {
	var logs []policy.Log
	for _, k := range r.Logs[r.Origin] {
		logs = append(logs, policy.Log{Key: k})
	}
	var witnesses []policy.Witness
	for _, w := range r.Policy.Witnesses {
		own := false
		for _, k := range r.Own {
			own = own || k.ID() == w.Key.ID()
		}
		if !own {
			witnesses = append(witnesses, w)
		}
	}
	return policy.New(logs, witnesses, nil, policy.None, nil)
}

// addOwn takes the head that showed that the store is old: it was verified then.
func (r *recovering) addOwn() error {
	text, err := checkpoint.Text(r.own)
	if err != nil {
		return err
	}
	b, _, err := checkpoint.Parse(text)
	if err != nil {
		return err
	}
	r.add("our own cosignature", witness.Head{Origin: b.Origin, Size: b.Size, Root: b.Root, Note: r.own})
	return nil
}

func (r *recovering) add(where string, h witness.Head) {
	r.heads = append(r.heads, sighting{where, h})
	r.Seen = append(r.Seen, Seen{Where: where, Size: h.Size})
}

// askWitnesses returns who has not answered and has to.
func (r *recovering) askWitnesses(ctx context.Context) (silent []string) {
	for _, v := range witness.Latest(ctx, r.policy, r.Origin, r.HTTP, r.Timeout) {
		where := "witness " + v.Witness.Name
		if v.Checkpoint != nil {
			if h, err := headOf(v.Checkpoint); err == nil {
				r.add(where, h)
				r.witnessed = r.witnessed || v.Err == nil
			}
		}
		switch {
		case errors.Is(v.Err, witness.ErrNoURL):
		case v.Err != nil:
			r.Seen = append(r.Seen, Seen{Where: where, Error: v.Err.Error()})
			if !slices.Contains(r.Without, v.Witness.Name) {
				silent = append(silent, fmt.Sprintf("witness %s cannot be asked (%v)", v.Witness.Name, v.Err))
			}
		case v.Checkpoint == nil:
			r.Seen = append(r.Seen, Seen{Where: where})
		}
	}
	return silent
}

// ask asks the log, or a copy, which may be one of another log.
func (r *recovering) ask(ctx context.Context, where string, s *client.Source, copied bool) {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	signed, err := s.Checkpoint(ctx)
	var cp *policy.Checkpoint
	if err == nil {
		cp, err = r.policy.VerifyLogOnly(signed)
	}
	if errors.Is(err, policy.ErrUnknownLog) && copied {
		return
	}
	var h witness.Head
	if err == nil {
		h, err = headOf(cp)
	}
	if err != nil {
		r.fresh = r.fresh || errors.Is(err, client.ErrNotFound)
		r.Seen = append(r.Seen, Seen{Where: where, Error: err.Error()})
		return
	}
	r.add(where, h)
	r.witnessed = r.witnessed || len(cp.Cosignatures) > 0
	r.readers = append(r.readers, s)
}

// headOf returns what a witness keeps of a checkpoint: with the log's signatures, and
// without those of others.
func headOf(cp *policy.Checkpoint) (witness.Head, error) {
	text, err := checkpoint.Text(cp.Note)
	if err != nil {
		return witness.Head{}, err
	}
	signed := slices.Concat(text, []byte("\n"), []byte(strings.Join(cp.Signatures, "\n")+"\n"))
	return witness.Head{Origin: cp.Origin, Size: cp.Size, Root: cp.Root, Note: signed}, nil
}

// largest returns the largest head, the first of equals.
func (r *recovering) largest() (target sighting, ok bool) {
	for _, s := range r.heads {
		if !ok || s.head.Size > target.head.Size {
			target, ok = s, true
		}
	}
	return target, ok
}

// fits reports whether a head is the beginning of the target. Where it is not the
// evidence is kept.
func (r *recovering) fits(ctx context.Context, s, target sighting) (bool, error) {
	older, newer := s.head, target.head
	f := witness.Fork{Offered: newer, Latest: older, Seen: time.Now()}
	switch {
	case older.Root == newer.Root && older.Size == newer.Size, older.Size == 0:
		return true, nil
	case older.Size == newer.Size:
		f.Kind = fork.Root
		_, err := r.Store.AddFork(ctx, f)
		return false, err
	}
	unread := errors.New("neither the policy nor --from says where it is read")
	for _, reader := range r.readers {
		ctx, cancel := context.WithTimeout(ctx, reading)
		defer cancel()
		tree := client.NewTree(reader, newer.Size, newer.Root)
		root, err := tree.RootAt(ctx, older.Size)
		var path []record.Hash
		if err == nil && root != record.Hash(older.Root) {
			path, err = tree.ConsistencyProof(ctx, older.Size)
		}
		if err != nil {
			unread = err // another copy may have it
			continue
		}
		if root == record.Hash(older.Root) {
			return true, nil
		}
		f.Kind, f.Beginning = fork.Prefix, (*[32]byte)(&root)
		for _, h := range path {
			f.Proof = append(f.Proof, h)
		}
		_, err = r.Store.AddFork(ctx, f)
		return false, err
	}
	return false, unfinishedf("that the head of %d entries (%s) goes on to that of %d (%s) is not proven: %v",
		older.Size, s.where, newer.Size, target.where, unread)
}

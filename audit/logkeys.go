package audit

import (
	"errors"
	"fmt"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/witness/policy"
)

// A log can have two keys, and a policy may trust one of them only: the one that
// withstands a quantum computer, say, in a log that has got it late. The operator's
// statements tie the two together.

// checkLogKeys finds a log whose operator names none of the keys that the policy
// trusts for it.
func (p *producers) checkLogKeys() {
	if p.ring == nil {
		return
	}
	for _, l := range p.ring.LogKeys() {
		if p.a.trustedLogKey(l.Key) {
			return
		}
	}
	p.a.add(finding(GenesisInvalid, "the genesis is that of another log: it names the key %s, and no statement of its operator names a key of the policy for %q",
		p.ring.Genesis.Log, p.a.head.Origin).at(0))
}

// recognised takes the checkpoint in a beacon for the log's own if no key of the
// policy signed it, but another one that the operator's statements name: it was made
// when the log did not have the policy's key. As one that lacks cosignatures it is
// compared with the log, and bounds no time.
func (p *producers) recognised(seen *sighting) *sighting {
	if p.ring == nil || !errors.Is(seen.err, policy.ErrSignature) {
		return seen
	}
	if p.own == nil {
		var err error
		if p.own, err = alsoBy(p.a.Policy, p.ring); err != nil {
			return seen
		}
	}
	// Its policy has all keys: a false signature by any of them is one.
	cp, _, err := withoutQuorum(p.own, seen.signed)
	if err != nil {
		return seen
	}
	return &sighting{cp: cp, quorum: fmt.Errorf("no key of the policy signed the checkpoint in the beacon: %w", seen.err)}
}

// withoutQuorum verifies a checkpoint that may lack cosignatures, and reports whether it
// does. It may not have a false one: somebody made that up.
func withoutQuorum(p *policy.Policy, signed []byte) (cp *policy.Checkpoint, weak bool, err error) {
	cp, err = p.Verify(signed)
	if weak = errors.Is(err, policy.ErrQuorum); weak {
		cp, err = p.VerifyLogOnly(signed)
	}
	return cp, weak, err
}

// alsoBy returns the policy with the keys of the log that the ring has.
func alsoBy(p *policy.Policy, ring *record.Keyring) (*policy.Policy, error) {
	var list []keys.Public
	for _, l := range ring.LogKeys() {
		list = append(list, l.Key)
	}
	return p.Also(list...)
}

// checkLogKeys ties the policy's key to the log by the genesis, or by a statement
// of the operator that names it later.
func (v *verifier) checkLogKeys() error {
	v.own = []keys.Public{v.genesis.Log}
	if v.genesis.PostQuantum != nil {
		v.own = append(v.own, *v.genesis.PostQuantum)
	}
	if k := v.evidence.LogKey; k != nil {
		if err := v.inLog("statement about the log's key", k.Entry, k.Proof); err != nil {
			return err
		}
		e, err := record.Parse(k.Entry)
		switch {
		case err != nil:
			return refuse(KeyChangeInvalid, "the statement about the log's key does not verify: %v", err)
		case e.KeyChange == nil || len(e.KeyChange.Log) == 0:
			return refuse(KeyChangeInvalid, "what is given for the statement about the log's key is a %s that names none", e.Kind)
		}
		if err := v.signedByOperator("statement about the log's key", e.KeyChange.Origin, e.KeyChange.Verify); err != nil {
			return err
		}
		v.own = append(v.own, e.KeyChange.Log...)
	}
	for _, l := range v.policy.Logs {
		for _, k := range v.own {
			if l.Key.ID() == k.ID() && l.Key.Name == v.head.Origin && k.Name == v.head.Origin {
				return nil
			}
		}
	}
	return refuse(GenesisInvalid, "the genesis is that of another log: it names the key %s, and no statement of its operator is given that names one of the policy", v.genesis.Log)
}

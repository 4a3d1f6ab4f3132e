package tlog

import (
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/witness/policy"
)

// A log signs with an Ed25519 key, which every reader knows, and if it has one with
// an ML-DSA-44 key beside it (C2SP tlog-cosignature, type 0x06), for those who want
// signatures that withstand a quantum computer. Both lines are made at once, and
// kept like one.

// OwnPolicy returns a policy as the log itself applies it: one that names both of
// its keys, if it names either. Else the log could not tell that a line of its own
// is good, and witnesses would not get to see it.
func OwnPolicy(p *policy.Policy, key, postQuantum *keys.Private) (*policy.Policy, error) {
	if postQuantum == nil || !names(p, key.Public) && !names(p, postQuantum.Public) {
		return p, nil
	}
	return p.Also(key.Public, postQuantum.Public)
}

// names reports whether the policy trusts the key of a log.
func names(p *policy.Policy, k keys.Public) bool {
	return slices.ContainsFunc(p.Logs, func(l policy.Log) bool { return l.Key.String() == k.String() })
}

// moreKeys are the log's keys beside the first one.
func (c *Config) moreKeys() []keys.Public {
	if c.PostQuantumKey == nil {
		return nil
	}
	return []keys.Public{c.PostQuantumKey.Public}
}

func (c *Config) checkKeys() error {
	if k := c.PostQuantumKey; k != nil {
		if k.Type != keys.MLDSA44 {
			return fmt.Errorf("%w: the post-quantum key %q has signature type 0x%02x, 0x%02x is wanted", ErrConfig, k.Name, byte(k.Type), byte(keys.MLDSA44))
		}
		if k.Name != c.Key.Name {
			return fmt.Errorf("%w: the log's keys have two names, %q and %q; both are the log's origin", ErrConfig, c.Key.Name, k.Name)
		}
	}
	for _, k := range append([]keys.Public{c.Key.Public}, c.moreKeys()...) {
		if !names(c.Policy, k) {
			return fmt.Errorf("%w: the policy does not name this log, %s", ErrConfig, k)
		}
	}
	return nil
}

// openKeys prepares the log's keys for signing.
func (l *Log) openKeys() error {
	list := []*keys.Private{l.config.Key}
	if l.config.PostQuantumKey != nil {
		list = append(list, l.config.PostQuantumKey)
	}
	var verifiers []note.Verifier
	for _, k := range list {
		s, err := k.Signer()
		if err != nil {
			return err
		}
		v, err := k.Verifier()
		if err != nil {
			return err
		}
		l.signers, verifiers = append(l.signers, s), append(verifiers, v)
	}
	l.verifier = note.VerifierList(verifiers...)
	return nil
}

// namedSigners are the log's keys as far as the statements in the tree of the size
// name them: a line by another key would be a stranger's.
func (l *Log) namedSigners(size uint64) []note.Signer {
	l.ringMu.RLock()
	defer l.ringMu.RUnlock()
	list := l.signers[:1:1] // the genesis names the first one
	if k := l.config.PostQuantumKey; k != nil {
		if stated, named := l.ring.LogKey(k.ID()); named && stated.Index < size {
			list = append(list, l.signers[1:]...)
		}
	}
	return list
}

// keepsOwn reports whether a cosigned checkpoint has every line that the log signed
// with a key that it still has.
func (l *Log) keepsOwn(signed, cosigned []byte) bool {
	before, err := note.Open(signed, l.verifier)
	if err != nil {
		return false
	}
	after, err := note.Open(cosigned, l.verifier)
	return err == nil && len(after.Sigs) >= len(before.Sigs)
}

// nameKey sees to it that the operator's statements name the post-quantum key: to
// an auditor who knows no other key of the log, an unnamed one is a stranger's. A
// statement of its own waits for Run to store it.
func (l *Log) nameKey() error {
	k := l.config.PostQuantumKey
	if k == nil {
		return nil
	}
	if _, named := l.ring.LogKey(k.ID()); named {
		return nil
	}
	operator := l.config.Operator
	if operator == nil {
		return fmt.Errorf("%w: no statement of the operator names the post-quantum key %s+%08x; start the log without it, "+
			"have the operator run sealtap enrol with its verifier key, and start the log with it again", ErrConfig, k.Name, k.KeyID())
	}
	if operator.ID() != l.ring.Genesis.Operator.ID() {
		return fmt.Errorf("%w: the operator key is of %s, but the log's operator is %s", ErrConfig, operator.Name, l.ring.Genesis.Operator.Name)
	}
	entry, err := record.NewKeyChange(record.KeyChange{Origin: l.origin, Number: l.ring.Number + 1, Log: []keys.Public{k.Public}}, operator)
	if err != nil {
		return fmt.Errorf("naming the post-quantum key: %w", err)
	}
	e, err := record.Parse(entry)
	if err == nil {
		err = l.ring.Check(e.KeyChange)
	}
	if err != nil {
		return fmt.Errorf("naming the post-quantum key: %w", err)
	}
	l.config.Logger.Info("the operator names the log's post-quantum key", "key", k.Public.String())
	// The first one in the queue. Heads are not signed with the key before it is stored.
	return l.enqueue(&submission{items: 1, bytes: len(entry), done: make(chan outcome, 1),
		change: &item{entry: entry, leaf: e.Leaf, change: newChange(e)}})
}

package record

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/sealtap/sealtap/keys"
)

// Errors of [Keyring].
var (
	ErrUnknownProducer = errors.New("unknown producer")
	ErrRevoked         = errors.New("revoked producer")
	ErrStatement       = errors.New("statement not acceptable")
)

// Keyring is the history of producers' keys as the operator's statements in the
// log tell it. Feed it the entries in the order of their indices. It is not
// safe for concurrent use.
type Keyring struct {
	Genesis   *Genesis
	Number    uint64 // of the last statement applied, a key change or another
	producers map[keys.ID]*enrolment
	retained  []Retained // oldest first
	closed    *Closed    // nil while the log goes on
	logKeys   map[keys.ID]LogKey
}

type enrolment struct {
	key     keys.Public
	index   uint64
	revoked *Revocation
}

// NewKeyring starts a history with the genesis of a log. Where operator is not
// nil, it is the pin: a genesis by somebody else is refused.
func NewKeyring(g *Genesis, operator *keys.Public) (*Keyring, error) {
	if operator != nil && g.Operator.ID() != operator.ID() {
		return nil, fmt.Errorf("%w: the genesis names operator %s, pinned is %s", ErrStatement, g.Operator, operator)
	}
	k := &Keyring{Genesis: g, producers: make(map[keys.ID]*enrolment), logKeys: make(map[keys.ID]LogKey)}
	k.logKeys[g.Log.ID()] = LogKey{Key: g.Log}
	if g.PostQuantum != nil {
		k.logKeys[g.PostQuantum.ID()] = LogKey{Key: *g.PostQuantum}
	}
	return k, nil
}

// LogKey is a key that signs the log's checkpoints.
type LogKey struct {
	Key   keys.Public
	Index uint64 // of the statement that names it: 0 for the genesis
}

// LogKey returns a key of the log, and reports whether a statement names it.
func (k *Keyring) LogKey(id keys.ID) (LogKey, bool) {
	l, ok := k.logKeys[id]
	return l, ok
}

// LogKeys returns the keys of the log, oldest first.
func (k *Keyring) LogKeys() []LogKey {
	return slices.SortedFunc(maps.Values(k.logKeys), func(a, b LogKey) int {
		return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.Key.Type, b.Key.Type), cmp.Compare(a.Key.String(), b.Key.String()))
	})
}

// Check says whether the key change can be applied now.
func (k *Keyring) Check(c *KeyChange) error {
	if err := c.Verify(k.Genesis.Operator); err != nil {
		return fmt.Errorf("%w: %w", ErrStatement, err)
	}
	if c.Origin != k.Genesis.Log.Name {
		return fmt.Errorf("%w: it is meant for log %q, this is %q", ErrStatement, c.Origin, k.Genesis.Log.Name)
	}
	if c.Number != k.Number+1 {
		return fmt.Errorf("%w: its number is %d, the next one is %d", ErrStatement, c.Number, k.Number+1)
	}
	if err := k.checkOpen(); err != nil {
		return err
	}
	for i, key := range c.Log {
		if _, known := k.logKeys[key.ID()]; known || slices.ContainsFunc(c.Log[:i], func(o keys.Public) bool { return o.ID() == key.ID() }) {
			return fmt.Errorf("%w: the key %08x of the log was named before", ErrStatement, key.KeyID())
		}
	}
	names := make(map[string]bool)
	for _, e := range k.producers {
		if e.revoked == nil {
			names[e.key.Name] = true
		}
	}
	for i, r := range c.Revoke {
		if r.repeats(c.Revoke[:i]) {
			return fmt.Errorf("%w: it says twice what of %q stays admissible", ErrStatement, r.Key.Name)
		}
		e := k.producers[r.Key.ID()]
		if e == nil {
			return fmt.Errorf("%w: it revokes %q, which is not enrolled", ErrStatement, r.Key.Name)
		}
		if e.revoked != nil {
			return fmt.Errorf("%w: %q is revoked already", ErrStatement, r.Key.Name)
		}
		delete(names, e.key.Name) // a rotation enrols a new key under the old name
	}
	return k.checkEnrolments(c, names)
}

// repeats reports whether the revocation names a key that is among others, or an
// incarnation twice: of two statements about one thing none can be believed.
func (r Revocation) repeats(others []Revocation) bool {
	seen := make(map[Incarnation]bool)
	for _, l := range r.Last {
		if seen[l.Incarnation] {
			return true
		}
		seen[l.Incarnation] = true
	}
	return slices.ContainsFunc(others, func(o Revocation) bool { return o.Key.ID() == r.Key.ID() })
}

func (k *Keyring) checkEnrolments(c *KeyChange, names map[string]bool) error {
	seen := make(map[keys.ID]bool)
	for _, key := range c.Enrol {
		id := key.ID()
		switch {
		case k.producers[id] != nil || seen[id]:
			return fmt.Errorf("%w: the key of %q was enrolled before", ErrStatement, key.Name)
		case names[key.Name]:
			return fmt.Errorf("%w: another key is enrolled as %q", ErrStatement, key.Name)
		case id == k.Genesis.Operator.ID(), id == k.Genesis.Log.ID():
			return fmt.Errorf("%w: the key of %q has another role", ErrStatement, key.Name)
		}
		seen[id], names[key.Name] = true, true
	}
	return nil
}

// Apply adds the key change at the given index of the log.
func (k *Keyring) Apply(c *KeyChange, index uint64) error {
	if err := k.Check(c); err != nil {
		return err
	}
	k.Number = c.Number
	for _, key := range c.Log {
		k.logKeys[key.ID()] = LogKey{Key: key, Index: index}
	}
	for _, r := range c.Revoke {
		k.producers[r.Key.ID()].revoked = &r
	}
	for _, key := range c.Enrol {
		k.producers[key.ID()] = &enrolment{key: key, index: index}
	}
	return nil
}

// Key returns the key of a producer, enrolled or revoked.
func (k *Keyring) Key(id keys.ID) (keys.Public, bool) {
	e := k.producers[id]
	if e == nil {
		return keys.Public{}, false
	}
	return e.key, true
}

// Enrolled returns the index of the statement that enrolled the producer.
func (k *Keyring) Enrolled(id keys.ID) (index uint64, ok bool) {
	e := k.producers[id]
	if e == nil {
		return 0, false
	}
	return e.index, true
}

// Revoked returns what the operator said when it ended the key of a producer, and
// reports whether it did.
func (k *Keyring) Revoked(id keys.ID) (Revocation, bool) {
	e := k.producers[id]
	if e == nil || e.revoked == nil {
		return Revocation{}, false
	}
	return *e.revoked, true
}

// Admit returns the key of the stream's producer if what the stream says up to
// and including the sequence can be accepted.
func (k *Keyring) Admit(s Stream, sequence uint64) (keys.Public, error) {
	e := k.producers[s.Producer]
	if e == nil {
		return keys.Public{}, fmt.Errorf("%w: no key with id %s is enrolled", ErrUnknownProducer, s.Producer)
	}
	if e.revoked == nil {
		return e.key, nil
	}
	for _, l := range e.revoked.Last {
		if l.Incarnation == s.Incarnation && sequence <= l.Sequence {
			return e.key, nil
		}
	}
	return keys.Public{}, fmt.Errorf("%w: the operator ended the key of %q before sequence %d of incarnation %s",
		ErrRevoked, e.key.Name, sequence, s.Incarnation)
}

// Producers returns all keys that were ever enrolled, oldest first.
func (k *Keyring) Producers() []keys.Public {
	var list []keys.Public
	for _, e := range slices.SortedFunc(maps.Values(k.producers), func(a, b *enrolment) int { return int(a.index) - int(b.index) }) {
		list = append(list, e.key)
	}
	return list
}

package audit

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"github.com/transparency-dev/formats/proof"
	merkle "github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/witness/policy"
)

// EvidenceError says why evidence proves nothing.
type EvidenceError struct {
	Code   Code   `json:"code"`
	Detail string `json:"detail"`
}

// Error implements error.
func (e *EvidenceError) Error() string { return fmt.Sprintf("%s: %s", e.Code, e.Detail) }

func refuse(c Code, format string, args ...any) error {
	return &EvidenceError{c, fmt.Sprintf(format, args...)}
}

// EvidenceMalformed is the code of evidence that is not in the form that
// docs/formats.md describes, or lacks a part.
const EvidenceMalformed Code = "evidence-malformed"

// VerifyEvidence verifies a text of one or more evidences, offline. Where
// operator is nil the policy's pin is used; without any the key in the genesis
// is believed, and the report says so. Every part is checked and none is taken
// on trust: any deviation is an [*EvidenceError].
func VerifyEvidence(text []byte, p *policy.Policy, operator *keys.Public) (*EvidenceReport, error) {
	if p == nil {
		return nil, fmt.Errorf("%w: there is no policy", ErrConfig)
	}
	if operator == nil {
		operator = p.Operator
	}
	list, err := record.ParseEvidence(text)
	if err != nil {
		return nil, refuse(EvidenceMalformed, "%v", err)
	}
	r := &EvidenceReport{Verdict: Pass, Pinned: operator != nil}
	for i, e := range list {
		v := &verifier{policy: p, operator: operator, evidence: e}
		if err := v.verify(); err != nil {
			var x *EvidenceError
			if len(list) > 1 && errors.As(err, &x) {
				err = refuse(x.Code, "evidence %d of %d: %s", i+1, len(list), x.Detail)
			}
			return nil, err
		}
		r.Entries = append(r.Entries, v.describe())
	}
	return r, nil
}

// verifier verifies one evidence, in the order of its methods.
type verifier struct {
	policy   *policy.Policy
	operator *keys.Public
	evidence *record.Evidence

	head      *policy.Checkpoint
	upper     int64 // when the quorum had cosigned head, Unix seconds
	bounded   bool  // there is such a time
	entry     record.Entry
	genesis   *record.Genesis
	own       []keys.Public // the log's, that the operator names
	key       keys.Public   // of the producer
	seal      *record.Seal
	beaconSeq uint64
	weak      bool  // the beacon's checkpoint does not satisfy the policy
	lower     int64 // when the quorum had cosigned the beacon's checkpoint; 0 if not known
}

func (v *verifier) verify() (err error) {
	e := v.evidence
	if v.head, err = v.policy.Verify(e.Log.Checkpoint); err != nil {
		return refuse(checkpointCode(err), "the log's checkpoint is not to be trusted: %v", err)
	}
	v.upper, v.bounded = v.policy.QuorumTime(v.head.Cosignatures)
	if v.entry, err = record.Parse(e.Entry); err != nil {
		return refuse(EntryMalformed, "%v", err)
	}
	if err := v.inLog("entry", e.Entry, e.Log); err != nil {
		return err
	}
	for _, step := range []func() error{v.checkGenesis, v.checkProducer, v.checkBeacon, v.checkTime, v.checkOpenings} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// included verifies an inclusion proof under a head that is verified already.
func included(what string, entry []byte, p proof.TLogProof, size uint64, root record.Hash) error {
	if p.ExtraData != nil {
		return refuse(EvidenceMalformed, "the proof of the %s carries data that mean nothing here", what)
	}
	path := make([][]byte, len(p.Hashes))
	for i := range p.Hashes {
		path[i] = p.Hashes[i][:]
	}
	leaf := record.LeafHash(entry)
	if err := merkle.VerifyInclusion(rfc6962.DefaultHasher, p.Index, size, leaf[:], path, root[:]); err != nil {
		return refuse(RootMismatch, "the %s is not proven to stand at %d of %d: %v", what, p.Index, size, checkpoint.Unproven(err))
	}
	return nil
}

// inLog verifies that an entry stands in the log under the one verified head.
func (v *verifier) inLog(what string, entry []byte, p proof.TLogProof) error {
	if !bytes.Equal(p.Checkpoint, v.head.Note) {
		return refuse(EvidenceMalformed, "the %s is proven under another checkpoint than the entry", what)
	}
	return included(what, entry, p, v.head.Size, v.head.Root)
}

// checkGenesis ties the log to its operator.
func (v *verifier) checkGenesis() error {
	g := v.evidence.Genesis
	if g == nil {
		return refuse(GenesisInvalid, "the evidence holds no genesis, so nothing ties a producer to the operator")
	}
	if err := v.inLog("genesis", g.Entry, g.Proof); err != nil {
		return err
	}
	e, err := record.Parse(g.Entry)
	switch {
	case err != nil:
		return refuse(GenesisInvalid, "the genesis does not verify: %v", err)
	case e.Genesis == nil || g.Proof.Index != 0:
		return refuse(GenesisInvalid, "what is given for the genesis is a %s at index %d", e.Kind, g.Proof.Index)
	}
	v.genesis = e.Genesis
	if v.operator != nil && v.genesis.Operator.ID() != v.operator.ID() {
		return refuse(GenesisInvalid, "the genesis names operator %s, pinned is %s", v.genesis.Operator, v.operator)
	}
	return v.checkLogKeys()
}

// checkProducer ties the entry to a producer, and a record into its tree.
func (v *verifier) checkProducer() error {
	e := v.evidence
	switch {
	case v.entry.Genesis != nil && e.Log.Index != 0:
		return refuse(GenesisInvalid, "the entry is a second genesis, at index %d", e.Log.Index)
	case v.entry.KeyChange != nil:
		if err := v.signedByOperator("key change", v.entry.KeyChange.Origin, v.entry.KeyChange.Verify); err != nil {
			return err
		}
		return v.noneOf("a key change", e.KeyChange != nil, e.Producer != nil, e.Beacon != nil, len(e.Openings) > 0)
	case v.entry.Statement != nil:
		if err := v.signedByOperator("statement", v.entry.Statement.Origin, v.entry.Statement.Verify); err != nil {
			return err
		}
		return v.noneOf("a statement", e.KeyChange != nil, e.Producer != nil, e.Beacon != nil, len(e.Openings) > 0)
	case v.entry.Record == nil && v.entry.Seal == nil:
		return v.noneOf("an entry without producer", e.KeyChange != nil, e.Producer != nil, e.Beacon != nil, len(e.Openings) > 0)
	}
	if err := v.checkEnrolment(); err != nil {
		return err
	}
	if s := v.entry.Seal; s != nil {
		if err := s.Verify(v.key); err != nil {
			return refuse(SealSignature, "the seal is not by producer %s: %v", v.key.Name, err)
		}
		return v.noneOf("a seal", e.Producer != nil, e.Beacon != nil, len(e.Openings) > 0)
	}
	if e.Producer == nil {
		return refuse(EvidenceMalformed, "the evidence holds no proof of the record in its producer's tree")
	}
	s, err := record.ParseSeal(e.Producer.Checkpoint)
	if err != nil {
		return refuse(SealSignature, "the producer's proof does not end in a seal: %v", err)
	}
	if s.Stream != v.entry.Record.Stream {
		return refuse(SealMismatch, "the seal is over another tree, %s", s.Stream.Origin())
	}
	if err := s.Verify(v.key); err != nil {
		return refuse(SealSignature, "the seal is not by producer %s: %v", v.key.Name, err)
	}
	v.seal = &s
	if seq := v.entry.Record.GetSequence(); e.Producer.Index != seq {
		return refuse(SealMismatch, "the record has sequence %d, its proof is for %d", seq, e.Producer.Index)
	}
	return v.underSeal("record", e.Entry, *e.Producer)
}

func (v *verifier) underSeal(what string, entry []byte, p proof.TLogProof) error {
	if !bytes.Equal(p.Checkpoint, v.seal.Note) {
		return refuse(EvidenceMalformed, "the %s is proven under another seal than the record", what)
	}
	if err := included(what, entry, p, v.seal.Size, v.seal.Root); err != nil {
		return refuse(SealMismatch, "in the producer's tree: %v", err.(*EvidenceError).Detail)
	}
	return nil
}

// noneOf refuses parts that have no meaning for such an entry.
func (v *verifier) noneOf(what string, parts ...bool) error {
	for _, there := range parts {
		if there {
			return refuse(EvidenceMalformed, "the evidence has parts that mean nothing for %s", what)
		}
	}
	return nil
}

// checkEnrolment finds the producer's key in the operator's statement.
func (v *verifier) checkEnrolment() error {
	stream := v.stream()
	k := v.evidence.KeyChange
	if k == nil {
		return refuse(UnknownProducer, "the evidence holds no statement that enrols producer %s", stream.Producer)
	}
	if err := v.inLog("key change", k.Entry, k.Proof); err != nil {
		return err
	}
	e, err := record.Parse(k.Entry)
	switch {
	case err != nil:
		return refuse(KeyChangeInvalid, "the key change is not one: %v", err)
	case e.KeyChange == nil:
		return refuse(KeyChangeInvalid, "what is given for the key change is a %s", e.Kind)
	case k.Proof.Index >= v.evidence.Log.Index:
		return refuse(UnknownProducer, "the producer was enrolled at index %d, after the entry at index %d", k.Proof.Index, v.evidence.Log.Index)
	}
	if err := v.signedByOperator("key change", e.KeyChange.Origin, e.KeyChange.Verify); err != nil {
		return err
	}
	for _, key := range e.KeyChange.Enrol {
		if key.ID() == stream.Producer {
			v.key = key
			return nil
		}
	}
	return refuse(UnknownProducer, "the statement does not enrol producer %s", stream.Producer)
}

// signedByOperator checks a statement of the operator about this log.
func (v *verifier) signedByOperator(what, origin string, verify func(keys.Public) error) error {
	if origin != v.head.Origin {
		return refuse(KeyChangeInvalid, "the %s is meant for log %q, this is %q", what, origin, v.head.Origin)
	}
	if err := verify(v.genesis.Operator); err != nil {
		return refuse(KeyChangeInvalid, "the %s is not signed by the operator alone: %v", what, err)
	}
	return nil
}

func (v *verifier) stream() record.Stream {
	if v.entry.Seal != nil {
		return v.entry.Seal.Stream
	}
	return v.entry.Record.Stream
}

// checkBeacon verifies what bounds the record's time from below.
func (v *verifier) checkBeacon() error {
	b := v.evidence.Beacon
	if b == nil {
		return nil
	}
	e, err := record.Parse(b.Entry)
	if err != nil || e.Record == nil || e.Record.GetBeacon() == nil {
		return refuse(EvidenceMalformed, "what is given for the beacon is none: %v", err)
	}
	r := v.entry.Record
	v.beaconSeq = e.Record.GetSequence()
	switch {
	case e.Record.Stream != r.Stream:
		return refuse(SealMismatch, "the beacon is of another producer's tree")
	case v.beaconSeq >= r.GetSequence() || b.Proof.Index != v.beaconSeq:
		return refuse(SealMismatch, "the beacon with sequence %d, proven at %d, does not stand before the record with sequence %d", v.beaconSeq, b.Proof.Index, r.GetSequence())
	}
	if err := v.underSeal("beacon", b.Entry, b.Proof); err != nil {
		return err
	}
	signed := e.Record.GetBeacon().GetCheckpoint()
	cp, weak, err := withoutQuorum(v.policy, signed) // as in an audit: then it bounds no time, and that is all
	if errors.Is(err, policy.ErrSignature) {
		// As in an audit too: of a time when the log did not have the policy's key.
		if all, err2 := v.policy.Also(v.own...); err2 == nil {
			if older, _, err2 := withoutQuorum(all, signed); err2 == nil {
				cp, weak, err = older, true, nil
			}
		}
	}
	v.weak = weak
	if err != nil {
		return refuse(checkpointCode(err), "the checkpoint in the beacon is not to be trusted: %v", err)
	}
	switch {
	case cp.Origin != v.head.Origin:
		return refuse(CheckpointSignature, "the checkpoint in the beacon is of another log, %q", cp.Origin)
	case cp.Size > v.evidence.Log.Index:
		return refuse(TimeOrder, "the beacon before the record holds a checkpoint of %d entries, which covers the record itself at index %d", cp.Size, v.evidence.Log.Index)
	}
	if !v.weak {
		v.lower, _ = v.policy.QuorumTime(cp.Cosignatures)
	}
	return nil
}

// checkTime checks what the record says of its time against the two bounds.
func (v *verifier) checkTime() error {
	if v.bounded && v.lower > v.upper {
		return refuse(TimeOrder, "the checkpoint in the beacon was cosigned at %s, after the one that covers the record, at %s", seconds(v.lower), seconds(v.upper))
	}
	r := v.entry.Record
	if r == nil {
		return nil
	}
	at := min(max(r.GetTime(), 0), farAway)
	if v.lower > 0 && at < nanos(v.lower)-int64(DefaultSkew) {
		return refuse(TimeOrder, "the record says it was made at %s, but after a checkpoint that was cosigned at %s: it is backdated", clock(at), seconds(v.lower))
	}
	if v.bounded && v.upper < math.MaxInt64 && at > nanos(v.upper)+int64(DefaultSkew) {
		return refuse(TimeOrder, "the record says it was made at %s, but it was cosigned at %s: it was prepared for later", clock(at), seconds(v.upper))
	}
	return nil
}

func (v *verifier) checkOpenings() error {
	seen := make(map[string]bool)
	for _, o := range v.evidence.Openings {
		if v.entry.Record == nil || seen[o.GetField()] {
			return refuse(EvidenceMalformed, "the opening of %q has no place in the evidence, or stands there twice", o.GetField())
		}
		seen[o.GetField()] = true
		if err := record.CheckOpening(*v.entry.Record, o); err != nil {
			return refuse(OpeningMismatch, "%v", err)
		}
	}
	return nil
}

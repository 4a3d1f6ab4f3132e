package audit

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/transparency-dev/formats/proof"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/witness/policy"
)

// OmissionStart is how a file with evidence of an omission begins.
const OmissionStart = record.OmissionHeader

// RecordOmitted is the code of a record that was promised and is not in the log, or
// in whose place another one stands.
const RecordOmitted Code = "record-omitted"

// OmissionReport says what evidence of an omission proves.
type OmissionReport struct {
	Verdict   Verdict  `json:"verdict"` // of the evidence: it stands
	Code      Code     `json:"code"`
	Origin    string   `json:"origin"`
	Size      uint64   `json:"size"`
	Producer  string   `json:"producer"`
	Sequence  uint64   `json:"sequence"`
	Due       string   `json:"due"`
	Other     bool     `json:"contradicted"` // another record stands in its place
	Proven    []string `json:"proven"`
	NotProven []string `json:"not_proven"`
}

// VerifyOmission verifies evidence of an omission, offline, as [VerifyEvidence]
// does evidence. Any deviation is an [*EvidenceError].
func VerifyOmission(text []byte, p *policy.Policy, operator *keys.Public) (*OmissionReport, error) {
	if p == nil {
		return nil, fmt.Errorf("%w: there is no policy", ErrConfig)
	}
	if operator == nil {
		operator = p.Operator
	}
	o, err := record.ParseOmission(text)
	if err != nil {
		return nil, refuse(EvidenceMalformed, "%v", err)
	}
	v := &verifier{policy: p, operator: operator}
	if v.head, err = p.Verify(o.Genesis.Proof.Checkpoint); err != nil {
		return nil, refuse(checkpointCode(err), "the log's checkpoint is not to be trusted: %v", err)
	}
	v.upper, v.bounded = p.QuorumTime(v.head.Cosignatures)
	// What was promised would stand behind everything that there is.
	v.entry = record.Entry{Kind: record.KindRecord, Record: &record.Record{Stream: o.Receipt.Stream}}
	v.evidence = &record.Evidence{KeyChange: o.KeyChange, LogKey: o.LogKey, Genesis: o.Genesis, Log: proof.TLogProof{Index: v.head.Size}}
	for _, step := range []func() error{v.checkGenesis, v.checkEnrolment} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	if err := o.Receipt.Verify(v.key); err != nil {
		return nil, refuse(SealSignature, "the receipt is nobody's promise: %v", err)
	}
	sealed, err := v.omissionSeal(o)
	if err != nil {
		return nil, err
	}
	if err := v.omissionOther(o); err != nil {
		return nil, err
	}
	if o.Other == nil && !v.late(o.Receipt) {
		return nil, refuse(TimeOrder, "the record is not due yet: it was promised by %s, and the checkpoint was cosigned at %s", clock(o.Receipt.Due().UnixNano()), seconds(v.upper))
	}
	return v.describeOmission(o, sealed), nil
}

// late reports whether the record of a receipt is due under the head. Whole seconds
// and two clocks make the skew.
func (v *verifier) late(r *record.Receipt) bool {
	return v.bounded && Late(r, v.upper)
}

// Late reports whether a record is due by the time of a quorum, in Unix seconds.
func Late(r *record.Receipt, quorum int64) bool {
	return r.Due().Add(DefaultSkew).Before(time.Unix(quorum, 0))
}

// omissionSeal checks the producer's newest seal that the log is said to show. It
// returns how many records lie under it.
func (v *verifier) omissionSeal(o *record.Omission) (uint64, error) {
	if o.Seal == nil {
		return 0, nil
	}
	if err := v.inLog("seal", o.Seal.Entry, o.Seal.Proof); err != nil {
		return 0, err
	}
	e, err := record.Parse(o.Seal.Entry)
	if err != nil || e.Seal == nil || e.Seal.Stream != o.Receipt.Stream {
		return 0, refuse(SealMismatch, "what is given for the seal is not one of the promised record's tree")
	}
	if err := e.Seal.Verify(v.key); err != nil {
		return 0, refuse(SealSignature, "the seal is not by producer %s: %v", v.key.Name, err)
	}
	return e.Seal.Size, nil
}

// omissionOther checks the record that stands in the place of the promised one.
func (v *verifier) omissionOther(o *record.Omission) error {
	if o.Other == nil {
		return nil
	}
	if err := v.inLog("other record", o.Other.Entry, o.Other.Proof); err != nil {
		return err
	}
	e, err := record.Parse(o.Other.Entry)
	switch {
	case err != nil || e.Record == nil || e.Record.Stream != o.Receipt.Stream || e.Record.GetSequence() != o.Receipt.Sequence:
		return refuse(EvidenceMalformed, "what is given for the other record does not stand in the place of the promised one")
	case bytes.Equal(e.Leaf[:], o.Receipt.Leaf[:]):
		return refuse(EvidenceMalformed, "the record that stands there is the one that was promised: nothing is missing")
	}
	return nil
}

func (v *verifier) describeOmission(o *record.Omission, sealed uint64) *OmissionReport {
	r, name := o.Receipt, v.key.Name
	out := &OmissionReport{Verdict: Pass, Code: RecordOmitted, Origin: v.head.Origin, Size: v.head.Size, Producer: name, Sequence: r.Sequence, Due: clock(r.Due().UnixNano()), Other: o.Other != nil}
	say := func(format string, args ...any) { out.Proven = append(out.Proven, fmt.Sprintf(format, args...)) }
	not := func(format string, args ...any) { out.NotProven = append(out.NotProven, fmt.Sprintf(format, args...)) }
	say("By the producer %s, whom the operator %s enrolled: it promised that its record %d of incarnation %s exists, made at %s, with leaf hash %s, and would be in the log by %s.",
		name, v.genesis.Operator.Name, r.Sequence, r.Stream.Incarnation, clock(r.Time), r.Leaf, out.Due)
	switch {
	case o.Other != nil:
		say("By the log %s: another record with that sequence stands in it at index %d. Promise and log contradict each other.", v.head.Origin, o.Other.Proof.Index)
	default:
		say("By the witnesses %s: the log's head of %d entries is from after that time; the quorum had cosigned it at %s.", v.cosigned(), v.head.Size, seconds(v.upper))
		not("That the record is nowhere among those entries: whoever has them can look, with sealtap verify and the receipt. One proof of the record in that tree refutes this file.")
	}
	switch {
	case o.Seal == nil:
		not("Whose doing it is: no seal of that incarnation is shown, so the producer may never have handed over the record, or the log withholds everything.")
	case sealed > r.Sequence && o.Other == nil:
		say("By the producer and the log: %s sealed %d records of that incarnation, the promised one's place among them, and the log has that seal: it holds back a record that its producer sealed.", name, sealed)
		not("That no later seal is in the log.")
	case o.Other == nil:
		say("By the producer and the log: a seal over %d records of that incarnation is in the log, and does not reach the promised one.", sealed)
		not("Whose doing it is: the producer may never have handed over the record. Nor that no later seal is in the log.")
	case sealed > r.Sequence:
		not("Which of the two lies under the seal over %d records: an audit of the log shows it. If it is the other one, the producer has signed both.", sealed)
	}
	if v.operator == nil {
		not("Who the operator is: none is pinned, so the key in the log's genesis was believed.")
	}
	return out
}

// Text returns the report for people.
func (r *OmissionReport) Text() string {
	var b strings.Builder
	what := "OMITTED"
	if r.Other {
		what = "CONTRADICTED"
	}
	b.WriteString(wrap("", fmt.Sprintf("%s: record %d of %s, promised for %s", what, r.Sequence, r.Producer, r.Origin), 2))
	for _, s := range r.Proven {
		b.WriteString(wrap("  + ", s, 4))
	}
	if len(r.NotProven) > 0 {
		b.WriteString("Not proven by this evidence:\n")
	}
	for _, s := range r.NotProven {
		b.WriteString(wrap("  - ", s, 4))
	}
	return b.String()
}

package bundle

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/record"
)

// documents verifies evidence after evidence, each by itself: where one is damaged the
// others stay proven.
func (v *verifier) documents(name string, r io.Reader) error {
	n := 0
	err := split(r, func(text []byte) bool {
		n++
		v.document(name, n, text)
		return len(v.report.Findings) < maxFindings
	})
	if errors.Is(err, errEnough) {
		v.find(Malformed, "too much is wrong with %s to go on behind evidence %d; what follows is not proven", name, n)
		return nil
	}
	return err
}

// errEnough says that no more is wanted.
var errEnough = errors.New("enough")

// split cuts a text into evidences. It gives those that are longer than any can be as
// far as it read them. It ends where f does not want more.
func split(r io.Reader, f func(text []byte) bool) error {
	lines := bufio.NewReaderSize(r, 64<<10)
	start := []byte(evidenceStart)
	var doc []byte
	fresh := true // a line begins
	for {
		part, err := lines.ReadSlice('\n')
		if fresh && bytes.Equal(part, start) && len(doc) > 0 {
			if !f(doc) {
				return errEnough
			}
			doc = doc[:0]
		}
		fresh = err == nil
		if len(doc) <= maxDocument {
			doc = append(doc, part...)
		}
		switch {
		case err == nil, errors.Is(err, bufio.ErrBufferFull):
		case err == io.EOF:
			if len(doc) > 0 {
				f(doc)
			}
			return nil
		default:
			return err
		}
	}
}

// evidenceStart is the line that each evidence begins with; docs/formats.md.
const evidenceStart = "sealtap/evidence/v1\n"

func (v *verifier) document(name string, n int, text []byte) {
	fail := func(c audit.Code, index *uint64, format string, args ...any) {
		v.add(audit.Finding{Code: c, Severity: audit.Finds, Index: index, Detail: fmt.Sprintf("%s, evidence %d: %s", name, n, fmt.Sprintf(format, args...))})
	}
	if len(text) > maxDocument {
		fail(audit.EvidenceMalformed, nil, "it is longer than any evidence is")
		return
	}
	list, err := record.ParseEvidence(text)
	if err != nil || len(list) != 1 {
		fail(audit.EvidenceMalformed, nil, "%v; what it was to prove is not proven", err)
		return
	}
	e := list[0]
	index := e.Log.Index
	out, err := audit.VerifyEvidence(text, v.Policy, v.Operator)
	if err != nil {
		c := audit.EvidenceMalformed
		if bad := (*audit.EvidenceError)(nil); errors.As(err, &bad) {
			c, err = bad.Code, errors.New(bad.Detail)
		}
		fail(c, &index, "%v; the entry at index %d is not proven", err, index)
		return
	}
	if !bytes.Equal(e.Log.Checkpoint, v.head.Note) {
		fail(audit.EvidenceMalformed, &index, "it is proven under another checkpoint than the bundle")
		return
	}
	entry, err := record.Parse(e.Entry)
	if err != nil {
		fail(audit.EntryMalformed, &index, "%v", err)
		return
	}
	if err := v.take(name, index, entry, out.Entries[0]); err != nil {
		fail(audit.EvidenceMalformed, &index, "%v", err)
	}
}

// take takes an entry that is proven.
func (v *verifier) take(name string, index uint64, e record.Entry, out audit.EvidenceEntry) error {
	switch name {
	case keysFile:
		return v.takeStatement(index, e)
	case sealsFile:
		if e.Seal == nil {
			return fmt.Errorf("it is of a %s, and not of a seal", e.Kind)
		}
		if v.seals[e.Seal.Stream] != nil || len(v.seals) >= maxStreams {
			return errors.New("it is of a stream of which there is a seal already, or one too many")
		}
		v.seals[e.Seal.Stream] = e.Seal
		v.admitted(index, "seal", e.Seal.Stream, max(e.Seal.Size, 1)-1)
		return nil
	}
	switch r := e.Record; {
	case r == nil:
		return fmt.Errorf("it is of a %s, and not of a record", e.Kind)
	case name == gapsFile && r.GetGap() == nil:
		return errors.New("it is of a record that declares no gap")
	}
	if _, ok := v.disclosed[index]; ok {
		return errors.New("the record stands in the bundle twice")
	}
	if len(v.disclosed) >= maxShown {
		return errors.New("there are more records than a bundle has")
	}
	v.disclosed[index] = leaf{e.Leaf, e.Record.Stream, e.Record.GetSequence()}
	v.admitted(index, "record", e.Record.Stream, e.Record.GetSequence())
	v.report.Records++
	if name == gapsFile {
		v.report.Gaps++
	}
	v.report.Openings += uint64(len(out.Openings))
	v.bound(e.Record.GetTime(), out)
	return nil
}

// admitted tells of what the operator has revoked.
func (v *verifier) admitted(index uint64, what string, s record.Stream, sequence uint64) {
	if v.ring == nil {
		return
	}
	if _, err := v.ring.Admit(s, sequence); err != nil {
		v.add(audit.Finding{Code: audit.UnknownProducer, Severity: audit.Notes, Index: &index, Detail: fmt.Sprintf("the %s at index %d is proven, but not admissible by the statements of the operator in the bundle: %v", what, index, err)})
	}
}

// bound notes between which times the records of the bundle lie.
func (v *verifier) bound(ns int64, out audit.EvidenceEntry) {
	at := time.Unix(0, ns).UTC()
	if v.first.IsZero() || at.Before(v.first) {
		v.first = at
	}
	if at.After(v.last) {
		v.last = at
	}
	if out.NotBefore == "" {
		v.loose++
	} else if v.after == "" || out.NotBefore < v.after {
		v.after = out.NotBefore
	}
}

// takeStatement follows what the operator said: each statement has the next number.
func (v *verifier) takeStatement(index uint64, e record.Entry) error {
	var err error
	switch {
	case e.Genesis != nil && v.ring == nil:
		v.ring, err = record.NewKeyring(e.Genesis, v.Operator)
		return err
	case v.ring == nil:
		return errors.New("the history of keys does not begin with a genesis")
	case e.KeyChange != nil:
		err = v.ring.Apply(e.KeyChange, index)
	case e.Statement != nil:
		err = v.ring.ApplyStatement(e.Statement, index)
	default:
		err = fmt.Errorf("it is of a %s, and not of a statement of the operator", e.Kind)
	}
	if err == nil {
		v.report.Statements++
	}
	return err
}

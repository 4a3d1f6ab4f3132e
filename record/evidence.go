package record

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/transparency-dev/formats/proof"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

const evidenceHeader = "sealtap/evidence/v1"

// Evidence proves one entry offline. It claims nothing by itself: a verifier
// recomputes everything from the policy and the operator's pinned key.
type Evidence struct {
	Entry    []byte
	Openings []*sealtapv1.Opening // those that the holder chose to disclose
	Log      proof.TLogProof      // the entry in the log
	Producer *proof.TLogProof     // the record in its producer's tree, under a seal; nil if the entry is not a record
	// Beacon is the newest beacon record before the entry in the producer's
	// tree, proven under the same seal: the entry is younger than the cosigned
	// checkpoint in it. Nil if there is none.
	Beacon    *Proven
	KeyChange *Proven // the statement that enrolled the producer, in the log; nil if the entry is not a producer's
	LogKey    *Proven // the newest statement that names a key of the log, in the log; nil if the genesis names all
	Genesis   *Proven // the genesis of the log, in the log
}

// Proven is an entry with its proof.
type Proven struct {
	Entry []byte
	Proof proof.TLogProof
}

// Marshal returns the text of the evidence. Evidence of several entries is the
// concatenation of their texts.
func (e *Evidence) Marshal() []byte {
	var b bytes.Buffer
	b.WriteString(evidenceHeader + "\n\n")
	section := func(name string, text []byte) {
		fmt.Fprintf(&b, "-- %s --\n%s", name, text)
	}
	section("entry", base64Line(e.Entry))
	for _, o := range e.Openings {
		section("opening", openingLine(o))
	}
	section("log.tlog-proof", e.Log.Marshal())
	if e.Producer != nil {
		section("producer.tlog-proof", e.Producer.Marshal())
	}
	for _, p := range []struct {
		name string
		*Proven
	}{{"beacon", e.Beacon}, {"key-change", e.KeyChange}, {"log-key", e.LogKey}, {"genesis", e.Genesis}} {
		if p.Proven != nil {
			section(p.name, base64Line(p.Entry))
			section(p.name+".tlog-proof", p.Proof.Marshal())
		}
	}
	return b.Bytes()
}

func base64Line(b []byte) []byte {
	return []byte(base64.StdEncoding.EncodeToString(b) + "\n")
}

func openingLine(o *sealtapv1.Opening) []byte {
	return fmt.Appendf(nil, "%s %s %s %s\n", o.GetField(), o.GetType(),
		base64.StdEncoding.EncodeToString(o.GetSalt()), base64.StdEncoding.EncodeToString(o.GetValue()))
}

// ParseEvidence parses a text of one or more evidences. It accepts the one
// spelling that [Evidence.Marshal] makes, so that no byte of a file is without
// meaning.
func ParseEvidence(text []byte) ([]*Evidence, error) {
	head := []byte(evidenceHeader + "\n\n")
	if !bytes.HasPrefix(text, head) {
		return nil, fmt.Errorf("%w: evidence starts with the line %q and an empty line", ErrMalformed, evidenceHeader)
	}
	var list []*Evidence
	for rest := text; len(rest) > 0; {
		rest = rest[len(head):]
		doc := rest
		// The header cannot stand within a section: none of them has a line like it.
		if i := bytes.Index(rest, append([]byte("\n"), head...)); i >= 0 {
			doc, rest = rest[:i+1], rest[i+1:]
		} else {
			rest = nil
		}
		e, err := parseEvidence(doc)
		if err != nil {
			return nil, fmt.Errorf("evidence %d: %w", len(list)+1, err)
		}
		if !bytes.Equal(e.Marshal()[len(head):], doc) {
			return nil, fmt.Errorf("evidence %d: %w: not in the one spelling of evidence", len(list)+1, ErrMalformed)
		}
		list = append(list, e)
	}
	return list, nil
}

func parseEvidence(doc []byte) (*Evidence, error) {
	e := new(Evidence)
	parts := map[string]**Proven{"beacon": &e.Beacon, "key-change": &e.KeyChange, "log-key": &e.LogKey, "genesis": &e.Genesis}
	for len(doc) > 0 {
		var name string
		var text []byte
		var err error
		if name, text, doc, err = nextSection(doc); err != nil {
			return nil, err
		}
		base, isProof := strings.CutSuffix(name, ".tlog-proof")
		switch slot := parts[base]; {
		case name == "entry":
			e.Entry, err = parseBase64Line(text)
		case name == "opening":
			var o *sealtapv1.Opening
			o, err = parseOpening(text)
			e.Openings = append(e.Openings, o)
		case name == "log.tlog-proof":
			err = e.Log.Unmarshal(text)
		case name == "producer.tlog-proof":
			e.Producer = new(proof.TLogProof)
			err = e.Producer.Unmarshal(text)
		case slot != nil && !isProof:
			*slot = new(Proven)
			(*slot).Entry, err = parseBase64Line(text)
		case slot != nil && *slot != nil:
			err = (*slot).Proof.Unmarshal(text)
		default:
			err = fmt.Errorf("%w: unexpected section %q", ErrMalformed, name)
		}
		if err != nil {
			return nil, fmt.Errorf("section %q: %w", name, err)
		}
	}
	if len(e.Entry) == 0 || len(e.Log.Checkpoint) == 0 {
		return nil, fmt.Errorf("%w: evidence has an entry and its log.tlog-proof", ErrMalformed)
	}
	return e, nil
}

// nextSection cuts the section that doc starts with.
func nextSection(doc []byte) (name string, text, rest []byte, err error) {
	line, rest, _ := bytes.Cut(doc, []byte("\n"))
	name, ok := strings.CutPrefix(string(line), "-- ")
	name, ok2 := strings.CutSuffix(name, " --")
	if !ok || !ok2 {
		return "", nil, nil, fmt.Errorf("%w: %.40q is not the head of a section", ErrMalformed, line)
	}
	if i := bytes.Index(rest, []byte("\n-- ")); i >= 0 {
		return name, rest[:i+1], rest[i+1:], nil
	}
	return name, rest, nil, nil
}

func parseBase64Line(text []byte) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSuffix(string(text), "\n"))
	if err != nil {
		return nil, fmt.Errorf("%w: not a line of base64", ErrMalformed)
	}
	return b, nil
}

func parseOpening(text []byte) (*sealtapv1.Opening, error) {
	line := strings.TrimSuffix(string(text), "\n")
	f := strings.Split(line, " ")
	if len(f) != 4 || strings.Contains(line, "\n") {
		return nil, fmt.Errorf("%w: an opening is FIELD TYPE SALT VALUE", ErrMalformed)
	}
	salt, err1 := base64.StdEncoding.Strict().DecodeString(f[2])
	value, err2 := base64.StdEncoding.Strict().DecodeString(f[3])
	if err1 != nil || err2 != nil {
		return nil, fmt.Errorf("%w: salt and value of an opening are base64", ErrMalformed)
	}
	return &sealtapv1.Opening{Field: f[0], Type: f[1], Salt: salt, Value: value}, nil
}

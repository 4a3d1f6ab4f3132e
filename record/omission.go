package record

import (
	"bytes"
	"fmt"
	"strings"
)

// OmissionHeader is the first line of an [Omission].
const OmissionHeader = "sealtap/omission/v1"

// Omission is what a log shows where a receipt promised a record: nothing, or
// another record. All proofs in it end at one cosigned checkpoint.
type Omission struct {
	Receipt   *Receipt
	Other     *Proven // the record that stands in the log in its place; nil if none does
	Seal      *Proven // the newest seal of the stream, in the log; nil if there is none
	KeyChange *Proven // the statement that enrolled the producer
	LogKey    *Proven // the newest statement that names a key of the log; nil if the genesis names all
	Genesis   *Proven
}

func (o *Omission) parts() []struct {
	name string
	slot **Proven
} {
	return []struct {
		name string
		slot **Proven
	}{{"other", &o.Other}, {"seal", &o.Seal}, {"key-change", &o.KeyChange}, {"log-key", &o.LogKey}, {"genesis", &o.Genesis}}
}

// Marshal returns the text of the omission.
func (o *Omission) Marshal() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n\n-- receipt --\n%s\n", OmissionHeader, o.Receipt)
	for _, p := range o.parts() {
		if e := *p.slot; e != nil {
			fmt.Fprintf(&b, "-- %s --\n%s-- %s.tlog-proof --\n%s", p.name, base64Line(e.Entry), p.name, e.Proof.Marshal())
		}
	}
	return b.Bytes()
}

// ParseOmission parses the one spelling that [Omission.Marshal] makes.
func ParseOmission(text []byte) (*Omission, error) {
	doc, ok := bytes.CutPrefix(text, []byte(OmissionHeader+"\n\n"))
	if !ok {
		return nil, fmt.Errorf("%w: evidence of an omission starts with the line %q and an empty line", ErrMalformed, OmissionHeader)
	}
	o := new(Omission)
	slots := make(map[string]**Proven)
	for _, p := range o.parts() {
		slots[p.name] = p.slot
	}
	for len(doc) > 0 {
		name, section, rest, err := nextSection(doc)
		if err != nil {
			return nil, err
		}
		doc = rest
		base, isProof := strings.CutSuffix(name, ".tlog-proof")
		switch slot := slots[base]; {
		case name == "receipt":
			o.Receipt, err = ParseReceipt(strings.TrimSuffix(string(section), "\n"))
		case slot != nil && !isProof:
			*slot = new(Proven)
			(*slot).Entry, err = parseBase64Line(section)
		case slot != nil && *slot != nil:
			err = (*slot).Proof.Unmarshal(section)
		default:
			err = fmt.Errorf("%w: unexpected section", ErrMalformed)
		}
		if err != nil {
			return nil, fmt.Errorf("section %q: %w", name, err)
		}
	}
	if o.Receipt == nil || o.Genesis == nil || o.KeyChange == nil || !bytes.Equal(o.Marshal(), text) {
		return nil, fmt.Errorf("%w: not in the one spelling of evidence of an omission, or not whole", ErrMalformed)
	}
	return o, nil
}

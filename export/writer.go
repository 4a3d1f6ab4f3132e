package export

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/parquet-go/parquet-go"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
)

// The forms of an export.
const (
	JSONL   = "jsonl"   // a record a line, as GET /v1/records shows it
	CSV     = "csv"     // a [Row] a line, below the names of its columns
	Parquet = "parquet" // rows in columns
	OCSF    = "ocsf"    // an event of OCSF's class API Activity a line
)

// ErrFormat is wrapped where a form is not known.
var ErrFormat = errors.New("unknown format")

// Formats returns the names of all forms.
func Formats() []string { return []string{JSONL, CSV, Parquet, OCSF} }

// Writer writes items in one form.
type Writer struct {
	name  func(keys.ID) string
	write func(Item) error
	close func() error
}

// New returns a writer of a form. name gives the name of a producer's key.
func New(format string, w io.Writer, name func(keys.ID) string) (*Writer, error) {
	x := &Writer{name: name, close: func() error { return nil }}
	lines := json.NewEncoder(w)
	lines.SetEscapeHTML(false)
	switch format {
	case JSONL:
		x.write = func(it Item) error { return lines.Encode(record.NewView(it.Entry, it.Index, name, nil)) }
	case OCSF:
		x.write = func(it Item) error { return lines.Encode(newEvent(newRow(it, name))) }
	case CSV:
		x.csv(w)
	case Parquet:
		x.parquet(w)
	default:
		return nil, fmt.Errorf("%w: %q; it is one of %s", ErrFormat, format, strings.Join(Formats(), ", "))
	}
	return x, nil
}

// Write writes an item.
func (x *Writer) Write(it Item) error { return x.write(it) }

// Close writes what belongs behind the last item. It does not close what is
// written to.
func (x *Writer) Close() error { return x.close() }

func (x *Writer) csv(w io.Writer) {
	out := csv.NewWriter(w)
	var header, line []string
	for _, c := range new(Row).cells() {
		header = append(header, c.name)
	}
	err := out.Write(header)
	x.write = func(it Item) error {
		line = line[:0]
		for _, c := range newRow(it, x.name).cells() {
			line = append(line, tame(c.text))
		}
		return errors.Join(err, out.Write(line))
	}
	x.close = func() error {
		out.Flush()
		return errors.Join(err, out.Error())
	}
}

// tame keeps a spreadsheet from taking what a client sent for a formula.
func tame(text string) string {
	if text != "" && strings.IndexByte("=+-@\t\r'", text[0]) >= 0 {
		return "'" + text
	}
	return text
}

// wild is the inverse of tame.
func wild(text string) string { return strings.TrimPrefix(text, "'") }

// groupRows is how many rows are held before they are written as a group.
const groupRows = 50_000

func (x *Writer) parquet(w io.Writer) {
	out := parquet.NewGenericWriter[Row](w, parquet.Compression(&parquet.Zstd), parquet.CreatedBy("sealtap", "", ""))
	batch, held := make([]Row, 0, 512), 0
	flush := func() error {
		_, err := out.Write(batch)
		held += len(batch)
		batch = batch[:0]
		if err == nil && held >= groupRows {
			held, err = 0, out.Flush()
		}
		return err
	}
	x.write = func(it Item) error {
		if batch = append(batch, *newRow(it, x.name)); len(batch) < cap(batch) {
			return nil
		}
		return flush()
	}
	x.close = func() error { return errors.Join(flush(), out.Close()) }
}

// jsonValue returns v as JSON decodes it.
func jsonValue(v any) (any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return decodeJSON(b)
}

// decodeJSON decodes one value with nothing behind it. It keeps numbers as they are
// written: those of 64 bits lose their last digits elsewhere.
func decodeJSON(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("there is more behind the value")
	}
	return v, nil
}

package export

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
)

// ErrRows is wrapped where a file does not hold rows of an export.
var ErrRows = errors.New("no rows of an export")

// Line is a row that has come back.
type Line struct {
	Number       int // of the row in its file, from 1
	Index        uint64
	Leaf         record.Hash
	RequestIndex *uint64

	format string
	value  any      // as JSON decodes it, or the cells of a table by their names
	others []string // places in it that are no export's
}

// maxLine bounds a line of a file.
const maxLine = 4 << 20

// Read calls f with each row of a file. The form is told from the content.
func Read(file *os.File, f func(*Line) error) error {
	r := bufio.NewReaderSize(file, 64<<10)
	start, err := r.Peek(4)
	if err != nil && len(start) == 0 {
		return fmt.Errorf("%w: the file is empty", ErrRows)
	}
	switch {
	case string(start) == "PAR1":
		return readParquet(file, f)
	case start[0] == '{':
		return readJSON(r, f)
	}
	return readCSV(r, f)
}

func readJSON(r io.Reader, f func(*Line) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for n := 1; lines.Scan(); n++ {
		if len(strings.TrimSpace(lines.Text())) == 0 {
			continue
		}
		if err := namedTwice(lines.Bytes()); err != nil {
			return fmt.Errorf("line %d: %w: %w", n, ErrRows, err)
		}
		v, err := decodeJSON(lines.Bytes())
		m, ok := v.(map[string]any)
		if err != nil || !ok {
			return fmt.Errorf("line %d: %w: it is not a JSON object", n, ErrRows)
		}
		l := &Line{Number: n, format: JSONL, value: v}
		place := m
		if u, ok := m["unmapped"].(map[string]any); ok {
			l.format, place = OCSF, u
		}
		if err := l.place(jsonText(place["index"]), jsonText(place["leaf_hash"]), jsonText(place["request_index"])); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if err := f(l); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrRows, err)
	}
	return nil
}

// namedTwice refuses an object with two values of one name: one of them would be
// compared, and others may read the other.
func namedTwice(line []byte) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	type object struct {
		names map[string]bool // nil in a list
		value bool            // what comes next is a value
	}
	var open []object
	for {
		t, err := d.Token()
		if err != nil {
			return nil // the end, or what decodeJSON refuses
		}
		at := len(open) - 1
		switch {
		case t == json.Delim('}') || t == json.Delim(']'):
			open = open[:at]
			continue
		case at >= 0 && open[at].names != nil && !open[at].value:
			name, _ := t.(string)
			if open[at].names[name] {
				return fmt.Errorf("it has two values named %q", name)
			}
			open[at].names[name], open[at].value = true, true
			continue
		}
		if at >= 0 {
			open[at].value = false
		}
		switch t {
		case json.Delim('{'):
			open = append(open, object{names: make(map[string]bool)})
		case json.Delim('['):
			open = append(open, object{})
		}
	}
}

func jsonText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	return ""
}

// allowance is a reader that fails once it has read more than is allowed: a quote
// that is never closed makes one cell of all that follows.
type allowance struct {
	r    io.Reader
	left int
}

// Read implements [io.Reader].
func (a *allowance) Read(p []byte) (int, error) {
	n, err := a.r.Read(p)
	if a.left -= n; a.left < 0 {
		return 0, fmt.Errorf("%w: a row has more than %d bytes", ErrRows, maxLine)
	}
	return n, err
}

func readCSV(r io.Reader, f func(*Line) error) error {
	const ahead = 64 << 10 // that is read of the rows behind, at most
	bounded := &allowance{r, maxLine + ahead}
	in := csv.NewReader(bounded)
	header, err := in.Read()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRows, err)
	}
	header[0] = strings.TrimPrefix(header[0], "\ufeff") // spreadsheets put it there
	ours := make(map[string]int)
	for _, c := range new(Row).cells() {
		ours[c.name] = 1
	}
	for _, name := range header {
		if ours[name] == 2 {
			return fmt.Errorf("%w: it has two columns %q, and only one of them could be compared", ErrRows, name)
		}
		if ours[name] == 1 {
			ours[name] = 2
		}
	}
	if !slices.Contains(header, "index") || !slices.Contains(header, "leaf_hash") {
		return fmt.Errorf("%w: it has no columns index and leaf_hash, without which nothing can be proven", ErrRows)
	}
	for n := 2; ; n++ {
		bounded.left = maxLine + ahead
		list, err := in.Read()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrRows, err)
		}
		cells := make(map[string]string, len(list))
		for i, text := range list {
			cells[header[i]] = wild(text)
		}
		if err := giveTable(CSV, n, cells, f); err != nil {
			return err
		}
	}
}

// lineEnds gives text the one end of lines that it has once it was read from CSV
// (RFC 4180 has another than what most programs write).
func lineEnds(text string) string {
	for strings.Contains(text, "\r\n") {
		text = strings.ReplaceAll(text, "\r\n", "\n")
	}
	return text
}

func giveTable(format string, n int, cells map[string]string, f func(*Line) error) error {
	l := &Line{Number: n, format: format, value: cells}
	if err := l.place(cells["index"], cells["leaf_hash"], cells["request_index"]); err != nil {
		return fmt.Errorf("row %d: %w", n, err)
	}
	return f(l)
}

func (l *Line) place(index, leaf, request string) error {
	var err error
	if l.Index, err = strconv.ParseUint(index, 10, 64); err != nil {
		return fmt.Errorf("%w: it has no index, without which nothing can be proven", ErrRows)
	}
	h, err := base64.StdEncoding.DecodeString(leaf)
	if err != nil || len(h) != len(l.Leaf) {
		return fmt.Errorf("%w: it has no leaf_hash, without which nothing can be proven", ErrRows)
	}
	l.Leaf = record.Hash(h)
	if request != "" {
		n, err := strconv.ParseUint(request, 10, 64)
		if err != nil {
			return fmt.Errorf("%w: request_index %q is no index", ErrRows, request)
		}
		l.RequestIndex = &n
	}
	return nil
}

// Compare returns what of a row is not what the record says, as "NAME: is A, was B".
// The item was proven to stand at the row's index, and its request at the request's.
// What a row lacks, or has beside the columns of an export, is not compared.
func (l *Line) Compare(it Item, name func(keys.ID) string) ([]string, error) {
	if it.Entry.Leaf != l.Leaf {
		return []string{fmt.Sprintf("leaf_hash: is %s, was %s", b64(l.Leaf[:]), b64(it.Entry.Leaf[:]))}, nil
	}
	var bad []string
	if l.format == JSONL {
		v, err := jsonValue(record.NewView(it.Entry, it.Index, name, nil))
		l.compareJSON("", l.value, v, &bad)
		return bad, err
	}
	row := newRow(it, name)
	if l.format == OCSF {
		v, err := jsonValue(newEvent(row))
		if err != nil {
			return nil, err
		}
		l.compareJSON("", l.value, v, &bad)
	} else {
		have := l.value.(map[string]string)
		for name := range have {
			if !isColumn(name) {
				l.others = append(l.others, name)
			}
		}
		for _, c := range row.cells() {
			text, ok := have[c.name]
			same := text == c.text || l.format == CSV && lineEnds(text) == lineEnds(c.text)
			if ok && !same {
				bad = append(bad, differs(c.name, text, c.text))
			}
		}
	}
	if len(bad) > 0 && it.Request == nil && it.Entry.Record.GetResponse() != nil {
		bad = append(bad, "request_index: is missing, and without it nothing of the request can be proven")
	}
	return bad, nil
}

// compareJSON holds what of a value is in an export against what should be there.
func (l *Line) compareJSON(at string, have, want any, bad *[]string) {
	w, ok := want.(map[string]any)
	h, too := have.(map[string]any)
	if !ok || !too {
		if a, b := text(have), text(want); a != b {
			*bad = append(*bad, differs(strings.TrimPrefix(at, "."), a, b))
		}
		return
	}
	for name, value := range h {
		should, ok := w[name]
		place := strings.TrimPrefix(at+"."+name, ".")
		switch {
		case ok:
			l.compareJSON(at+"."+name, value, should, bad)
		case l.format == JSONL && at != "", known(l.format, place):
			// Beside what a record says others may put what they like, but not within it.
			*bad = append(*bad, differs(place, text(value), "absent"))
		default:
			l.others = append(l.others, place)
		}
	}
}

// Others returns names in the row that are none of an export, sorted: what stands
// there was not compared. A column that was renamed is one of them. It is to be called
// after Compare.
func (l *Line) Others() []string {
	slices.Sort(l.others)
	return l.others
}

func text(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

func differs(name, have, want string) string {
	return fmt.Sprintf("%s: is %q, was %q", name, have, want)
}

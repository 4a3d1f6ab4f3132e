package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/export"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

// The classes of bits that no audit finds. docs/audit.md says of each what it is and why
// it means nothing, under "Bits that mean nothing".
const (
	unneededSignature = "a signature line that the quorum does not need"
	sameValue         = "another spelling of the same value"
	besideRows        = "what stands in a Parquet file beside its rows"
	endOfWAL          = "the end of a write-ahead log"
	olderSigned       = "an older signed checkpoint"
)

var meaningless = []string{
	unneededSignature, sameValue, besideRows, endOfWAL, olderSigned, "the file header", "unused space", "bookkeeping of free space", "upper bits of cell pointers", "the end of a chain", "whether bytes are a text or a blob", "the log's index", "the schema", "row bookkeeping",
}

// kindOfFlips is a kind of data and what makes it, from a world with traffic.
type kindOfFlips struct {
	name string
	make func(t *testing.T, s *stopped) *flipping
}

// stopped is a log that has been stopped, and what was taken from it before.
type stopped struct {
	*world
	at     func(name string) string // a place for a file of the test
	policy *policy.Policy
	live   map[string][]byte // of its directory while it ran
}

// kindsOfFlips are all kinds, by the names that SEALTAP_BITFLIPS_KIND takes.
func kindsOfFlips() []kindOfFlips {
	list := []kindOfFlips{
		{"mirror", func(t *testing.T, s *stopped) *flipping { return mirrorFlips(t, s.at("mirror"), s.policy) }},
		{"database", func(t *testing.T, s *stopped) *flipping { return databaseFlips(t, s.dir, s.policy) }},
		{"wal", walFlips},
		{"signed", signedFlips},
		{"evidence", func(t *testing.T, s *stopped) *flipping { return evidenceFlips(t, s.at("evidence"), s.policy) }},
		{"backup", func(t *testing.T, s *stopped) *flipping {
			backupOf(t, s.world, s.at("backup"))
			return backupFlips(t, s.at("backup"), s.policy)
		}},
		{"bundle", func(t *testing.T, s *stopped) *flipping { return bundleFlips(t, s, "bundle") }},
		{"bundle-complete", func(t *testing.T, s *stopped) *flipping { return bundleFlips(t, s, "bundle-complete", "--complete") }},
	}
	for _, form := range export.Formats() {
		list = append(list, kindOfFlips{"rows." + form, func(t *testing.T, s *stopped) *flipping {
			s.must(t, "export", s.at("mirror"), "--format", form, "--out", s.at("rows."+form))
			return rowFlips(t, form, s.at("rows."+form), s.at("mirror"), s.policy)
		}})
	}
	return list
}

// chosenFlips returns the kinds that the environment names.
func chosenFlips(t *testing.T) []kindOfFlips {
	t.Helper()
	list := kindsOfFlips()
	chosen := strings.Fields(os.Getenv("SEALTAP_BITFLIPS_KIND"))
	var names []string
	for _, k := range list {
		names = append(names, k.name)
	}
	for _, name := range chosen {
		if !slices.Contains(names, name) {
			t.Fatalf("SEALTAP_BITFLIPS_KIND: there is no kind %q; the kinds are %s", name, strings.Join(names, " "))
		}
	}
	if len(chosen) == 0 {
		return list
	}
	return slices.DeleteFunc(list, func(k kindOfFlips) bool { return !slices.Contains(chosen, k.name) })
}

// TestBitFlips flips bits of all that an auditor is handed.
func TestBitFlips(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(repository(), "docs", "audit.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, class := range meaningless {
		if !bytes.Contains(page, []byte("\n| "+class+" |")) {
			t.Errorf("docs/audit.md does not say why %q means nothing", class)
		}
	}
	kinds := chosenFlips(t)
	w := newWorld(t)
	n := sampledLog
	if *bitflips >= 10_000 {
		n = wholeLog
	}
	w.traffic(t, n)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	w.must(t, "mirror", w.log, at("mirror"))
	one := fmt.Sprint(w.search(t, "stage=response")[0])
	w.must(t, "prove", one, "--out", at("evidence"))
	live := liveCopy(t, w.dir)
	w.stop()
	p, err := loadPolicy("--policy", filepath.Join(w.dir, "policy.txt"))
	if err != nil {
		t.Fatal(err)
	}
	s := &stopped{w, at, p, live}
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) { k.make(t, s).run(t) })
	}
}

func backupOf(t *testing.T, w *world, dir string) {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run([]string{"log", "backup", "--config", filepath.Join(w.dir, "config.yaml"), dir}, &out, &errs); code != exitGood {
		t.Fatalf("exit %d, %s", code, &errs)
	}
}

// audited audits what an opened source has; an error is a refusal to read it.
func audited(src *source, err error, p *policy.Policy) (*audit.Report, error) {
	if err != nil {
		return nil, err
	}
	defer src.close()
	r, err := audit.Run(context.Background(), src.Source, audit.Options{Policy: p, Openings: src.openings, Parallel: 1})
	if err == nil {
		err = src.extra(r)
	}
	return r, err
}

// passes reports whether a report says that all is well. One that could not be
// finished says what could not be read, which is a refusal.
func passes(r *audit.Report) bool { return r.Verdict == audit.Pass }

func mirrorFlips(t *testing.T, dir string, p *policy.Policy) *flipping {
	files := readAll(t, dir)
	return &flipping{"mirror", 2 << 10, files, func(t *testing.T) flipper {
		dir := copyFiles(t, files)
		return func(path string, bit int) (class string, err error) {
			err = errors.Join(flipOnDisk(filepath.Join(dir, path), bit, files[path], func() {
				src, e := new(reading).openSource(context.Background(), dir)
				r, e := audited(src, e, p)
				switch {
				case e != nil || !passes(r):
				case path == "checkpoint" && r.Checked.UnknownSignatures == 1:
					class = unneededSignature
				default:
					err = errors.New("it passes")
				}
			}), err)
			return class, err
		}
	}}
}

// sameContents are places of which bits mean nothing where everything that an audit
// reads is still the same.
var sameContents = map[string]string{
	nameOf("bundle", "cell"):      sameValue,         // the frame unpacks to the same entries
	nameOf("head", "cell"):        "row bookkeeping", // where a row begins, rows behind those that are needed
	nameOf("head", "page header"): "row bookkeeping",
	nameOf("checkpoint", "cell"):  "row bookkeeping", // the name in a row that is found by an index of names
}

func databaseFlips(t *testing.T, dir string, p *policy.Policy) *flipping {
	files := make(map[string][]byte)
	key, err := os.ReadFile(filepath.Join(dir, "keys", "openings.key"))
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range readAll(t, dir) {
		if name == "log.db" || name == "log.db.openings" {
			files[name] = b
		}
	}
	return &flipping{"database", 0, files, func(t *testing.T) flipper {
		dir := copyFiles(t, files)
		if err := errors.Join(os.Mkdir(filepath.Join(dir, "keys"), 0o700), os.WriteFile(filepath.Join(dir, "keys", "openings.key"), key, 0o600)); err != nil {
			t.Fatal(err)
		}
		want, err := contents(dir, p)
		if err != nil {
			t.Fatal(err)
		}
		places := map[string]*pages{}
		for name, b := range files {
			places[name] = pagesOf(t, b)
		}
		return func(path string, bit int) (class string, err error) {
			err = errors.Join(flipOnDisk(filepath.Join(dir, path), bit, files[path], func() {
				src, e := openData(context.Background(), dir)
				r, e := audited(src, e, p)
				if e != nil || !passes(r) || slices.ContainsFunc(r.Findings, func(x audit.Finding) bool { return x.Code == audit.OpeningClosed }) {
					return
				}
				class = places[path].class(bit)
				if r.Checked.UnknownSignatures == 1 {
					class = unneededSignature
				}
				have, e := contents(dir, p)
				if e != nil {
					err = fmt.Errorf("it passes, and cannot be read: %w (%s)", e, class)
				} else if !bytes.Equal(have, want) && class != unneededSignature {
					err = fmt.Errorf("it passes, and has other contents (%s)", class)
				} else if same, ok := sameContents[class]; ok {
					class = same
				}
			}), err)
			for _, name := range []string{"-wal", "-shm"} {
				_ = os.Remove(filepath.Join(dir, path) + name)
			}
			return class, err
		}
	}}
}

// contents is all that an audit reads of a data directory, without its verdict.
func contents(dir string, p *policy.Policy) ([]byte, error) {
	ctx := context.Background()
	src, err := openData(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer src.close()
	signed, err := src.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	head, err := p.VerifyLogOnly(signed)
	if err != nil {
		return nil, err
	}
	all := bytes.Clone(signed)
	for level, nodes := uint(0), head.Size; nodes > 0; level, nodes = level+1, nodes/client.TileWidth {
		for n := uint64(0); n*client.TileWidth < nodes; n++ {
			width := int(min(client.TileWidth, nodes-n*client.TileWidth))
			tile, err := src.Tile(ctx, level, n, width)
			if err != nil {
				return nil, err
			}
			all = append(all, tile...)
			if level > 0 {
				continue
			}
			bundle, err := src.Bundle(ctx, n, width)
			if err != nil {
				return nil, err
			}
			all = append(all, bundle...)
		}
	}
	file, err := sqlite.OpenOpeningsFile(ctx, filepath.Join(dir, "log.db.openings"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for index := range head.Size {
		row, _, err := file.Row(ctx, index)
		if err != nil {
			return nil, err
		}
		all = append(all, row.Box...)
	}
	return all, nil
}

func evidenceFlips(t *testing.T, path string, p *policy.Policy) *flipping {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	good, err := audit.VerifyEvidence(text, p, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &flipping{"evidence", 64 << 10, map[string][]byte{filepath.Base(path): text}, func(*testing.T) flipper {
		return func(_ string, bit int) (string, error) {
			bad := flipped(text, bit)
			r, err := audit.VerifyEvidence(bad, p, nil)
			switch {
			case err != nil:
				return "", nil
			case len(r.Entries) == len(good.Entries) && bytes.Contains(lineOf(bad, bit/8), []byte("— ")):
				return unneededSignature, nil
			}
			return "", errors.New("it verifies")
		}
	}}
}

// lineOf returns the line around a byte.
func lineOf(text []byte, at int) []byte {
	from := bytes.LastIndexByte(text[:at], '\n') + 1
	if end := bytes.IndexByte(text[at:], '\n'); end >= 0 {
		return text[from : at+end]
	}
	return text[from:]
}

func backupFlips(t *testing.T, dir string, p *policy.Policy) *flipping {
	files := readAll(t, dir)
	return &flipping{"backup", 2 << 10, files, func(t *testing.T) flipper {
		dir := copyFiles(t, files)
		return func(path string, bit int) (_ string, err error) {
			err = errors.Join(flipOnDisk(filepath.Join(dir, path), bit, files[path], func() {
				// What this does not find an audit of the whole need not find either.
				if list, e := checkBackup(context.Background(), dir); e == nil && len(list) == 0 {
					err = errors.New("it passes")
				}
			}), err)
			return "", err
		}
	}}
}

// rowFlips flips bits of an export. Rows are compared one by one, so of the forms
// that are text those around the bit are enough; a table is read whole.
func rowFlips(t *testing.T, form, path, mirror string, p *policy.Policy) *flipping {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(path)
	return &flipping{name, 0, map[string][]byte{name: text}, func(t *testing.T) flipper {
		truth := newRowTruth(t, mirror, p)
		scratch := filepath.Join(t.TempDir(), name)
		return func(_ string, bit int) (string, error) {
			good, bit := text, bit
			if form != export.Parquet {
				good, bit = excerpt(text, bit, form == export.CSV)
			}
			bad := flipped(good, bit)
			if err := os.WriteFile(scratch, bad, 0o600); err != nil {
				return "", err
			}
			report, err := truth.verify(scratch)
			switch {
			case err != nil || report.Altered > 0:
				return "", nil
			case len(report.Others) > 0: // it says that a column was not compared
				return "", nil
			}
			was, err := values(form, good)
			if err != nil {
				return "", err
			}
			is, err := values(form, bad)
			switch {
			case err != nil:
				return "", fmt.Errorf("it verifies, and cannot be read: %w", err)
			case !reflect.DeepEqual(was, is):
				return "", fmt.Errorf("it verifies: %s", difference(was, is))
			}
			if form == export.Parquet {
				return besideRows, nil
			}
			return sameValue, nil
		}
	}}
}

// difference tells the first difference of two lists of rows.
func difference(a, b any) string {
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range min(x.Len(), y.Len()) {
		if p, q := x.Index(i).Interface(), y.Index(i).Interface(); !reflect.DeepEqual(p, q) {
			return fmt.Sprintf("row %d was %.1000s, is %.1000s", i, text(p), text(q))
		}
	}
	return fmt.Sprintf("%d rows, were %d", y.Len(), x.Len())
}

func text(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// excerpt cuts a few lines around a bit out of a text, behind its first line if
// that is a header.
func excerpt(text []byte, bit int, header bool) ([]byte, int) {
	lines := slices.Collect(bytes.Lines(text))
	at := 0
	for i, line := range lines {
		if bit/8 >= at+len(line) {
			at += len(line)
			continue
		}
		from, to := max(i-1, 0), min(i+2, len(lines))
		var out []byte
		if header && from > 0 {
			out = append(out, lines[0]...)
		}
		for _, before := range lines[from:i] {
			out = append(out, before...)
		}
		bit += (len(out) - at) * 8
		for _, rest := range lines[i:to] {
			out = append(out, rest...)
		}
		return out, bit
	}
	panic("the bit is behind the text")
}

// rowTruth proves rows against a mirror that is open.
type rowTruth struct{ s *scan }

func newRowTruth(t *testing.T, mirror string, p *policy.Policy) *rowTruth {
	t.Helper()
	src, err := client.Open(mirror)
	if err != nil {
		t.Fatal(err)
	}
	s, err := openScan(t.Context(), src, p)
	if err != nil {
		t.Fatal(err)
	}
	r := &reading{log: mirror}
	if err := r.names(t.Context(), p, s); err != nil {
		t.Fatal(err)
	}
	return &rowTruth{s}
}

func (r *rowTruth) verify(path string) (*rowsReport, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return r.s.proveRows(context.Background(), file)
}

// values reads the rows of a file without our own reader.
func values(form string, b []byte) (any, error) {
	switch form {
	case export.CSV:
		return csv.NewReader(bytes.NewReader(b)).ReadAll()
	case export.Parquet:
		// Without indices, which stand beside the rows.
		in, err := parquet.OpenFile(bytes.NewReader(b), int64(len(b)), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
		if err != nil {
			return nil, err
		}
		r := parquet.NewGenericReader[export.Row](in)
		defer r.Close()
		var list []export.Row
		for {
			batch := make([]export.Row, 256)
			n, err := r.Read(batch)
			if list = append(list, batch[:n]...); err == io.EOF {
				return list, nil
			} else if err != nil {
				return nil, err
			}
		}
	}
	var list []any
	for line := range bytes.Lines(b) {
		var v any
		d := json.NewDecoder(bytes.NewReader(line))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

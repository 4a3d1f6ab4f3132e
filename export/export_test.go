package export

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

func name(keys.ID) string { return "shop" }

// items are a request that wants to be a formula, and its response.
func items(t testing.TB) []Item {
	t.Helper()
	entry := func(sequence uint64, r *sealtapv1.Record) record.Entry {
		r.Exchange = bytes.Repeat([]byte{7}, 16)
		r.Time = 1_790_000_000_123_456_789
		r.Producer, r.Incarnation, r.Sequence = bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 16), sequence
		b, err := record.Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		e, err := record.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	ask := Item{Index: 41, Entry: entry(0, &sealtapv1.Record{About: &sealtapv1.Record_Request{Request: &sealtapv1.Request{
		Method: "GET", Path: `/a,"b"`, Who: &sealtapv1.Who{Id: "=cmd|' /C calc'!A0", How: "basic",
			Issuer: "https://issuer.example", Certificate: bytes.Repeat([]byte{4}, 32), Claims: []*sealtapv1.Claim{{Name: "team", Value: `o"ps`}}},
		Operation: &sealtapv1.Operation{Protocol: "mcp", Name: "tools/call", Target: "delete"}, Template: "/{x}", Decision: &sealtapv1.Decision{Rule: "tools", Allowed: true}, Source: "192.0.2.1:99", Trace: bytes.Repeat([]byte{9}, 16),
		Body: &sealtapv1.Body{Size: 3, Sha256: bytes.Repeat([]byte{1}, 32)},
	}}})}
	answer := Item{Index: 42, Request: &ask, Entry: entry(1, &sealtapv1.Record{About: &sealtapv1.Record_Response{Response: &sealtapv1.Response{
		Status: 200, Outcome: sealtapv1.Outcome_OUTCOME_COMPLETE, DurationNs: 1<<63 + 5, Sent: &sealtapv1.Body{Size: 0, Sha256: bytes.Repeat([]byte{2}, 32)},
	}}})}
	return []Item{ask, answer}
}

func write(t testing.TB, format string, list []Item) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := New(format, &b, name)
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range list {
		if err := w.Write(it); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// read returns what is wrong with the rows of a file, by their index.
func read(t testing.TB, data []byte, list []Item) (rows int, bad map[uint64][]string, err error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rows")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	bad = make(map[uint64][]string)
	err = Read(f, func(l *Line) error {
		rows++
		for _, it := range list {
			if it.Index != l.Index {
				continue
			}
			if l.RequestIndex == nil {
				it.Request = nil
			}
			d, err := l.Compare(it, name)
			if err != nil {
				return err
			}
			bad[l.Index] = d
			return nil
		}
		bad[l.Index] = []string{"no such entry"}
		return nil
	})
	return rows, bad, err
}

func TestRoundTrip(t *testing.T) {
	list := items(t)
	for _, format := range Formats() {
		data := write(t, format, list)
		rows, bad, err := read(t, data, list)
		if err != nil || rows != 2 || len(bad[41])+len(bad[42]) > 0 {
			t.Errorf("%s: %d rows, %v, %v", format, rows, bad, err)
		}
	}
}

// What a client called itself does not make a row look altered that is not.
func TestStrangeNames(t *testing.T) {
	for _, who := range []string{"a\r\nb", "a\r\r\nb", "a\rb", "\r\na\r", "''a", "\"", "\ufeff", " a ", "a\x00b\u2028"} {
		list := items(t)[:1]
		list[0].Entry.Record.GetRequest().Who.Id = who
		for _, format := range Formats() {
			rows, bad, err := read(t, write(t, format, list), list)
			if err != nil || rows != 1 || len(bad[41]) > 0 {
				t.Errorf("%s with %q: %d rows, %v, %v", format, who, rows, bad, err)
			}
		}
	}
}

func TestFormulas(t *testing.T) {
	data := string(write(t, CSV, items(t)))
	if strings.Contains(data, ",=cmd") || !strings.Contains(data, ",'=cmd") {
		t.Errorf("a client's name is a formula to spreadsheets:\n%s", data)
	}
}

// Each value that differs from the record's is found, in every form.
func TestChanged(t *testing.T) {
	list := items(t)
	for _, tc := range []struct{ format, from, to, want string }{
		{CSV, "GET", "PUT", "method"}, {CSV, "192.0.2.1", "192.0.2.2", "source"}, {CSV, "9223372036854775813", "9223372036854775812", "duration_ns"},
		{CSV, ",complete,", ",timeout,", "outcome"}, {CSV, "shop", "shoq", "producer"}, {CSV, ",42,", ",41,", "leaf_hash"},
		{JSONL, `"GET"`, `"PUT"`, "method"}, {JSONL, "9223372036854775813", "9223372036854775812", "response.duration_ns"},
		{JSONL, `"stage":"request"`, `"stage":"request","response":{"status":1}`, "response"}, {JSONL, `"stage":"request"`, `"stage":"request","tags":["mine"]`, ""}, {JSONL, `"verified":false`, `"verified":true`, "who.verified"},
		{OCSF, `"code":200`, `"code":500`, "http_response.code"}, {OCSF, `"ip":"192.0.2.1"`, `"ip":"192.0.2.9"`, "src_endpoint.ip"},
		{OCSF, `"outcome":"complete"`, `"outcome":"timeout"`, "unmapped.outcome"}, {OCSF, `"activity_id":2`, `"activity_id":4`, "activity_id"},
		{OCSF, `"status_id":0`, `"status_id":0,"http_response":{"code":500}`, "http_response"}, {OCSF, `"ip":"192.0.2.1"`, `"ip":"192.0.2.1","name":"x"`, "src_endpoint.name"},
	} {
		data := string(write(t, tc.format, list))
		changed := strings.Replace(data, tc.from, tc.to, -1)
		if tc.format == CSV && tc.want == "leaf_hash" {
			changed = strings.Replace(data, "\n42,", "\n41,", 1)
		}
		if changed == data {
			t.Fatalf("%s: %q is not in\n%s", tc.format, tc.from, data)
		}
		_, bad, err := read(t, []byte(changed), list)
		if err != nil {
			t.Fatal(err)
		}
		all := strings.Join(append(bad[41], bad[42]...), "; ")
		if tc.want == "" {
			if all != "" {
				t.Errorf("%s with %q beside what was exported: %q", tc.format, tc.to, all)
			}
			continue
		}
		if !strings.Contains(all, tc.want+": is ") {
			t.Errorf("%s with %q for %q: %q", tc.format, tc.to, tc.from, all)
		}
	}
}

func TestNoRows(t *testing.T) {
	for _, data := range []string{"", "x", "a,b\n1,2\n", "{}\n", "{", `{"index":1}` + "\n", "PAR1", "PAR1PAR1", "index,leaf_hash\n1,AAAA\n", "index,leaf_hash\n-1,\n"} {
		if rows, _, err := read(t, []byte(data), nil); err == nil || rows != 0 {
			t.Errorf("%q: %d rows, %v", data, rows, err)
		}
	}
}

// Rows of Parquet that lack columns are compared in those that are there.
func TestFewerColumns(t *testing.T) {
	type few struct {
		Index    uint64 `parquet:"index"`
		LeafHash string `parquet:"leaf_hash"`
		Method   string `parquet:"method"`
	}
	list := items(t)[:1]
	for _, method := range []string{"GET", "PUT"} {
		var b bytes.Buffer
		w := parquet.NewGenericWriter[few](&b)
		_, err := w.Write([]few{{41, newRow(list[0], name).LeafHash, method}})
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		rows, bad, err := read(t, b.Bytes(), list)
		altered := len(bad[41]) == 1 && strings.HasPrefix(bad[41][0], "method: is ")
		if err != nil || rows != 1 || altered != (method == "PUT") || !altered && len(bad[41]) > 0 {
			t.Errorf("with %s: %d rows, %v, %v", method, rows, bad, err)
		}
	}
}

// A file of which only a part would be compared is not read as good.
func TestTwice(t *testing.T) {
	list := items(t)
	table := strings.Replace(string(write(t, CSV, list)), ",stage,", ",method,", 1)
	if rows, _, err := read(t, []byte(table), list); !errors.Is(err, ErrRows) || rows != 0 {
		t.Errorf("two columns of one name: %d rows, %v", rows, err)
	}
	line := strings.TrimSuffix(string(write(t, JSONL, list[:1])), "\n")
	if rows, _, err := read(t, []byte(line+" "+line+"\n"), list); !errors.Is(err, ErrRows) || rows != 0 {
		t.Errorf("two objects in a line: %d rows, %v", rows, err)
	}
}

// FuzzRead: whatever stands in a file, reading it ends in rows or in an error.
func FuzzRead(f *testing.F) {
	list := items(f)
	for _, format := range []string{JSONL, CSV, OCSF} {
		f.Add(write(f, format, list))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 || bytes.HasPrefix(data, []byte("PAR1")) { // the parser of parquet is fuzzed elsewhere
			return
		}
		_, _, _ = read(t, data, list)
	})
}

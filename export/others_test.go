package export

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
)

// others returns what is not compared of the rows of a file, and what is altered.
func others(t *testing.T, data []byte, list []Item) (names, altered []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rows")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	err = Read(file, func(l *Line) error {
		i := slices.IndexFunc(list, func(it Item) bool { return it.Index == l.Index })
		bad, err := l.Compare(list[i], name)
		names, altered = append(names, l.Others()...), append(altered, bad...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names, altered
}

// TestRenamed: a fact under another name is not compared any more, and that is said: a
// single bit makes it so.
func TestRenamed(t *testing.T) {
	list := items(t)
	for _, format := range Formats() {
		if names, altered := others(t, write(t, format, list), list); len(names)+len(altered) > 0 {
			t.Errorf("%s as it was written: %q, %q", format, names, altered)
		}
	}
	for _, c := range []struct{ format, from, to, want string }{
		{CSV, ",method,", ",methoe,", "methoe"},
		{JSONL, `"method":`, `"methoe":`, "methoe"},
		{OCSF, `"http_method":`, `"http_methoe":`, "http_request.http_methoe"},
	} {
		data := write(t, c.format, list)
		changed := bytes.ReplaceAll(data, []byte(c.from), []byte(c.to))
		if bytes.Equal(changed, data) {
			t.Fatalf("%q is not in\n%s", c.from, data)
		}
		if names, altered := others(t, changed, list); !slices.Contains(names, c.want) || len(altered) > 0 {
			t.Errorf("%s with %q: %q, %q", c.format, c.to, names, altered)
		}
	}
	type other struct {
		Index    uint64 `parquet:"index"`
		LeafHash string `parquet:"leaf_hash"`
		Methoe   string `parquet:"methoe"`
	}
	var b bytes.Buffer
	w := parquet.NewGenericWriter[other](&b)
	_, err := w.Write([]other{{41, newRow(list[0], name).LeafHash, "PUT"}})
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	if names, _ := others(t, b.Bytes(), list); !slices.Equal(names, []string{"methoe"}) {
		t.Errorf("parquet: %q", names)
	}
}

// TestRenamedHeader: the names of headers are what the record says.
func TestRenamedHeader(t *testing.T) {
	l := &Line{format: JSONL}
	var bad []string
	l.compareJSON("", map[string]any{"headers": map[string]any{"acceps": "x"}}, map[string]any{"headers": map[string]any{"accept": "x"}}, &bad)
	if len(bad) != 1 || !strings.Contains(bad[0], "headers.acceps") || len(l.Others()) > 0 {
		t.Errorf("%q, %q", bad, l.Others())
	}
}

// TestMemberTwice: of two members of one name other programs take another one than we.
func TestMemberTwice(t *testing.T) {
	list := items(t)
	for _, c := range []struct{ format, from, to string }{
		{JSONL, `"method":"GET"`, `"method":"PUT","method":"GET"`},
		{JSONL, `"outcome":"complete"`, `"outcome":"timeout","outcome":"complete"`},
		{OCSF, `"code":200`, `"code":500,"code":200`},
	} {
		data := write(t, c.format, list)
		changed := bytes.Replace(data, []byte(c.from), []byte(c.to), 1)
		if bytes.Equal(changed, data) {
			t.Fatalf("%q is not in\n%s", c.from, data)
		}
		if _, _, err := read(t, changed, list); !errors.Is(err, ErrRows) {
			t.Errorf("%s: %v", c.to, err)
		}
	}
}

// TestUnboundedParquet: a codec whose decoder takes all memory where its input is
// damaged is refused, so one flipped bit cannot end the program.
func TestUnboundedParquet(t *testing.T) {
	list := items(t)
	var b bytes.Buffer
	w := parquet.NewGenericWriter[Row](&b, parquet.Compression(&parquet.Lz4Raw))
	_, err := w.Write([]Row{*newRow(list[0], name)})
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	if rows, _, err := read(t, b.Bytes(), list); !errors.Is(err, ErrRows) || !strings.Contains(err.Error(), "write it with zstd") || rows != 0 {
		t.Errorf("%d rows, %v", rows, err)
	}
}

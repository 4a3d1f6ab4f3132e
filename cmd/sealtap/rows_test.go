package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/export"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/tlog/client/clienttest"
	"github.com/sealtap/sealtap/witness/policy"
)

// A row that names what stands in the log but is no entry is altered, and the rows
// after it are looked at all the same.
func TestRowsOfNoEntry(t *testing.T) {
	log, err := keys.Generate("log.example", keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	operator, err := keys.Generate("operator.example", keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	genesis, err := record.NewGenesis(log.Public, operator, time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	entries := [][]byte{genesis, {1, 2, 0xff}}
	files, root := clienttest.Tiles(entries)
	s := &scan{tree: client.NewTree(files.Source(), 2, root), head: &policy.Checkpoint{Size: 2, Root: root}}
	var rows strings.Builder
	for _, i := range []int{1, 0, 1} {
		leaf := record.LeafHash(entries[i])
		fmt.Fprintf(&rows, `{"index":%d,"leaf_hash":%q}`+"\n", i, base64.StdEncoding.EncodeToString(leaf[:]))
	}
	path := filepath.Join(t.TempDir(), "rows.jsonl")
	if err := os.WriteFile(path, []byte(rows.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var lines []*export.Line
	if err := export.Read(f, func(l *export.Line) error { lines = append(lines, l); return nil }); err != nil {
		t.Fatal(err)
	}
	var report rowsReport
	if err := s.compare(t.Context(), lines, &report); err != nil || report.Rows != 3 || report.Altered != 3 || report.Proven != 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	for i, want := range []string{"entry 1 is no record", "is a genesis", "entry 1 is no record"} {
		if d := report.Listed[i].Detail; len(d) != 1 || !strings.Contains(d[0], want) {
			t.Errorf("row %d: %q, want %q", i+1, d, want)
		}
	}
}

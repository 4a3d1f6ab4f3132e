package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	quotedName = regexp.MustCompile("`([^`]+)`")
	testName   = regexp.MustCompile(`^([a-z0-9/]+)\.((?:Test|Fuzz)\w+)(?:/(.+))?$`)
	testFunc   = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
)

// TestThreatModel reads the tables of docs/threat-model.md. Every row names what
// proves it, and everything that is named is there.
func TestThreatModel(t *testing.T) {
	root := filepath.Join("..", "..")
	text, err := os.ReadFile(filepath.Join(root, "docs", "threat-model.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := threatRows(string(text))
	if len(rows) < 30 {
		t.Errorf("%d rows were found", len(rows))
	}
	for _, row := range rows {
		names := quotedName.FindAllStringSubmatch(row.proof, -1)
		if len(names) == 0 {
			t.Errorf("line %d: no test proves %q", row.line, row.what)
		}
		for _, n := range names {
			if err := proofExists(root, n[1]); err != nil {
				t.Errorf("line %d: %v", row.line, err)
			}
		}
	}
	// The check itself can fail.
	for _, n := range []string{"audit.TestNothing", "audit.TestTampers/a record is invented", "nowhere.TestPass", "story nothing", "audit TestPass", "proxy.harness"} {
		if proofExists(root, n) == nil {
			t.Errorf("%q is taken for a test", n)
		}
	}
}

// threatRow is a row of a table whose last column is headed "proven by".
type threatRow struct {
	line        int
	what, proof string
}

func threatRows(page string) (rows []threatRow) {
	in := false
	for i, line := range strings.Split(page, "\n") {
		if !strings.HasPrefix(line, "|") {
			in = false
			continue
		}
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		last := strings.TrimSpace(cells[len(cells)-1])
		switch {
		case last == "proven by":
			in = true
		case in && !strings.HasPrefix(line, "|--"):
			rows = append(rows, threatRow{i + 1, cells[0], last})
		}
	}
	return rows
}

// proofExists checks "story NAME", "PACKAGE.TestName" or "PACKAGE.TestName/CASE".
func proofExists(root, name string) error {
	if story, ok := strings.CutPrefix(name, "story "); ok {
		found, err := filepath.Glob(filepath.Join(root, "cmd", "sealtap", "testdata", "*", story+".txt"))
		if err == nil && len(found) == 0 {
			err = fmt.Errorf("%s: %w", name, fs.ErrNotExist)
		}
		return err
	}
	m := testName.FindStringSubmatch(name)
	if m == nil {
		return fmt.Errorf("%q is no name of a test, such as audit.TestPass", name)
	}
	pkg, test, sub := m[1], m[2], m[3]
	files, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pkg), "*_test.go"))
	if err != nil || len(files) == 0 {
		return errors.Join(err, fmt.Errorf("%s: package %s: %w", name, pkg, fs.ErrNotExist))
	}
	found, foundSub := false, sub == ""
	for _, f := range files {
		source, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		for _, m := range testFunc.FindAllStringSubmatch(string(source), -1) {
			found = found || m[1] == test
		}
		foundSub = foundSub || strings.Contains(string(source), fmt.Sprintf("%q", sub))
	}
	if !found || !foundSub {
		return fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return nil
}

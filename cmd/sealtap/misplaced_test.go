package main

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLostOpenings: what is kept of sealed fields can be erased, which leaves a row. It
// cannot be lost otherwise without a word, nor with the key that it is under.
func TestLostOpenings(t *testing.T) {
	w := newWorld(t)
	w.stop()
	if code, out, errs := w.sealtap("audit", w.dir); code != exitGood {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	good := readAll(t, w.dir)
	const last = `(SELECT max(entry) FROM opening)`
	for _, c := range []struct{ name, change, want string }{
		{"of another record", `UPDATE opening SET box = (SELECT box FROM opening ORDER BY entry LIMIT 1) WHERE entry = ` + last, "opening-mismatch"},
		{"at a place without record", `UPDATE opening SET entry = 0 WHERE entry = ` + last, "not of the record that stands there"},
		{"of another leaf", `UPDATE opening SET leaf = x'0011223344556677'`, "are those of another record"},
		{"under a key that is gone", `UPDATE wrapped_key SET id = x'00112233445566778899aabbccddeeff'`, "the data key"},
		{"erased", `UPDATE opening SET box = NULL`, ""},
		{"under a key that was erased", `UPDATE wrapped_key SET wrapped = NULL`, ""},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			dir := copyFiles(t, map[string][]byte{"log.db": good["log.db"], "log.db.openings": good["log.db.openings"], "keys/openings.key": good["keys/openings.key"]})
			db, err := sql.Open("sqlite3", filepath.Join(dir, "log.db.openings"))
			if err != nil {
				t.Fatal(err)
			}
			res, err := db.Exec(c.change)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := res.RowsAffected(); err != nil || n == 0 {
				t.Fatal(n, err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			code, out, errs := w.sealtap("audit", dir)
			if c.want == "" && code != exitGood || c.want != "" && (code != exitFailed || !strings.Contains(strings.Join(strings.Fields(out), " "), c.want)) {
				t.Errorf("exit %d, want %q: %s%s", code, c.want, out, errs)
			}
		})
	}
}

// TestAlteredBackup: an audit of a backup takes its manifest into account, since what a
// log is restored from is more than an audit reads.
func TestAlteredBackup(t *testing.T) {
	w := newWorld(t)
	w.stop()
	dir := filepath.Join(t.TempDir(), "backup")
	backupOf(t, w, dir)
	if code, out, errs := w.sealtap("audit", dir); code != exitGood {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	if list := readAll(t, dir); len(list) != 4 {
		t.Errorf("an audit leaves %d files in a backup", len(list))
	}
	db, err := sql.Open("sqlite3", filepath.Join(dir, "log.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`UPDATE run SET first = first + 1`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func() error{
		"a table that no audit reads": func() error { return nil },
		"a file is gone":              func() error { return os.Remove(filepath.Join(dir, "log.db.signed")) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if code, out, errs := w.sealtap("audit", dir, "--json"); code != exitFailed || !strings.Contains(out, `"backup-altered"`) {
			t.Errorf("%s: exit %d: %s%s", name, code, out, errs)
		}
	}
}

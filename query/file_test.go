package query

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"

	"github.com/sealtap/sealtap/storage/sqlite"
)

// logText collects what is logged.
type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func logged() (Config, *logText) {
	text := new(logText)
	return Config{segment: 256, Logger: slog.New(slog.NewTextHandler(text, nil))}, text
}

func TestResumeDoesNotReadAgain(t *testing.T) {
	l := newMemLog(t)
	ps := l.enrol("edge-a", "edge-b")
	rows := shop(l, ps, 520)
	l.publish()
	path := indexFile(t)
	ix, stop := follow(t, path, l, small())
	caughtUp(t, ix)
	stop()
	// An index that goes on has what is beyond the last full segment to read.
	again, err := Open(path, l, small())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got, want := again.Indexed(), l.Size()/256*256; got != want {
		t.Errorf("after a restart %d entries are indexed, want %d", got, want)
	}
	if got, _ := fetch(t, again.Handler(HandlerConfig{Proofs: l}), "limit=1000&producer=edge-a"); len(got) == 0 || got[0] < rows[300].index {
		t.Errorf("before Run %d records are found", len(got))
	}
}

func TestGoesOnAfterTrouble(t *testing.T) {
	l := newMemLog(t)
	ps := l.enrol("edge")
	rows := shop(l, ps, 200)
	l.publish()
	ix, _ := follow(t, indexFile(t), l, small())
	caughtUp(t, ix)
	l.mu.Lock()
	l.fail = errors.New("disk on fire")
	l.mu.Unlock()
	more := shop(l, ps, 100)
	time.Sleep(20 * time.Millisecond)
	l.mu.Lock()
	l.fail = nil
	l.mu.Unlock()
	l.publish()
	caughtUp(t, ix)
	rows = append(rows, more...)
	want := expect(rows, func(row) bool { return true })
	if got := all(t, ix.Handler(HandlerConfig{Proofs: l}), ""); !slices.Equal(got, want) {
		t.Errorf("%d records, want %d", len(got), len(want))
	}
}

func TestDamagedFile(t *testing.T) {
	l := newMemLog(t)
	ps := l.enrol("edge-a", "edge-b")
	rows := shop(l, ps, 600)
	l.publish()
	other := newMemLog(t)
	shop(other, other.enrol("edge-a", "edge-b"), 600)
	for name, damage := range map[string]func(t *testing.T, path string){
		"no database": func(t *testing.T, path string) { write(t, path, []byte(strings.Repeat("not a database ", 1000))) },
		"truncated": func(t *testing.T, path string) {
			if err := os.Truncate(path, 3*4096+17); err != nil {
				t.Fatal(err)
			}
		},
		"overwritten pages": func(t *testing.T, path string) {
			b := must(os.ReadFile(path))
			for i := 4096; i < len(b); i++ {
				b[i] ^= 0x5a
			}
			write(t, path, b)
		},
		"missing table":      execute("DROP TABLE post"),
		"missing segment":    execute("DELETE FROM zone WHERE seg = 1"),
		"other segment size": execute("UPDATE meta SET value = 512 WHERE key = 'segment'"),
		"before operations":  execute("DELETE FROM meta WHERE key = 'fields'; DELETE FROM post WHERE field = 10"),
		"before buckets":     execute("DELETE FROM meta WHERE key = 'layout'; DELETE FROM id"),
		"malformed buckets":  execute("UPDATE id SET members = x'ffffff'"),
		"newer schema":       execute("PRAGMA user_version = 7"),
		"other last entry":   execute("UPDATE zone SET last = zeroblob(32)"),
		"malformed sets":     execute("UPDATE post SET members = x'ffffff'"),
		"members too large":  execute("UPDATE post SET members = x'ffff'"),
		"malformed times":    execute("UPDATE clock SET times = x'ff'"),
		"another log": func(t *testing.T, path string) {
			if err := removeDatabase(path); err != nil {
				t.Fatal(err)
			}
			ix, stop := follow(t, path, other, small())
			caughtUp(t, ix)
			stop()
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := indexFile(t)
			ix, stop := follow(t, path, l, small())
			caughtUp(t, ix)
			stop()
			damage(t, path)
			cfg, text := logged()
			ix, _ = follow(t, path, l, cfg)
			h := ix.Handler(HandlerConfig{Proofs: l})
			want := expect(rows, func(r row) bool { return r.who == "user-3" })
			// Damage that only a reader meets is mended once it has.
			deadline := time.Now().Add(8 * time.Second)
			for !strings.Contains(text.String(), "rebuilt from the log") && time.Now().Before(deadline) {
				get(h, "/v1/records?who=user-3&since=2026-01-01T00:00:00Z&until=2026-11-01T12:05:00Z")
				time.Sleep(time.Millisecond)
			}
			caughtUp(t, ix)
			if got := all(t, h, "who=user-3"); !slices.Equal(got, want) {
				t.Errorf("%d records, want %d", len(got), len(want))
			}
			if !strings.Contains(text.String(), "rebuilt from the log") {
				t.Errorf("nothing is said about it: %s", text)
			}
		})
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func execute(statement string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		t.Helper()
		db := must(sql.Open("sqlite3", path))
		defer db.Close()
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
}

func TestShrunkenLog(t *testing.T) {
	l := newMemLog(t)
	ps := l.enrol("edge")
	shop(l, ps, 400)
	path := indexFile(t)
	ix, stop := follow(t, path, l, small())
	caughtUp(t, ix)
	stop()
	// The log is restored from a copy and then goes another way.
	back := newMemLog(t)
	back.key, back.operator, back.numbers = l.key, l.operator, l.numbers
	back.entries, back.tree = nil, testonly.New(rfc6962.DefaultHasher)
	back.add(l.entries[:300]...)
	ps[0].log = back
	ps[0].restart()
	rows := shop(back, ps, 100)
	back.publish()
	ix, _ = follow(t, path, back, small())
	caughtUp(t, ix)
	want := expect(rows, func(r row) bool { return true })
	if got, _ := fetch(t, ix.Handler(HandlerConfig{Proofs: back}), "limit=200"); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestForeignDatabaseIsKept(t *testing.T) {
	l := newMemLog(t)
	path := indexFile(t)
	db, err := sqlite.Open(context.Background(), path, sqlite.Schema{Kind: "treasure", ApplicationID: 77, Migrations: []string{"CREATE TABLE gold (bars)"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, l, Config{}); !errors.Is(err, sqlite.ErrLocked) {
		t.Errorf("opening a database in use: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	before := must(os.ReadFile(path))
	if _, err := Open(path, l, Config{}); !errors.Is(err, sqlite.ErrForeign) {
		t.Errorf("opening a foreign database: %v", err)
	}
	if !bytes.Equal(must(os.ReadFile(path)), before) {
		t.Error("a foreign database was changed")
	}
	// A file that is no database is moved out of the way, not destroyed.
	precious := []byte("PRIVATE+KEY+…")
	plain := indexFile(t)
	write(t, plain, precious)
	ix, err := Open(plain, l, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer ix.Close()
	if !bytes.Equal(must(os.ReadFile(plain+".damaged")), precious) {
		t.Error("a file that is no database was destroyed")
	}
}

func TestFileIsPrivate(t *testing.T) {
	path := indexFile(t)
	ix, err := Open(path, newMemLog(t), Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer ix.Close()
	if info := must(os.Stat(path)); info.Mode().Perm() != 0o600 {
		t.Errorf("the index has mode %v", info.Mode())
	}
}

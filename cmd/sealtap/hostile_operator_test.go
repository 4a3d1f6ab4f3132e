package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
)

// What an operator signs is final. A log must not be able to have it say what suits
// the log.

// asOperator runs a command with the operator's key.
func (w *world) asOperator(args ...string) (code int, stdout, stderr string) {
	return w.sealtap(append(args, "--operator-key", filepath.Join(w.dir, "keys", "operator.key"))...)
}

// key makes a key and returns its file of the verifier key.
func (w *world) key(t *testing.T, name, file string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), file)
	var out, errs bytes.Buffer
	if code := run([]string{"keygen", name, "--out", path}, &out, &errs); code != exitGood {
		t.Fatalf("exit %d: %s", code, &errs)
	}
	return path + ".pub"
}

// producers is the honest answer to who writes, changed.
func (w *world) producers(t *testing.T, change func(p map[string]any)) []byte {
	t.Helper()
	var page map[string]any
	if err := json.Unmarshal(w.fetch(t, "/v1/producers"), &page); err != nil {
		t.Fatal(err)
	}
	for _, p := range page["producers"].([]any) {
		change(p.(map[string]any))
	}
	b, err := json.Marshal(page)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRotationBelievesNoList proves that what stands of an old key is what an audit
// finds, however little the log lists.
func TestRotationBelievesNoList(t *testing.T) {
	for name, change := range map[string]func(p map[string]any){
		"no incarnation": func(p map[string]any) { p["incarnations"] = []any{} },
		"an older record as the last": func(p map[string]any) {
			for _, i := range p["incarnations"].([]any) {
				i := i.(map[string]any)
				i["last"], i["records"], i["sealed"] = i["first"], 1, 1
			}
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			w := newWorld(t)
			fresh := w.key(t, "proxy", "new.key")
			truth := w.written(t)
			url := w.lie(t, func(path string, _ url.Values) (int, []byte) {
				if path != "/v1/producers" {
					return 0, nil
				}
				return http.StatusOK, w.producers(t, change)
			})
			code, out, errs := w.asOperator("enrol", fresh, "--replaces", filepath.Join(w.dir, "keys", "proxy.key.pub"), "--log", url)
			// The proxy is alive, and may have written between audit and statement.
			if !strings.Contains(out, "by its seal at index") || code != exitGood && !strings.Contains(errs, "do not stand") {
				t.Fatalf("exit %d, printed %q, said %q", code, out, errs)
			}
			w.stop()
			last := w.revoked(t)
			for incarnation, records := range truth {
				if last[incarnation]+1 < records {
					t.Errorf("of %d records of incarnation %s those up to %d stand", records, incarnation, last[incarnation])
				}
			}
		})
	}
}

// written is how many records of each incarnation the log has.
func (w *world) written(t *testing.T) map[string]uint64 {
	t.Helper()
	n := make(map[string]uint64)
	w.producers(t, func(p map[string]any) {
		for _, i := range p["incarnations"].([]any) {
			i := i.(map[string]any)
			n[i["incarnation"].(string)] = uint64(i["sealed"].(float64))
		}
	})
	if len(n) == 0 {
		t.Fatal("nothing is written")
	}
	return n
}

// revoked is what the one revocation in the log's files lets stand.
func (w *world) revoked(t *testing.T) map[string]uint64 {
	t.Helper()
	src, err := openData(t.Context(), w.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer src.close()
	signed, err := src.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text, _ := checkpoint.Text(signed)
	head, _, err := checkpoint.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	tree := client.NewTree(src, head.Size, head.Root)
	for index := range head.Size {
		raw, err := tree.Entry(t.Context(), index)
		if err != nil {
			t.Fatal(err)
		}
		e, err := record.Parse(raw)
		if err != nil || e.KeyChange == nil || len(e.KeyChange.Revoke) == 0 {
			continue
		}
		last := make(map[string]uint64)
		for _, l := range e.KeyChange.Revoke[0].Last {
			last[l.Incarnation.String()] = l.Sequence
		}
		return last
	}
	t.Fatal("nothing is revoked")
	return nil
}

// TestRotationBehindAnOldHead proves that it is told when a log shows the audit an
// older head than it has, so that what the old key wrote since does not stand.
func TestRotationBehindAnOldHead(t *testing.T) {
	for name, c := range map[string]struct {
		// old reports whether the older head is shown from this call on.
		old  func(path string, now bool) bool
		out  bool // whether the statement is made
		says string
	}{
		"until it is made": {func(path string, now bool) bool { return now && path != "/v1/entries" }, true, "records of the old key, from index"},
		"to the audit":     {func(path string, _ bool) bool { return path == "/v1/retention" }, false, "entries to the audit, and"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			w := newWorld(t)
			fresh, old := w.key(t, "proxy", "new.key"), w.fetch(t, "/checkpoint")
			before := w.written(t)
			res, err := http.Get("http://" + w.proxy + "/later")
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			for end := time.Now().Add(20 * time.Second); maps.Equal(before, w.written(t)); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("the traffic does not reach the log")
				}
			}
			var mu sync.Mutex
			now := true
			url := w.lie(t, func(path string, _ url.Values) (int, []byte) {
				mu.Lock()
				defer mu.Unlock()
				if path != "/checkpoint" {
					now = c.old(path, now)
				}
				if path == "/v1/witnesses" && now {
					return http.StatusOK, []byte(`{"size":1,"published":1}`)
				}
				if path == "/checkpoint" && now {
					return http.StatusOK, old
				}
				return 0, nil
			})
			code, out, errs := w.asOperator("enrol", fresh, "--replaces", filepath.Join(w.dir, "keys", "proxy.key.pub"), "--log", url)
			if code != exitFailed || strings.Contains(out, "enrolled by") != c.out || !strings.Contains(errs, c.says) {
				t.Errorf("exit %d, printed %q, said %q", code, out, errs)
			}
		})
	}
}

// fetch returns what the honest log answers.
func (w *world) fetch(t *testing.T, path string) []byte {
	t.Helper()
	res, err := http.Get(w.log + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s, %v", path, res.Status, err)
	}
	return b
}

// TestRotationRefuses proves that the operator signs nothing about a key of which the
// log's entries do not verify, unless it says itself what stands.
func TestRotationRefuses(t *testing.T) {
	w := newWorld(t)
	fresh, old := w.key(t, "proxy", "new.key"), filepath.Join(w.dir, "keys", "proxy.key.pub")
	victim := w.search(t, "stage=request")[0]
	altered := w.lie(t, func(path string, _ url.Values) (int, []byte) {
		if !strings.HasPrefix(path, "/tile/entries/") {
			return 0, nil
		}
		res, err := http.Get(w.log + path)
		if err != nil {
			t.Error(err)
			return 0, nil
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusOK {
			return 0, nil
		}
		at := 0
		for range victim {
			at += 2 + int(binary.BigEndian.Uint16(b[at:]))
		}
		b[at+2+40] ^= 1
		return http.StatusOK, b
	})
	code, out, errs := w.asOperator("enrol", fresh, "--replaces", old, "--log", altered)
	if code != exitFailed || out != "" || !strings.Contains(errs, "does not verify (entry-altered)") || !strings.Contains(errs, "--last") {
		t.Errorf("altered: exit %d, printed %q, said %q", code, out, errs)
	}

	// A statement that is left out of the lists is in the log all the same.
	if code, out, errs := w.asOperator("enrol", w.key(t, "other", "other.key")); code != exitGood {
		t.Fatalf("exit %d, printed %q, said %q", code, out, errs)
	}
	hidden := w.lie(t, func(path string, _ url.Values) (int, []byte) {
		switch path {
		case "/v1/statements":
			return http.StatusOK, []byte(`{"statements":[{"index":0},{"index":1}]}`)
		case "/v1/producers":
			return http.StatusOK, w.producers(t, func(p map[string]any) { p["enrolled"] = 1 })
		}
		return 0, nil
	})
	code, out, errs = w.asOperator("enrol", fresh, "--replaces", old, "--log", hidden)
	if code != exitFailed || out != "" || !strings.Contains(errs, "lists 1 statements of its operator, but has 2") {
		t.Errorf("hidden: exit %d, printed %q, said %q", code, out, errs)
	}
	if code, out, _ := w.sealtap("audit", "--json"); code != exitGood || !strings.Contains(out, `"count": 2`) {
		t.Errorf("a statement was made: exit %d, %s", code, out)
	}

	incarnation := strings.Repeat("00", 16)
	code, out, errs = w.asOperator("enrol", fresh, "--replaces", old, "--log", altered, "--last", incarnation+":5")
	if code != exitGood || !strings.Contains(out, "not verified") || !strings.Contains(out, "statement 3 there") {
		t.Errorf("told: exit %d, printed %q, said %q", code, out, errs)
	}
}

// TestLastOf: records that the producer did not seal are not vouched for, whoever put
// them there; lives of which nothing is left are not, either.
func TestLastOf(t *testing.T) {
	k, err := keys.Generate("proxy", keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	other, err := keys.Generate("other", keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	good, forged, gone := record.NewStream(k.ID()), record.NewStream(k.ID()), record.NewStream(k.ID())
	report := &audit.Report{Size: 900, Origin: "log", CosignedBy: []string{"w1"}, Lives: []audit.Life{
		{Stream: gone, Pruned: 7, Records: 7},
		{Stream: record.NewStream(other.ID()), Records: 5, Sealed: 5},
		{Stream: good, Pruned: 3, Records: 12, Sealed: 10, SealAt: 600},
		{Stream: forged, Records: 1_000_000},
	}}
	var out bytes.Buffer
	list := lastOf(report, k.ID(), &out)
	if len(list) != 1 || list[0] != (record.LastSequence{Incarnation: good.Incarnation, Sequence: 9}) {
		t.Error(list)
	}
	for _, want := range []string{
		fmt.Sprintf("%s: up to sequence 9, by its seal at index 600", good.Incarnation), "not the 2 records behind",
		fmt.Sprintf("%s: nothing, since its 1000000 records are under no seal", forged.Incarnation), "not named: 1 incarnations",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not said: %s", want, &out)
		}
	}
}

// TestCloseConcludesNothing proves that a log is not closed because nothing is seen of
// a producer.
func TestCloseConcludesNothing(t *testing.T) {
	w := newWorld(t)
	next := w.key(t, "log.example/next", "next.key")
	for name, c := range map[string]struct {
		answer func() []byte
		code   int
		says   string
	}{
		"its last life was pruned": {func() []byte {
			return w.producers(t, func(p map[string]any) { p["incarnations"], p["newest_pruned"] = []any{}, true })
		}, exitUsage, "whether proxy has stopped cannot be told: its last records lie below the log's minimum index"},
		"its last life was pruned, another not": {func() []byte {
			return w.producers(t, func(p map[string]any) { p["newest_pruned"] = true })
		}, exitUsage, "cannot be told"},
		"it is not listed":  {func() []byte { return []byte(`{"producers":[]}`) }, exitFailed, "does not list producer"},
		"it is not stopped": {func() []byte { return w.producers(t, func(map[string]any) {}) }, exitUsage, "proxy has not stopped"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			url := w.lie(t, func(path string, _ url.Values) (int, []byte) {
				if path != "/v1/producers" {
					return 0, nil
				}
				return http.StatusOK, c.answer()
			})
			code, out, errs := w.asOperator("log", "successor", next, "--log", url, "--out", filepath.Join(t.TempDir(), "genesis"))
			if code != c.code || out != "" || !strings.Contains(errs, c.says) {
				t.Errorf("exit %d, printed %q, said %q", code, out, errs)
			}
		})
	}
}

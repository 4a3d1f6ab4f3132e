package spool

import (
	"context"
	"errors"
	"os"
	"testing"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// TestCrashWhileClosing ends a life that was closing what the life before it had
// left open: after its start record, and after some of the outcomes. The next life
// closes the rest, and nothing twice.
func TestCrashWhileClosing(t *testing.T) {
	const exchanges = 5
	for closed := range exchanges {
		key := testKey(t)
		cfg := testConfig(t, t.TempDir(), key)
		s := openSpool(t, cfg)
		for i := range byte(exchanges) {
			if err := s.Record(context.Background(), request(i), nil); err != nil {
				t.Fatal(err)
			}
		}
		cfg.Dir = snapshot(t, cfg.Dir)
		closeSpool(t, s)
		s = openSpool(t, cfg)
		cut := snapshot(t, cfg.Dir)
		closeSpool(t, s)
		cutBehind(t, cut, 1+closed)
		cfg.Dir = cut
		s = openSpool(t, cfg)
		if n := s.Status().Open; n != 0 {
			t.Errorf("with %d closed before: %d exchanges are open still", closed, n)
		}
		closeSpool(t, s)

		count := make(map[byte]int)
		for _, l := range readBack(t, cut, key) {
			for _, r := range l.records {
				if r.GetResponse().GetOutcome() == sealtapv1.Outcome_OUTCOME_UNKNOWN {
					count[r.GetExchange()[0]]++
				}
			}
		}
		for i := range byte(exchanges) {
			if count[i] != 1 {
				t.Errorf("with %d closed before: exchange %d has %d outcomes", closed, i, count[i])
			}
		}
	}
}

// cutBehind leaves n records in the newest segment of a spool.
func cutBehind(t *testing.T, dir string, n int) {
	t.Helper()
	numbers, err := listSegments(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := len(numbers) - 1; i >= 0; i-- {
		path := segmentPath(dir, numbers[i])
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		at, records := int64(0), 0
		for records < n {
			fr, err := readFrame(f, numbers[i], at, int64(len(data)))
			if err != nil {
				break
			}
			if at = fr.next; fr.typ == frameRecord {
				records++
			}
		}
		if records == 0 {
			continue // a spare
		}
		if records < n {
			t.Fatalf("segment %d has %d records only", numbers[i], records)
		}
		clear(data[at:])
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
}

// TestRecordCutOut takes one record out of the file, with checksums that are right
// again: somebody who can write there but has no key. Of a life that had been sealed
// nothing fits any more, and the spool does not open; nor does it without the seal.
func TestRecordCutOut(t *testing.T) {
	for _, sealed := range []bool{true, false} {
		key := testKey(t)
		cfg := testConfig(t, t.TempDir(), key)
		s := openSpool(t, cfg)
		for i := range byte(5) {
			if err := s.Record(context.Background(), request(i), nil); err != nil {
				t.Fatal(err)
			}
		}
		dir := cfg.Dir
		if sealed {
			closeSpool(t, s)
		} else {
			dir = snapshot(t, cfg.Dir)
			closeSpool(t, s)
		}
		cutOut(t, dir, 3)
		cfg.Dir = dir
		s, err := Open(cfg)
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("sealed: %t: a record is missing, and the spool opens: %v", sealed, err)
		}
		if err == nil {
			closeSpool(t, s)
		}
	}
}

// cutOut takes the n-th record out of the first segment.
func cutOut(t *testing.T, dir string, n int) {
	t.Helper()
	path := segmentPath(dir, 0)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var kept []byte
	for at, seen := int64(0), 0; ; {
		fr, err := readFrame(f, 0, at, int64(len(data)))
		if err != nil {
			break
		}
		if fr.typ == frameRecord {
			seen++
		}
		if fr.typ != frameRecord || seen != n {
			kept = appendFrame(kept, fr.typ, fr.payload)
		}
		at = fr.next
	}
	sumFrames(kept, 0, 0)
	clear(data)
	copy(data, kept)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

package query

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

// prunedLog is a log whose oldest entries go.
type prunedLog struct {
	*memLog
	minimum atomic.Uint64

	places []uint64 // of the statements, once all are made

	at    uint64 // the minimum of what follows
	names []record.Stream
	known map[record.Stream]*record.Tree
}

func (l *prunedLog) Minimum() uint64 { return l.minimum.Load() }

func (l *prunedLog) Statements() (list []uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.places != nil {
		return l.places
	}
	defer func() { l.places = list }()
	for i, entry := range l.entries {
		if k, _, err := record.Split(entry); err == nil && k != record.KindRecord && k != record.KindSeal {
			list = append(list, uint64(i))
		}
	}
	return list
}

func (l *prunedLog) Bundle(ctx context.Context, n uint64) ([]byte, error) {
	kept := n >= l.Minimum()/256
	for _, index := range l.Statements() {
		kept = kept || index/256 == n
	}
	if !kept {
		return nil, fmt.Errorf("bundle %d is %w", n, storage.ErrPruned)
	}
	return l.memLog.Bundle(ctx, n)
}

func (l *prunedLog) trees() (names []record.Stream, trees map[record.Stream]*record.Tree) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known != nil && l.at == l.Minimum() {
		return l.names, l.known
	}
	trees = make(map[record.Stream]*record.Tree)
	defer func() { l.at, l.names, l.known = l.Minimum(), names, trees }()
	for _, entry := range l.entries[:l.Minimum()] {
		if e, err := record.Parse(entry); err == nil && e.Record != nil {
			if trees[e.Record.Stream] == nil {
				trees[e.Record.Stream] = record.NewTree()
				names = append(names, e.Record.Stream)
			}
			trees[e.Record.Stream].Append(e.Leaf, nil)
		}
	}
	return names, trees
}

func (l *prunedLog) StreamAtMinimum(_ context.Context, s record.Stream) (uint64, []record.Hash, error) {
	if _, trees := l.trees(); trees[s] != nil {
		return trees[s].Size(), trees[s].Edge(), nil
	}
	return 0, nil, nil
}

func (l *prunedLog) StreamsAtMinimum(_ context.Context, visit func(record.Stream, uint64, []record.Hash) error) error {
	names, trees := l.trees()
	for _, s := range names {
		if err := visit(s, trees[s].Size(), trees[s].Edge()); err != nil {
			return err
		}
	}
	return nil
}

// newestBelow reports whether all records of a producer's newest incarnation lie
// below the minimum index.
func (l *prunedLog) newestBelow(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	var newest record.Stream
	var last uint64
	seen := make(map[record.Stream]bool)
	for i, entry := range l.entries[:l.published] {
		e, err := record.Parse(entry)
		if err != nil || e.Record == nil || e.Record.Stream.Producer.String() != id {
			continue
		}
		if !seen[e.Record.Stream] {
			seen[e.Record.Stream], newest = true, e.Record.Stream
		}
		if e.Record.Stream == newest {
			last = uint64(i)
		}
	}
	return len(seen) > 0 && last < l.Minimum()
}

// trimmed waits until the file holds nothing from below the minimum index.
func trimmed(t *testing.T, ix *Index) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		var left int
		err := ix.store().db.Reader.QueryRow(`SELECT (SELECT count(*) FROM run WHERE idx < ?1) + (SELECT count(*) FROM seal WHERE idx < ?1)
			+ (SELECT count(*) FROM beacon WHERE idx < ?1) + (SELECT count(*) FROM post WHERE seg < ?1 / ?2) + (SELECT count(*) FROM id WHERE seg < ?1 / ?2) + (SELECT count(*) FROM leaf WHERE seg < ?1 / ?2)`,
			ix.floor(), ix.segment).Scan(&left)
		if err == nil && left == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d rows are left of what was pruned: %v", left, err)
		}
	}
}

// TestPrunedIndex: what remains of a pruned log is found and proven, by an index
// that saw it shrink and by one that is built from what is left.
func TestPrunedIndex(t *testing.T) {
	l := &prunedLog{memLog: newMemLog(t)}
	ps := l.enrol("edge-a", "edge-b")
	var rows []row
	for i := range 5 {
		rows = append(rows, shop(l.memLog, ps, 150)...)
		ps[0].add(beacon(fmt.Append(nil, "checkpoint ", i)))
		ps[0].seal()
		if i == 3 {
			late := l.enrol("edge-c")
			late[0].add(request(100_000, "carol", "pay", "GET", "/late"))
			late[0].seal()
			ps[1].restart() // a stream that lies below for good
		}
	}
	l.publish()
	size := l.Size()
	for _, segment := range []uint64{256, 512, 1 << 15} {
		t.Run(fmt.Sprint(segment), func(t *testing.T) {
			l.minimum.Store(0)
			path := indexFile(t)
			ix, stop := follow(t, path, l, Config{segment: segment})
			caughtUp(t, ix)
			for _, minimum := range []uint64{256, 1280, size - size%256} {
				l.minimum.Store(minimum)
				ix.Trim()
				trimmed(t, ix)
				checkRemaining(t, l, ix, rows)
				// Again from the file, and from the log alone.
				stop()
				ix, stop = follow(t, path, l, Config{segment: segment})
				caughtUp(t, ix)
				checkRemaining(t, l, ix, rows)
				fresh, stopFresh := follow(t, indexFile(t), l, Config{segment: segment})
				caughtUp(t, fresh)
				checkRemaining(t, l, fresh, rows)
				stopFresh()
			}
			stop()
			if _, err := os.Stat(path); err != nil {
				t.Error(err)
			}
		})
	}
}

func checkRemaining(t *testing.T, l *prunedLog, ix *Index, rows []row) {
	t.Helper()
	minimum, size := l.Minimum(), l.Published()
	h := ix.Handler(HandlerConfig{Proofs: l})
	var page struct {
		Records []struct{ Index uint64 }
		Next    string
	}
	found := make(map[uint64]bool)
	for cursor := ""; ; cursor = "&cursor=" + page.Next {
		page.Records, page.Next = nil, ""
		w := get(h, "/v1/records?limit=1000"+cursor)
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || w.Code != http.StatusOK {
			t.Fatalf("searching: %d %s", w.Code, w.Body)
		}
		for _, r := range page.Records {
			found[r.Index] = true
		}
		if page.Next == "" {
			break
		}
	}
	for index := range size {
		e := must(record.Parse(l.entries[index]))
		if want := e.Record != nil && index >= minimum; found[index] != want {
			t.Fatalf("minimum %d: entry %d, a %s, is found: %v", minimum, index, e.Kind, found[index])
		}
		if at, ok, err := ix.LeafIndex(context.Background(), e.Leaf); index%5 == 0 && (err != nil || index >= minimum && (!ok || at != index)) {
			t.Fatalf("minimum %d: entry %d is at %d, %v, %v", minimum, index, at, ok, err)
		}
		if e.Record == nil || index < minimum || index%29 != 0 && index > minimum+70 {
			continue
		}
		// Its producer's tree proves it, whatever of it is gone.
		ev := evidenceOf(t, h, index)
		raw := make([][]byte, len(ev.Producer.Hashes))
		for i := range raw {
			raw[i] = ev.Producer.Hashes[i][:]
		}
		seal := must(record.ParseSeal(ev.Producer.Checkpoint))
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, e.Record.GetSequence(), seal.Size, e.Leaf[:], raw, seal.Root[:]); err != nil {
			t.Fatalf("minimum %d: entry %d in its producer's tree: %v", minimum, index, err)
		}
		if b := ev.Beacon; b != nil && b.Proof.Index >= e.Record.GetSequence() {
			t.Errorf("minimum %d: entry %d has a beacon of sequence %d", minimum, index, b.Proof.Index)
		}
	}
	checkGone(t, h, minimum)
	checkNames(t, l, h, minimum, rows)
}

// checkGone asks for what is below.
func checkGone(t *testing.T, h http.Handler, minimum uint64) {
	t.Helper()
	if minimum <= 256 {
		return // bundle 0 holds statements
	}
	for _, path := range []string{"/v1/records/300", "/v1/records/300/evidence", "/v1/records/40/evidence"} {
		w := get(h, path)
		if w.Code != http.StatusGone || !bytes.Contains(w.Body.Bytes(), fmt.Appendf(nil, `"minimum_index":%d`, minimum)) {
			t.Errorf("minimum %d: GET %s: %d %s", minimum, path, w.Code, w.Body)
		}
	}
	if w := get(h, "/v1/records/0/evidence"); w.Code != http.StatusOK {
		t.Errorf("evidence of the genesis: %d %s", w.Code, w.Body)
	}
}

// checkNames: the producers are all known, and begin where the log begins.
func checkNames(t *testing.T, l *prunedLog, h http.Handler, minimum uint64, rows []row) {
	t.Helper()
	var answer struct {
		Producers []struct {
			Name         string
			KeyID        string `json:"key_id"`
			NewestPruned bool   `json:"newest_pruned"`
			Incarnations []struct {
				Records     uint64
				First, Last struct{ Index uint64 }
			}
		}
	}
	w := get(h, "/v1/producers")
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != http.StatusOK || len(answer.Producers) != 3 {
		t.Fatalf("minimum %d: producers: %d %s", minimum, w.Code, w.Body)
	}
	for _, p := range answer.Producers {
		// Of a producer the newest incarnation is there, or it is said to be gone.
		if below := l.newestBelow(p.KeyID); p.NewestPruned != below {
			t.Errorf("minimum %d: the newest incarnation of %s is said to be pruned: %v", minimum, p.Name, p.NewestPruned)
		}
		for _, i := range p.Incarnations {
			if i.First.Index < minimum || i.Last.Index < i.First.Index {
				t.Errorf("minimum %d: producer %s begins at %d and ends at %d", minimum, p.Name, i.First.Index, i.Last.Index)
			}
		}
	}
	for _, r := range rows[len(rows)-90:] {
		if r.index < minimum || r.stage == "response" { // the request of which may be gone, and what it said with it
			continue
		}
		w := get(h, fmt.Sprintf("/v1/records?producer=%s&who=%s&service=%s&stage=%s&limit=1000", r.producer, r.who, r.service, r.stage))
		if !bytes.Contains(w.Body.Bytes(), fmt.Appendf(nil, `"index":%d,`, r.index)) {
			t.Errorf("minimum %d: a search does not find entry %d, %+v: %s", minimum, r.index, r, w.Body)
		}
	}
}

package tlog

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/sealtap/sealtap/record"
)

// maxStreams and maxStatements bound a page.
const (
	maxStreams    = 1000
	maxStatements = 10_000
)

// readRetention mounts the calls about what the log keeps.
func (l *Log) readRetention(read func(path string, e endpoint)) {
	read("/v1/retention", l.serveRetention)
	read("/v1/retention/streams", l.serveStreams)
	read("/v1/statements", l.serveStatements)
}

// retention is the answer of /v1/retention.
type retention struct {
	MinimumIndex uint64 `json:"minimum_index"`
	// Policy is in force under the published checkpoint; absent if there is none.
	Policy map[string]any `json:"policy,omitempty"`
	// At and Old are the checkpoints that show that the policy allowed it.
	At  string `json:"at,omitempty"`
	Old string `json:"old,omitempty"`
}

func (l *Log) serveRetention(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	p := l.pruned.Load()
	answer := retention{MinimumIndex: p.Minimum, At: string(p.At), Old: string(p.Old)}
	l.ringMu.RLock()
	policy, ok := l.ring.Retention(l.Published())
	l.ringMu.RUnlock()
	if ok {
		answer.Policy = policy.Policy.JSON()
		answer.Policy["statement"] = policy.Index
	}
	return serveJSON(w, http.StatusOK, answer)
}

// streamInfo is a stream as it was at the minimum index.
type streamInfo struct {
	Producer    string   `json:"producer"`    // identifier of its key, hexadecimal
	Incarnation string   `json:"incarnation"` // hexadecimal
	Size        uint64   `json:"size"`        // records below the minimum index
	Edge        [][]byte `json:"edge"`        // right edge of the tree of that many, largest subtree first
}

func (l *Log) serveStreams(w http.ResponseWriter, r *http.Request) error {
	place, limit, err := page(r, maxStreams)
	if err != nil {
		return err
	}
	answer := struct {
		MinimumIndex uint64       `json:"minimum_index"`
		Streams      []streamInfo `json:"streams"`
		Next         string       `json:"next,omitempty"`
	}{l.Minimum(), []streamInfo{}, ""}
	if l.pruner != nil {
		list, next, err := l.pruner.PrunedStreams(r.Context(), place, limit)
		if err != nil {
			return err
		}
		for _, s := range list {
			answer.Streams = append(answer.Streams, streamInfo{s.Stream.Producer.String(), s.Stream.Incarnation.String(), s.Size, rawHashes(s.Edge)})
		}
		if next > 0 {
			answer.Next = strconv.FormatUint(next, 10)
		}
		// The edges are of one minimum, or the caller asks again.
		if err := l.unmoved(r.Context(), answer.MinimumIndex); err != nil {
			return err
		}
	}
	return serveJSON(w, http.StatusOK, answer)
}

// statementInfo is an entry of the operator's.
type statementInfo struct {
	Index uint64 `json:"index"`
}

func (l *Log) serveStatements(w http.ResponseWriter, r *http.Request) error {
	place, limit, err := page(r, maxStatements)
	if err != nil {
		return err
	}
	answer := struct {
		Statements []statementInfo `json:"statements"`
		Next       string          `json:"next,omitempty"`
	}{Statements: []statementInfo{}}
	published, all := l.Published(), l.Statements()
	for i := place; i < uint64(len(all)) && all[i] < published; i++ {
		if len(answer.Statements) == limit {
			answer.Next = strconv.FormatUint(i, 10)
			break
		}
		answer.Statements = append(answer.Statements, statementInfo{all[i]})
	}
	return serveJSON(w, http.StatusOK, answer)
}

// page reads the parameters of a list. A cursor is a place in it.
func page(r *http.Request, most int) (place uint64, limit int, err error) {
	q, err := query(r, "limit", "cursor")
	if err != nil {
		return 0, 0, err
	}
	if place, _, err = number(q, "cursor"); err != nil || place > 1<<62 {
		return 0, 0, fmt.Errorf("%w: cursor is what a page before gave as next", errBadRequest)
	}
	n, given, err := number(q, "limit")
	if err != nil || given && (n == 0 || n > uint64(most)) {
		return 0, 0, fmt.Errorf("%w: limit is a number from 1 to %d", errBadRequest, most)
	}
	if !given {
		return place, most, nil
	}
	return place, int(n), nil
}

func rawHashes(hashes []record.Hash) [][]byte {
	list := make([][]byte, len(hashes))
	for i := range hashes {
		list[i] = hashes[i][:]
	}
	return list
}

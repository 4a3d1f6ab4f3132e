package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"net/url"

	"github.com/transparency-dev/merkle/compact"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealtap/sealtap/record"
)

// ErrPruned is wrapped, together with [ErrUnavailable], where the log says that it
// no longer keeps something (tlog-tiles, "Pruning").
var ErrPruned = errors.New("no longer kept")

// Retention says where the entries of a log begin and what is there of those
// before. Nothing has verified it.
type Retention struct {
	Minimum    uint64   // index from which on all entries are there
	At         []byte   // the checkpoint at which that was decided; nil with a minimum of 0
	Old        []byte   // one that shows the age of the entries below; nil if age did not matter
	Statements []uint64 // indices of the operator's statements below the minimum, the genesis first
	Streams    []StreamAt
}

// StreamAt is a producer's tree as it was at the minimum index.
type StreamAt struct {
	Stream record.Stream
	Size   uint64        // records below the minimum index
	Edge   []record.Hash // right edge of the tree of that many
}

// maxListed bounds what a log can make its readers hold in memory.
const maxListed = 1_000_000

// Retention asks the log what it keeps. A log that does not know the question
// keeps everything. In a directory the answers are its files v1/retention.json,
// v1/retention/streams.json and v1/statements.json, each a single page.
func (s *Source) Retention(ctx context.Context) (r *Retention, err error) {
	// It can be pruned while it is asked.
	for range 5 {
		if r, err = s.retention(ctx); !errors.Is(err, ErrPruned) {
			break
		}
	}
	return r, err
}

func (s *Source) retention(ctx context.Context) (*Retention, error) {
	var answer struct {
		MinimumIndex uint64 `json:"minimum_index"`
		At, Old      string
	}
	err := s.call(ctx, "v1/retention", nil, &answer)
	if errors.Is(err, ErrNotFound) || err == nil && answer.MinimumIndex == 0 {
		return &Retention{}, nil
	}
	if err != nil {
		return nil, err
	}
	r := &Retention{Minimum: answer.MinimumIndex, At: []byte(answer.At)}
	if answer.Old != "" {
		r.Old = []byte(answer.Old)
	}
	if err := s.statements(ctx, r); err != nil {
		return nil, err
	}
	return r, s.streams(ctx, r)
}

func (s *Source) statements(ctx context.Context, r *Retention) error {
	return s.pages(ctx, "v1/statements", func(b []byte) (string, error) {
		var page struct {
			Statements []struct{ Index uint64 }
			Next       string
		}
		if err := json.Unmarshal(b, &page); err != nil {
			return "", err
		}
		for _, x := range page.Statements {
			if n := len(r.Statements); n > 0 && x.Index <= r.Statements[n-1] || n > maxListed {
				return "", errors.New("statements that are out of order, or too many")
			}
			if x.Index >= r.Minimum {
				return "", nil
			}
			r.Statements = append(r.Statements, x.Index)
		}
		return page.Next, nil
	})
}

func (s *Source) streams(ctx context.Context, r *Retention) error {
	return s.pages(ctx, "v1/retention/streams", func(b []byte) (string, error) {
		var page struct {
			MinimumIndex uint64 `json:"minimum_index"`
			Streams      []struct {
				Producer, Incarnation string
				Size                  uint64
				Edge                  [][]byte
			}
			Next string
		}
		if err := json.Unmarshal(b, &page); err != nil {
			return "", err
		}
		if page.MinimumIndex != r.Minimum {
			return "", fmt.Errorf("%w: the log was pruned meanwhile; ask again", ErrPruned)
		}
		for _, x := range page.Streams {
			at := StreamAt{Size: x.Size}
			if len(x.Edge) != bits.OnesCount64(x.Size) {
				return "", fmt.Errorf("an edge of %d hashes, of a tree of %d records", len(x.Edge), x.Size)
			}
			var err error
			if at.Stream, err = record.ParseOrigin(record.OriginPrefix + x.Producer + "/" + x.Incarnation); err != nil {
				return "", err
			}
			for _, h := range x.Edge {
				if len(h) != len(record.Hash{}) {
					return "", fmt.Errorf("an edge with a hash of %d bytes", len(h))
				}
				at.Edge = append(at.Edge, record.Hash(h))
			}
			if r.Streams = append(r.Streams, at); len(r.Streams) > maxListed {
				return "", errors.New("too many streams")
			}
		}
		return page.Next, nil
	})
}

// pages makes a call until take, which gets each page and returns the next
// cursor, has no further one.
func (s *Source) pages(ctx context.Context, path string, take func([]byte) (string, error)) error {
	query := make(url.Values)
	for i := 0; ; i++ {
		b, err := s.answer(ctx, path, query)
		if err != nil {
			return err
		}
		next, err := take(b)
		if err != nil {
			return fmt.Errorf("GET /%s: %w: reading the answer: %w", path, ErrUnavailable, err)
		}
		if next == "" || s.web == nil {
			return nil
		}
		if i > maxListed {
			return fmt.Errorf("GET /%s: %w: pages without an end", path, ErrUnavailable)
		}
		query.Set("cursor", next)
	}
}

func (s *Source) call(ctx context.Context, path string, query url.Values, answer any) error {
	b, err := s.answer(ctx, path, query)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, answer); err != nil {
		return fmt.Errorf("GET /%s: %w: reading the answer: %w", path, ErrUnavailable, err)
	}
	return nil
}

func (s *Source) answer(ctx context.Context, path string, query url.Values) ([]byte, error) {
	var b []byte
	var err error
	if s.web == nil {
		b, err = s.fetcher.fetch(ctx, path+".json", maxJSON, nil)
	} else {
		b, err = s.web.do(ctx, request{method: "GET", path: path, query: query, limit: maxJSON})
	}
	if err != nil {
		return nil, fmt.Errorf("GET /%s: %w", path, unavailable(err))
	}
	return b, nil
}

// Edge returns the right edge of the tree of the first size entries, largest
// subtree first, proven under the root. For a multiple of 256 it needs no tile of
// level 0 from before it.
func (t *Tree) Edge(ctx context.Context, size uint64) ([]record.Hash, error) {
	if size > t.size {
		return nil, t.outOfRange(size)
	}
	var ids []int64
	for _, id := range compact.RangeNodes(0, size, nil) {
		ids = append(ids, tlog.StoredHashIndex(int(id.Level), int64(id.Index)))
	}
	return t.hashes(ctx, ids)
}

// Nodes returns complete nodes of a level of the tree, from begin to before end.
func (t *Tree) Nodes(ctx context.Context, level uint, begin, end uint64) ([]record.Hash, error) {
	if level > 55 || begin > end || end > t.size>>level {
		return nil, t.outOfRange(end)
	}
	ids := make([]int64, 0, end-begin)
	for i := begin; i < end; i++ {
		ids = append(ids, tlog.StoredHashIndex(int(level), int64(i)))
	}
	return t.hashes(ctx, ids)
}

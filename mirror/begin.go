package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
)

// begin prepares an empty directory for a log that no longer keeps all of its
// entries, and returns the index from which on it has all of them. What the log
// says of the rest is kept as package client reads it from a directory; an audit
// of the mirror checks it as it does that of the log.
func (m *Mirror) begin(ctx context.Context, c *copying) (uint64, error) {
	kept, err := m.cfg.Source.Retention(ctx)
	if err != nil || kept.Minimum == 0 {
		return 0, err
	}
	if kept.Minimum%tileWidth != 0 || kept.Minimum > c.size {
		// It was pruned since the checkpoint was fetched, or lies.
		return 0, fmt.Errorf("%w: %w: entries before %d of %d", client.ErrUnavailable, client.ErrPruned, kept.Minimum, c.size)
	}
	for i := 0; i < len(kept.Statements); {
		n := kept.Statements[i] / tileWidth
		node, err := c.tree.Nodes(ctx, tileLevels, n, n+1)
		if err != nil {
			return 0, err
		}
		if err := c.bundle(ctx, n, node[0]); err != nil {
			return 0, err
		}
		for i < len(kept.Statements) && kept.Statements[i]/tileWidth == n {
			i++
		}
	}
	if len(kept.Statements) == 0 {
		return 0, fmt.Errorf("%w: the log names no statement of its operator below index %d", client.ErrVerification, kept.Minimum)
	}
	return kept.Minimum, m.writeRetention(kept)
}

type retentionFile struct {
	MinimumIndex uint64 `json:"minimum_index"`
	At           string `json:"at"`
	Old          string `json:"old,omitempty"`
}

type statementsFile struct {
	Statements []statementAt `json:"statements"`
}

type statementAt struct {
	Index uint64 `json:"index"`
}

type streamsFile struct {
	MinimumIndex uint64     `json:"minimum_index"`
	Streams      []streamAt `json:"streams"`
}

type streamAt struct {
	Producer    string   `json:"producer"`
	Incarnation string   `json:"incarnation"`
	Size        uint64   `json:"size"`
	Edge        [][]byte `json:"edge"`
}

func (m *Mirror) writeRetention(kept *client.Retention) error {
	retention := retentionFile{kept.Minimum, string(kept.At), string(kept.Old)}
	statements := statementsFile{Statements: []statementAt{}}
	for _, index := range kept.Statements {
		statements.Statements = append(statements.Statements, statementAt{index})
	}
	streams := streamsFile{MinimumIndex: kept.Minimum, Streams: []streamAt{}}
	for _, s := range kept.Streams {
		producer, incarnation, _ := strings.Cut(strings.TrimPrefix(s.Stream.Origin(), record.OriginPrefix), "/")
		at := streamAt{Producer: producer, Incarnation: incarnation, Size: s.Size, Edge: [][]byte{}}
		for i := range s.Edge {
			at.Edge = append(at.Edge, s.Edge[i][:])
		}
		streams.Streams = append(streams.Streams, at)
	}
	var errs []error
	for name, v := range map[string]any{retentionName: retention, statementsName: statements, streamsName: streams} {
		b, err := json.Marshal(v)
		if err == nil {
			err = m.write(name, append(b, '\n'))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

const (
	retentionName  = "v1/retention.json"
	statementsName = "v1/statements.json"
	streamsName    = "v1/retention/streams.json"
)

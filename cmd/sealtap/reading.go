package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

const (
	defaultDir       = "./sealtap-data"
	defaultPolicy    = defaultDir + "/policy.txt"
	defaultLogListen = "127.0.0.1:8081"
)

// reading holds the flags of every command that reads a log.
type reading struct {
	log, policyFile, operator, tokenFile string
	json                                 bool
}

func (r *reading) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.log, "log", "", "URL of the log (default: the one in the policy, or http://"+defaultLogListen+")")
	f.StringVar(&r.policyFile, "policy", defaultPolicy, "C2SP tlog-policy `FILE`: the log and the witnesses to trust")
	f.StringVar(&r.operator, "operator", "", "verifier key of the log's operator, or a `FILE` with it (default: the one in the policy)")
	f.BoolVar(&r.json, "json", false, "print JSON for programs")
	f.StringVar(&r.tokenFile, "token", "", "`FILE` with a bearer token that shows sealed fields")
}

// policy reads the policy file, with the operator's pin.
func (r *reading) policy() (*policy.Policy, error) {
	data, err := readBounded(r.policyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, usagef("no policy at %s: say --policy FILE (sealtap up writes policy.txt into its directory)", r.policyFile)
	} else if err != nil {
		return nil, usageError{err}
	}
	p, err := policy.Parse(data)
	if err != nil {
		return nil, usagef("reading policy %s: %w", r.policyFile, err)
	}
	if r.operator != "" {
		vkey := r.operator
		if b, err := readBounded(r.operator); err == nil {
			vkey = strings.TrimSpace(string(b))
		}
		k, err := keys.ParsePublic(vkey)
		if err != nil {
			return nil, usagef("--operator: %w", err)
		}
		p.Operator = &k
	}
	return p, nil
}

// location is where the log is.
func (r *reading) location(p *policy.Policy) string {
	if r.log != "" {
		return r.log
	}
	for _, l := range p.Logs {
		if l.URL != "" {
			return l.URL
		}
	}
	return "http://" + defaultLogListen
}

func (r *reading) options() ([]client.Option, error) {
	var opts []client.Option
	if r.tokenFile != "" {
		b, err := os.ReadFile(r.tokenFile)
		if err != nil {
			return nil, usagef("reading token: %w", err)
		}
		opts = append(opts, client.WithToken(strings.TrimSpace(string(b))))
	}
	// A person waits: give up on a log that is not there within seconds.
	return append(opts, client.WithRetries(3, 100*time.Millisecond)), nil
}

// reader is a log under a verified head, with the keys that its operator
// enrolled.
type reader struct {
	*client.Client
	policy *policy.Policy
	head   *policy.Checkpoint
	tree   *client.Tree
	ring   *record.Keyring
}

// open connects to the log and verifies its head and its keys.
func (r *reading) open(ctx context.Context) (*reader, error) {
	p, err := r.policy()
	if err != nil {
		return nil, err
	}
	opts, err := r.options()
	if err != nil {
		return nil, err
	}
	c, err := client.New(r.location(p), p, opts...)
	if err != nil {
		return nil, err
	}
	rd := &reader{Client: c, policy: p}
	return rd, rd.refresh(ctx)
}

// refresh goes on to the newest head.
func (rd *reader) refresh(ctx context.Context) error {
	head, err := rd.Checkpoint(ctx)
	if err != nil {
		return err
	}
	if rd.head != nil && (head.Size < rd.head.Size || head.Size == rd.head.Size && head.Root != rd.head.Root) {
		return failure{fmt.Errorf("the log went from %d entries to %d under another root while it was read", rd.head.Size, head.Size)}
	}
	tree := rd.Tree(head)
	if rd.head != nil {
		// What was proven under the former head is proven under this one too.
		if err := tree.Consistent(ctx, checkpoint.Body{Origin: rd.head.Origin, Size: rd.head.Size, Root: rd.head.Root}); err != nil {
			return err
		}
	}
	rd.head, rd.tree = head, tree
	return rd.loadKeys(ctx)
}

// loadKeys follows the operator's statements. The log says where they are; what
// they say is proven, and their numbers show that none was left out in between.
func (rd *reader) loadKeys(ctx context.Context) error {
	genesis, err := rd.entry(ctx, 0)
	if err != nil {
		return err
	}
	if genesis.Genesis == nil {
		return failure{errors.New("entry 0 of the log is not a genesis: this is not a Sealtap log")}
	}
	ring, err := record.NewKeyring(genesis.Genesis, rd.policy.Operator)
	if err != nil {
		return failure{err}
	}
	places, err := rd.statements(ctx)
	if err != nil {
		return err
	}
	for _, index := range places {
		if index >= rd.head.Size {
			continue
		}
		e, err := rd.entry(ctx, index)
		if err != nil {
			return err
		}
		if e.Statement != nil {
			if err := ring.ApplyStatement(e.Statement, index); err != nil {
				return failure{fmt.Errorf("statement at %d: %w", index, err)}
			}
			continue
		}
		if e.KeyChange == nil {
			return failure{fmt.Errorf("entry %d is a %s, and not the key change that the log says", index, e.Kind)}
		}
		if err := ring.Apply(e.KeyChange, index); err != nil {
			return failure{fmt.Errorf("key change at %d: %w", index, err)}
		}
	}
	rd.ring = ring
	return nil
}

// indexing is how long the log's index may take to catch up with its head.
const indexing = 3 * time.Second

// statements returns the indices of the operator's statements, in order.
func (rd *reader) statements(ctx context.Context) ([]uint64, error) {
	const maxProducers = 100_000 // more than that is a log that keeps its readers busy
	places, producers := make(map[uint64]bool), make(map[string]bool)
	cursor, deadline := make(url.Values), time.Now().Add(indexing)
	for {
		var page struct {
			Producers []struct {
				KeyID    string  `json:"key_id"`
				Enrolled uint64  `json:"enrolled"`
				Revoked  *uint64 `json:"revoked"`
			} `json:"producers"`
			Size *uint64 `json:"size"`
			Next string  `json:"next"`
		}
		if err := rd.Get(ctx, "producers", cursor, &page); err != nil {
			return nil, err
		}
		// The log's index may be a moment behind its head, above all after a start.
		if page.Size != nil && *page.Size < rd.head.Size && time.Now().Before(deadline) {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(20 * time.Millisecond):
			}
			continue
		}
		before := len(producers)
		for _, p := range page.Producers {
			producers[p.KeyID] = true
			places[p.Enrolled] = true
			if p.Revoked != nil {
				places[*p.Revoked] = true
			}
		}
		if page.Next == "" {
			listed, err := rd.statementsListed(ctx)
			for _, index := range listed {
				places[index] = true
			}
			delete(places, 0) // the genesis
			return slices.Sorted(maps.Keys(places)), err
		}
		if len(producers) == before || len(producers) > maxProducers {
			return nil, failure{errors.New("the log lists producers without an end")}
		}
		cursor.Set("cursor", page.Next)
	}
}

func (rd *reader) entry(ctx context.Context, index uint64) (record.Entry, error) {
	b, err := rd.tree.Entry(ctx, index)
	if err != nil {
		return record.Entry{}, err
	}
	e, err := record.Parse(b)
	if err != nil {
		return record.Entry{}, fmt.Errorf("entry %d: %w", index, err)
	}
	return e, nil
}

// name is the name under which the operator enrolled a key.
func (rd *reader) name(id keys.ID) string {
	if k, ok := rd.ring.Key(id); ok {
		return k.Name
	}
	return id.String()
}

// row is an entry that was proven to lie in the log.
type row struct {
	index uint64
	entry record.Entry
	view  *record.View
}

// rows proves the entries at the indices and describes them, with those
// openings that the caller may see and that match the commitments.
func (rd *reader) rows(ctx context.Context, indices []uint64, openings func(row) ([]*sealtapv1.Opening, error)) ([]row, error) {
	raw, err := rd.tree.Entries(ctx, indices...)
	if err != nil {
		return nil, err
	}
	list := make([]row, len(raw))
	for i, b := range raw {
		e, err := record.Parse(b)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", indices[i], err)
		}
		list[i] = row{index: indices[i], entry: e}
		var open []*sealtapv1.Opening
		if openings != nil && e.Record != nil && len(e.Record.GetSealed()) > 0 {
			if open, err = openings(list[i]); err != nil {
				return nil, err
			}
		}
		list[i].view = record.NewView(e, indices[i], rd.name, open)
	}
	return list, nil
}

// parseID takes an index or an exchange id.
func parseID(s string) (index uint64, exchange string, err error) {
	if n, err := strconv.ParseUint(s, 10, 64); err == nil {
		return n, "", nil
	}
	if _, err := record.ParseUUID(s); err != nil {
		return 0, "", usagef("%q is neither an index in the log nor an exchange id", s)
	}
	return 0, strings.ToLower(s), nil
}

// find returns the indices of the records that ID names. A record takes a moment
// from the proxy into a published head: wait says how long to look for it.
func (rd *reader) find(ctx context.Context, id string, wait time.Duration) ([]uint64, error) {
	index, exchange, err := parseID(id)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(wait); ; {
		var list []uint64
		if exchange == "" {
			if index < rd.head.Size {
				return []uint64{index}, nil
			}
		} else if list, err = rd.places(ctx, exchange); err != nil {
			return nil, err
		}
		// An exchange has two records, and the second one may be a moment away.
		late := time.Now().After(deadline)
		if len(list) >= 2 || len(list) > 0 && late {
			return list, nil
		}
		if late {
			what := id
			if exchange == "" {
				what = "entry " + id
			}
			return nil, codeError{fmt.Errorf("%s is not in the log, which has %d entries", what, rd.head.Size), exitUnfinished}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
		if err := rd.refresh(ctx); err != nil {
			return nil, err
		}
	}
}

// places returns the indices of the records of an exchange, oldest first.
func (rd *reader) places(ctx context.Context, exchange string) ([]uint64, error) {
	all, err := rd.exchange(ctx, exchange)
	if err != nil {
		return nil, err
	}
	var list []uint64
	for _, r := range all {
		list = append(list, r.index)
	}
	return list, nil
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

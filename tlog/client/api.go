package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

const (
	maxJSON     = 32 << 20
	maxEvidence = 16 << 20

	// ContentType is the media type of a submitted batch and of its answer.
	ContentType = "application/x-protobuf"
)

// Problem is an answer of the log other than success: RFC 9457 problem details
// where the log gave them. It matches [ErrUnavailable] where another attempt may
// help, [ErrNotFound] with status 404, and [ErrPruned] with status 410.
type Problem struct {
	Status     int
	Type       string
	Title      string
	Detail     string
	Expected   uint64        // with status 409: the next sequence that the log takes
	Fork       bool          // with status 409: the log has another record of that sequence
	Unknown    bool          // with status 403: the producer's key was never enrolled in this log
	Revoked    bool          // with status 403: the operator has ended the producer's key
	Minimum    uint64        // with status 410: where the log's entries begin
	Successor  string        // with status 410: the key of the log that takes what this one does not
	Limit      string        // which limit of the log's configuration was hit, if one was
	Durable    bool          // with status 503: the entries are stored, and no published checkpoint covers them yet
	RetryAfter time.Duration // 0 if the log does not say
}

// Error implements error.
func (p *Problem) Error() string {
	text := p.Title
	if text == "" {
		text = http.StatusText(p.Status)
	}
	if p.Detail != "" {
		text += ": " + p.Detail
	}
	return fmt.Sprintf("the log answered %d: %s", p.Status, text)
}

// Is implements the matching of [errors.Is].
func (p *Problem) Is(target error) bool {
	switch target {
	case ErrUnavailable:
		return p.Status >= 500 || p.Status == http.StatusTooManyRequests || p.Status == http.StatusRequestTimeout || p.Status == http.StatusNotFound ||
			p.Status == http.StatusGone
	case ErrNotFound:
		return p.Status == http.StatusNotFound
	case ErrPruned:
		return p.Status == http.StatusGone && p.Successor == ""
	}
	return false
}

// temporary reports whether another attempt may help.
func (p *Problem) temporary() bool {
	return p.Is(ErrUnavailable) && p.Status != http.StatusNotFound && p.Status != http.StatusGone
}

func readProblem(resp *http.Response) error {
	p := &Problem{Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header)}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	if err != nil || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") {
		return p
	}
	var body struct {
		Type, Title, Detail string
		Expected            uint64
		Fork, Durable       bool
		Limit               string
		Unknown             bool   `json:"unknown_producer"`
		Revoked             bool   `json:"revoked_producer"`
		Minimum             uint64 `json:"minimum_index"`
		Successor           string
	}
	if json.Unmarshal(b, &body) == nil {
		p.Type, p.Title, p.Detail, p.Expected, p.Fork = body.Type, body.Title, body.Detail, body.Expected, body.Fork
		p.Unknown, p.Revoked = body.Unknown, body.Revoked
		p.Limit, p.Durable, p.Minimum, p.Successor = body.Limit, body.Durable, body.Minimum, body.Successor
	}
	return p
}

// Submit sends a batch, once. The log takes a batch again without harm, so the
// caller may repeat it after an error that wraps [ErrUnavailable]; any other
// refusal is a [*Problem].
func (c *Client) Submit(ctx context.Context, batch *sealtapv1.SubmitRequest) (*sealtapv1.SubmitResponse, error) {
	body, err := proto.Marshal(batch)
	if err != nil {
		return nil, fmt.Errorf("encoding batch: %w", err)
	}
	w, err := c.web()
	if err != nil {
		return nil, err
	}
	b, err := w.do(ctx, request{method: http.MethodPost, path: "v1/entries", contentType: ContentType, body: body, limit: maxJSON, once: true})
	if err != nil {
		return nil, fmt.Errorf("submitting batch: %w", err)
	}
	answer := new(sealtapv1.SubmitResponse)
	if err := proto.Unmarshal(b, answer); err != nil {
		return nil, fmt.Errorf("submitting batch: %w: reading the answer: %w", ErrUnavailable, err)
	}
	return answer, nil
}

// Get makes a call of the /v1 interface, such as "producers", and decodes the
// JSON of its answer, which nothing has verified.
func (c *Client) Get(ctx context.Context, call string, query url.Values, answer any) error {
	b, err := c.get(ctx, "v1/"+call, query, maxJSON)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, answer); err != nil {
		return fmt.Errorf("GET /v1/%s: %w: reading the answer: %w", call, ErrUnavailable, err)
	}
	return nil
}

// Page is one page of a search.
type Page struct {
	Records []Hint `json:"records"`
	Next    string `json:"next"` // the cursor of the next page; empty on the last
}

// Hint says where a record may be found. Believe what [Tree.Entry] returns for
// its index, and nothing else of it.
type Hint struct {
	Index uint64          `json:"index"`
	View  json.RawMessage `json:"-"` // the whole record as the log describes it
}

// UnmarshalJSON implements [json.Unmarshaler].
func (h *Hint) UnmarshalJSON(b []byte) error {
	var v struct {
		Index *uint64 `json:"index"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	if v.Index == nil {
		return errors.New("a record without an index")
	}
	h.Index, h.View = *v.Index, append(json.RawMessage(nil), b...)
	return nil
}

// Search asks the log for the records that match the query of GET /v1/records.
// The log can leave records out of a search unseen: what must be complete has to
// be audited.
func (c *Client) Search(ctx context.Context, query url.Values) (*Page, error) {
	page := new(Page)
	return page, c.Get(ctx, "records", query, page)
}

// Evidence fetches the text of the evidence for the entry at the index. Nothing
// has verified it.
func (c *Client) Evidence(ctx context.Context, index uint64) ([]byte, error) {
	return c.get(ctx, "v1/records/"+strconv.FormatUint(index, 10)+"/evidence", nil, maxEvidence)
}

// Disclosure fetches evidence like [Client.Evidence], with the openings of the
// record's sealed fields in it. Only a reader of the log may.
func (c *Client) Disclosure(ctx context.Context, index uint64) ([]byte, error) {
	return c.get(ctx, "v1/records/"+strconv.FormatUint(index, 10)+"/evidence", url.Values{"openings": {"1"}}, maxEvidence)
}

// Openings fetches the openings of the record at the index, each checked against
// what the record commits to. A caller who is no reader gets none.
func (c *Client) Openings(ctx context.Context, index uint64, r record.Record) ([]*sealtapv1.Opening, error) {
	text, err := c.Disclosure(ctx, index)
	if p := (*Problem)(nil); errors.As(err, &p) && p.Status == http.StatusForbidden {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	list, err := record.ParseEvidence(text)
	if err != nil {
		return nil, fmt.Errorf("evidence of entry %d: %w: %w", index, ErrVerification, err)
	}
	var openings []*sealtapv1.Opening
	for _, o := range list[0].Openings {
		if err := record.CheckOpening(r, o); err != nil {
			return nil, fmt.Errorf("evidence of entry %d: %w: %w", index, ErrVerification, err)
		}
		openings = append(openings, o)
	}
	return openings, nil
}

func (c *Client) get(ctx context.Context, path string, query url.Values, limit int64) ([]byte, error) {
	w, err := c.web()
	if err != nil {
		return nil, err
	}
	b, err := w.do(ctx, request{method: http.MethodGet, path: path, query: query, limit: limit})
	if err != nil {
		return nil, fmt.Errorf("GET /%s: %w", path, err)
	}
	return b, nil
}

func (c *Client) web() (*web, error) {
	if c.source.web == nil {
		return nil, fmt.Errorf("%w: %s is a directory, which answers no calls", ErrConfig, c.source)
	}
	return c.source.web, nil
}

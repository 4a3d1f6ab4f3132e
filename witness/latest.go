package witness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sealtap/sealtap/witness/policy"
)

var (
	// ErrNoURL is wrapped where a policy does not say where a witness can be asked.
	ErrNoURL = errors.New("the policy has no URL of it")
	// ErrInDoubt is wrapped where a witness says that it may have cosigned more than
	// it shows: its state was put back from a copy.
	ErrInDoubt = errors.New("it says that it may have cosigned more than it knows")
)

// View is the newest checkpoint of a log that one witness says it has cosigned.
type View struct {
	Witness policy.Witness
	// Checkpoint is signed by the log. Nil: the witness has cosigned none, or Err
	// says why it is not known.
	Checkpoint *policy.Checkpoint
	// Err is why the view is not known for certain: nobody could be asked, or the
	// answer does not bear the witness's cosignature.
	Err error
}

// Latest asks every witness of a policy for its newest checkpoint of the log with
// this origin (tlog-witness, "get-checkpoint"), under the URL where checkpoints
// are submitted. A witness may be an hour behind with what it shows there. A nil
// client stands for one that uses no proxy.
func Latest(ctx context.Context, p *policy.Policy, origin string, c *http.Client, timeout time.Duration) []View {
	if c == nil {
		c = newHTTPClient()
		defer c.CloseIdleConnections()
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	views := make([]View, len(p.Witnesses))
	var wg sync.WaitGroup
	for i, w := range p.Witnesses {
		wg.Go(func() {
			views[i] = View{Witness: w}
			views[i].Checkpoint, views[i].Err = latest(ctx, p, w, origin, c)
		})
	}
	wg.Wait()
	return views
}

func latest(ctx context.Context, p *policy.Policy, w policy.Witness, origin string, c *http.Client) (*policy.Checkpoint, error) {
	if w.URL == "" {
		return nil, ErrNoURL
	}
	url := strings.TrimSuffix(w.URL, "/") + "/" + OriginHash(origin) + "/checkpoint"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	doubtful := resp.Header.Get(doubtHeader) != ""
	signed, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the answer of %s: %w", url, err)
	case resp.StatusCode == http.StatusNotFound && doubtful:
		return nil, fmt.Errorf("%s: %w", url, ErrInDoubt)
	case resp.StatusCode == http.StatusNotFound:
		return nil, nil // tlog-witness: it has never cosigned one
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answered %s", url, resp.Status)
	case len(signed) > maxResponse:
		return nil, fmt.Errorf("the answer of %s is longer than %d bytes", url, maxResponse)
	}
	cp, err := p.VerifyLogOnly(signed)
	if err != nil {
		return nil, fmt.Errorf("the answer of %s: %w", url, err)
	}
	if cp.Origin != origin {
		return nil, fmt.Errorf("the answer of %s is about another log, %q", url, cp.Origin)
	}
	for _, s := range cp.Cosignatures {
		if s.Witness == w.Name && doubtful {
			return cp, fmt.Errorf("%s: %w", url, ErrInDoubt)
		} else if s.Witness == w.Name {
			return cp, nil
		}
	}
	// The log has signed it all the same.
	return cp, fmt.Errorf("the answer of %s is not cosigned by it", url)
}

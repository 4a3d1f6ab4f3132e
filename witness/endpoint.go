package witness

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/witness/policy"
)

const (
	// maxResponse bounds the answer of a witness: many post-quantum signatures.
	maxResponse = 64 << 10
	// maxAttempts bounds how often one checkpoint is sent to a witness that
	// answers each time that its size is another one.
	maxAttempts = 3
)

// endpoint is a submission URL and the witnesses, mostly one, behind it.
type endpoint struct {
	client    *Client
	url       string
	witnesses []policy.Witness
	// turn is held while a request is under way: a witness is asked one thing
	// at a time, since it answers about its latest checkpoint.
	turn chan struct{}

	mu       sync.Mutex
	size     uint64      // of the latest checkpoint it is known to have cosigned
	seen     []time.Time // when each of witnesses last cosigned
	err      error       // of the last request
	failures int         // in a row
	until    time.Time   // it is left alone until then
}

// cosign asks for a cosignature. It gives up waiting for the request before it
// when the context waiting ends, but its own request goes on.
func (e *endpoint) cosign(waiting context.Context, a ask) ([]policy.Cosignature, error) {
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-waiting.Done():
		return nil, fmt.Errorf("it has not answered the request before: %w", waiting.Err())
	}
	size, err := e.ready(a.checkpoint.Size)
	if err != nil {
		return nil, err
	}
	if waiting.Err() != nil {
		return nil, waiting.Err() // select chose among both
	}
	ctx, cancel := context.WithTimeout(e.client.life, e.client.config.Timeout)
	defer cancel()
	got, size, err := e.resync(ctx, a, size)
	e.learn(got, size, err)
	return got, err
}

// ready returns the old size to begin with, or an error if the endpoint is to
// be left alone.
func (e *endpoint) ready(newSize uint64) (old uint64, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if wait := time.Until(e.until); wait > 0 {
		return 0, fmt.Errorf("left alone for %v more: %w", wait.Round(time.Millisecond), e.err)
	}
	// An old size above the new one is not allowed. With an equal one a
	// witness that is ahead tells its size again.
	return min(e.size, newSize), nil
}

// resync sends the checkpoint, and sends it again from the size that the
// witness says it is at. It returns the size the witness is known to be at.
func (e *endpoint) resync(ctx context.Context, a ask, old uint64) (_ []policy.Cosignature, size uint64, err error) {
	for range maxAttempts {
		got, err := e.send(ctx, a, old)
		var conflict *conflictError
		switch {
		case err == nil:
			return got, a.checkpoint.Size, nil
		case !errors.As(err, &conflict):
			return nil, old, err
		case conflict.size > a.checkpoint.Size:
			return nil, conflict.size, fmt.Errorf("%w: it cosigned size %d, the log has %d", ErrWitnessAhead, conflict.size, a.checkpoint.Size)
		}
		old = conflict.size
	}
	return nil, old, fmt.Errorf("its size changed with each of %d requests", maxAttempts)
}

// learn keeps what a request taught about the endpoint.
func (e *endpoint) learn(got []policy.Cosignature, size uint64, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.size, e.err = size, err
	if err == nil {
		e.failures, e.until = 0, time.Time{}
		for i, w := range e.witnesses {
			for _, s := range got {
				if s.Witness == w.Name {
					e.seen[i] = time.Now()
				}
			}
		}
		return
	}
	// A witness that is ahead is alive, and one of several calls at work with
	// different sizes may find it so.
	if errors.Is(err, ErrWitnessAhead) || e.client.life.Err() != nil {
		return
	}
	e.until = time.Now().Add(e.client.backoff(e.failures))
	e.failures++
}

// backoff returns how long to leave a witness alone: twice as long with each
// failure, and between half and all of that by chance, so that several logs do
// not come back to it together.
func (c *Client) backoff(failures int) time.Duration {
	d := c.config.MinBackoff
	for ; failures > 0 && d < c.config.MaxBackoff; failures-- {
		d *= 2
	}
	d = max(min(d, c.config.MaxBackoff), 2)
	return d/2 + rand.N(d/2)
}

// send makes one add-checkpoint request.
func (e *endpoint) send(ctx context.Context, a ask, old uint64) ([]policy.Cosignature, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "old %d\n", old)
	if old > 0 && old < a.checkpoint.Size {
		proof, err := a.consistency(ctx, old)
		if err != nil {
			return nil, fmt.Errorf("proving consistency from size %d: %w", old, err)
		}
		for _, h := range proof {
			b.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
		}
	}
	b.WriteString("\n")
	b.Write(a.signed)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, &b)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", typeText)
	resp, err := e.client.config.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	if err != nil {
		return nil, fmt.Errorf("reading its answer: %w", err)
	}
	if len(body) > maxResponse {
		return nil, fmt.Errorf("its answer is longer than %d bytes", maxResponse)
	}
	if resp.StatusCode == http.StatusOK {
		return a.verify(body, e.witnesses)
	}
	return nil, refusal(resp, body, old)
}

// refusal returns the error that an answer other than 200 stands for.
func refusal(resp *http.Response, body []byte, old uint64) error {
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	// Without the type, the 409 is by something on the way to the witness.
	if resp.StatusCode == http.StatusConflict && mediaType == typeSize {
		size, err := checkpoint.ParseSize(strings.TrimSuffix(string(body), "\n"))
		if err != nil {
			return fmt.Errorf("it answered a conflict: %w", err)
		}
		if size == old {
			return fmt.Errorf("it answered that it is at size %d, as the request said", size)
		}
		return &conflictError{size}
	}
	return fmt.Errorf("it answered %s: %.200q", resp.Status, strings.TrimSpace(string(body)))
}

// status returns what is known of the witnesses behind the endpoint.
func (e *endpoint) status() []WitnessStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []WitnessStatus
	for i, w := range e.witnesses {
		s := WitnessStatus{Name: w.Name, URL: w.URL, KeyID: w.Key.KeyID(), Size: e.size, LastSeen: e.seen[i]}
		if e.err != nil {
			s.LastError = e.err.Error()
		}
		all = append(all, s)
	}
	return all
}

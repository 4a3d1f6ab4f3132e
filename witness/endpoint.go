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
	"strconv"
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
	// maxRetryAfter bounds how long a witness can have itself left alone.
	maxRetryAfter = time.Minute
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
	last     []byte      // the largest checkpoint that it is known to have cosigned, with its cosignatures
	lastSize uint64      // of last
	seen     []time.Time // when each of witnesses last cosigned
	latency  time.Duration
	err      error     // of the last request
	failures int       // in a row
	failed   uint64    // in all
	back     uint64    // how often it had gone back
	until    time.Time // it is left alone until then
}

// cosigned notes what the endpoint has cosigned. The caller holds mu.
func (e *endpoint) cosigned(cp *policy.Checkpoint, own []policy.Cosignature) {
	if e.last == nil || cp.Size >= e.lastSize {
		e.last = (&policy.Checkpoint{Note: cp.Note, Signatures: cp.Signatures}).Cosign(own...)
		e.lastSize = cp.Size
	}
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
	start := time.Now()
	got, size, err := e.resync(ctx, a, size)
	e.learn(a, got, size, err, time.Since(start))
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
		if err == nil {
			return got, a.checkpoint.Size, nil
		} else if !errors.As(err, &conflict) {
			return nil, old, err
		}
		if e.wentBack(conflict.size) {
			// Its state is an old one. If it is one of ours it stops once it sees what it
			// has signed; any other is asked as it wants to be.
			if err := e.remind(ctx, conflict.size); err != nil {
				return nil, conflict.size, err
			}
		}
		if conflict.size > a.checkpoint.Size {
			return nil, conflict.size, fmt.Errorf("%w: it cosigned size %d, the log has %d", ErrWitnessAhead, conflict.size, a.checkpoint.Size)
		}
		old = conflict.size
	}
	return nil, old, fmt.Errorf("its size changed with each of %d requests", maxAttempts)
}

// wentBack reports whether the size is smaller than that of a checkpoint that the
// endpoint has cosigned.
func (e *endpoint) wentBack(size uint64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last != nil && size < e.lastSize
}

// remind shows the endpoint the largest checkpoint that bears its cosignature. It
// returns an error if it does not sign because of that.
func (e *endpoint) remind(ctx context.Context, size uint64) error {
	e.mu.Lock()
	last, lastSize := e.last, e.lastSize
	e.last, e.lastSize = nil, 0 // once
	e.back++
	e.mu.Unlock()
	got, err := e.post(ctx, fmt.Appendf(nil, "old %d\n\n%s", size, last))
	if err != nil {
		return err
	}
	if got.code == http.StatusServiceUnavailable {
		return fmt.Errorf("it has gone back from size %d, which it cosigned, to %d: %w", lastSize, size, got.refusal(size))
	}
	return nil
}

// learn keeps what a request taught about the endpoint.
func (e *endpoint) learn(a ask, got []policy.Cosignature, size uint64, err error, took time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.size, e.err = size, err
	if err == nil {
		e.failures, e.until, e.latency = 0, time.Time{}, took
		e.cosigned(a.checkpoint, got)
		for i, w := range e.witnesses {
			for _, s := range got {
				if s.Witness == w.Name {
					e.seen[i] = time.Now()
				}
			}
		}
		return
	}
	if e.client.life.Err() == nil {
		e.failed++
	}
	// A witness that is ahead is alive, and one of several calls at work with
	// different sizes may find it so.
	if errors.Is(err, ErrWitnessAhead) || e.client.life.Err() != nil {
		return
	}
	pause := e.client.backoff(e.failures)
	var busy *busyError
	if errors.As(err, &busy) {
		pause = max(pause, min(busy.after, maxRetryAfter))
	}
	e.until = time.Now().Add(pause)
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
	got, err := e.post(ctx, b.Bytes())
	if err != nil {
		return nil, err
	}
	if got.code == http.StatusOK {
		return a.verify(got.body, e.witnesses)
	}
	return nil, got.refusal(old)
}

// reply is the answer of a witness.
type reply struct {
	code   int
	status string
	header http.Header
	body   []byte
}

// post sends the body of an add-checkpoint.
func (e *endpoint) post(ctx context.Context, request []byte) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(request))
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("Content-Type", typeText)
	resp, err := e.client.config.HTTP.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	if err != nil {
		return reply{}, fmt.Errorf("reading its answer: %w", err)
	}
	if len(body) > maxResponse {
		return reply{}, fmt.Errorf("its answer is longer than %d bytes", maxResponse)
	}
	return reply{resp.StatusCode, resp.Status, resp.Header, body}, nil
}

// busyError is an answer that says when to come again.
type busyError struct {
	err   error
	after time.Duration
}

func (e *busyError) Error() string { return e.err.Error() }

// refusal returns the error that an answer other than 200 stands for.
func (r reply) refusal(old uint64) error {
	mediaType, _, _ := mime.ParseMediaType(r.header.Get("Content-Type"))
	// Without the type, the 409 is by something on the way to the witness.
	if r.code == http.StatusConflict && mediaType == typeSize {
		size, err := checkpoint.ParseSize(strings.TrimSuffix(string(r.body), "\n"))
		if err != nil {
			return fmt.Errorf("it answered a conflict: %w", err)
		}
		if size == old {
			return fmt.Errorf("it answered that it is at size %d, as the request said", size)
		}
		return &conflictError{size}
	}
	err := fmt.Errorf("it answered %s: %.200q", r.status, strings.TrimSpace(string(r.body)))
	if n, perr := strconv.ParseUint(r.header.Get("Retry-After"), 10, 16); perr == nil {
		return &busyError{err, time.Duration(n) * time.Second}
	}
	return err
}

// status returns what is known of the witnesses behind the endpoint.
func (e *endpoint) status() []WitnessStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []WitnessStatus
	for i, w := range e.witnesses {
		s := WitnessStatus{Name: w.Name, URL: w.URL, KeyID: w.Key.KeyID(), Size: e.size, LastSeen: e.seen[i],
			Latency: e.latency, Failures: e.failed, WentBack: e.back}
		if e.err != nil {
			s.LastError = e.err.Error()
		}
		all = append(all, s)
	}
	return all
}

package witness

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sealtap/sealtap/witness/policy"
)

var (
	// ErrQuorum is wrapped where too few witnesses cosigned.
	ErrQuorum = policy.ErrQuorum
	// ErrWitnessAhead is wrapped where a witness says that it cosigned a larger
	// checkpoint: the log was rolled back, or the witness errs.
	ErrWitnessAhead = errors.New("witness is ahead of the log")
	// ErrClosed is wrapped after [Client.Close].
	ErrClosed = errors.New("witness client closed")
)

// ClientConfig is what a client is made of.
type ClientConfig struct {
	// Policy names the log, the witnesses with their URLs, and the quorum.
	// Witnesses without a URL are not asked. Required.
	Policy *policy.Policy
	// HTTP makes the requests. Nil: a client of its own that keeps connections
	// and uses no proxy.
	HTTP *http.Client
	// Timeout bounds each request to a witness. 0: 10 s.
	Timeout time.Duration
	// Straggle is how long to wait for more witnesses once the quorum is
	// satisfied. 0: 50 ms. Negative: not at all.
	Straggle time.Duration
	// MinBackoff and MaxBackoff bound the time for which a witness that failed
	// is left alone; it doubles with each failure. 0: 250 ms and 10 s.
	MinBackoff, MaxBackoff time.Duration
}

// Consistency returns the RFC 6962 consistency proof from a smaller size, above
// 0, to the size of the checkpoint that is to be cosigned. It may be called by
// several goroutines, and until [Client.Close] returns.
type Consistency func(ctx context.Context, from uint64) ([][32]byte, error)

// Client collects cosignatures for the checkpoints of one log.
type Client struct {
	config    ClientConfig
	endpoints []*endpoint
	offline   []policy.Witness // without a URL

	// life ends with Close. A request outlives the Cosign that began it, so
	// that a slow witness gets to cosign at all.
	life context.Context
	end  context.CancelFunc

	mu     sync.Mutex
	closed bool
	asking sync.WaitGroup // is added to under mu, while not closed
}

// WitnessStatus is what a client knows of a witness.
type WitnessStatus struct {
	Name      string // in the policy
	URL       string // empty: it is not asked
	KeyID     uint32
	Size      uint64        // of the latest checkpoint it is known to have cosigned
	LastSeen  time.Time     // when it last cosigned; zero: not yet
	Latency   time.Duration // of the request with which it last cosigned
	LastError string        // empty once it cosigns again
	Failures  uint64        // requests that it did not cosign, since the client was made
	WentBack  uint64        // how often it knew of a smaller checkpoint than it had cosigned: its state is an old one
}

// NewClient makes a client. [Client.Close] ends it.
func NewClient(c ClientConfig) (*Client, error) {
	if c.Policy == nil {
		return nil, errors.New("a witness client needs a policy")
	}
	setDefault(&c.Timeout, 10*time.Second)
	setDefault(&c.Straggle, 50*time.Millisecond)
	setDefault(&c.MinBackoff, 250*time.Millisecond)
	setDefault(&c.MaxBackoff, 10*time.Second)
	if c.HTTP == nil {
		c.HTTP = newHTTPClient()
	}
	cl := &Client{config: c}
	// One operator may have two keys behind one URL: it is asked once for both.
	byURL := make(map[string]*endpoint)
	for _, w := range c.Policy.Witnesses {
		if w.URL == "" {
			cl.offline = append(cl.offline, w)
			continue
		}
		u, err := url.Parse(w.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("witness %s: %q is not the http or https URL of a submission prefix", w.Name, w.URL)
		}
		prefix := strings.TrimSuffix(w.URL, "/")
		e := byURL[prefix]
		if e == nil {
			e = &endpoint{client: cl, url: prefix + "/add-checkpoint", turn: make(chan struct{}, 1)}
			byURL[prefix] = e
			cl.endpoints = append(cl.endpoints, e)
		}
		e.witnesses = append(e.witnesses, w)
		e.seen = append(e.seen, time.Time{})
	}
	cl.life, cl.end = context.WithCancel(context.Background())
	return cl, nil
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// newHTTPClient returns a client that keeps its connections to the witnesses.
func newHTTPClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			MaxIdleConnsPerHost:    2,
			IdleConnTimeout:        90 * time.Second,
			TLSHandshakeTimeout:    5 * time.Second,
			MaxResponseHeaderBytes: 16 << 10,
			DisableCompression:     true,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Close ends the requests under way and waits until they have ended.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.end()
	c.asking.Wait()
	return nil
}

// answerOf is what came of asking one endpoint.
type answerOf struct {
	cosignatures []policy.Cosignature
	err          error
	late         bool // it was busy with an earlier checkpoint when it was asked
}

// Cosign has a checkpoint, signed by the log, cosigned. It asks all witnesses at
// once and returns soon after the quorum is satisfied, or when all have
// answered. The returned note has the signatures of the log and the valid
// cosignatures, and no others. Where they do not satisfy the quorum the note
// still has what there is, and the error wraps [ErrQuorum] and, where that is
// the cause, [ErrWitnessAhead].
func (c *Client) Cosign(ctx context.Context, signed []byte, consistency Consistency) ([]byte, error) {
	cp, err := c.config.Policy.VerifyLogOnly(signed)
	if err != nil {
		return nil, fmt.Errorf("collecting cosignatures: %w", err)
	}
	// Whoever waits for a slow endpoint leaves with this call.
	waiting, leave := context.WithCancel(ctx)
	defer leave()
	answers := make(chan answerOf, len(c.endpoints))
	prompt, ok := c.askAll(waiting, cp, consistency, answers)
	if !ok {
		return nil, fmt.Errorf("collecting cosignatures: %w", ErrClosed)
	}

	have := make(map[string]bool)
	for _, s := range cp.Cosignatures {
		have[s.Witness] = true
	}
	var got []policy.Cosignature
	var errs []error
	var straggle <-chan time.Time // set once the quorum is satisfied
	for left := len(c.endpoints); left > 0; {
		if c.config.Policy.Satisfied(have) {
			if prompt == 0 {
				break // those that are left have been slow before
			}
			if straggle == nil {
				straggle = time.After(c.config.Straggle)
			}
		}
		select {
		case a := <-answers:
			left--
			if !a.late {
				prompt--
			}
			errs = append(errs, a.err)
			for _, s := range a.cosignatures {
				have[s.Witness] = true
			}
			got = append(got, a.cosignatures...)
			continue
		case <-straggle:
		case <-ctx.Done():
			errs = append(errs, ctx.Err())
		}
		break
	}
	note := cp.Cosign(got...)
	if !c.config.Policy.Satisfied(have) {
		return note, fmt.Errorf("%w: %d of %d witnesses cosigned size %d: %w",
			ErrQuorum, len(have), len(c.config.Policy.Witnesses), cp.Size, errors.Join(errs...))
	}
	return note, nil
}

// askAll asks each endpoint in a goroutine that ends with the client at the
// latest. It returns how many of them were not busy, and reports whether the
// client is open.
func (c *Client) askAll(waiting context.Context, cp *policy.Checkpoint, consistency Consistency, answers chan<- answerOf) (prompt int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, false
	}
	a := ask{
		policy:      c.config.Policy,
		checkpoint:  cp,
		signed:      (&policy.Checkpoint{Note: cp.Note, Signatures: cp.Signatures}).Cosign(),
		consistency: consistency,
	}
	for _, e := range c.endpoints {
		late := len(e.turn) > 0
		if !late {
			prompt++
		}
		c.asking.Go(func() {
			got, err := e.cosign(waiting, a)
			if err != nil {
				err = fmt.Errorf("witness %s: %w", e.witnesses[0].Name, err)
			}
			answers <- answerOf{got, err, late}
		})
	}
	return prompt, true
}

// Remember tells the client of a checkpoint that was cosigned before it was made,
// so that it knows where the witnesses are, and can show them their own
// cosignatures should they have gone back. What does not verify is ignored.
func (c *Client) Remember(cosigned []byte) {
	cp, err := c.config.Policy.VerifyLogOnly(cosigned)
	if err != nil {
		return
	}
	for _, e := range c.endpoints {
		if own := ofWitnesses(cp.Cosignatures, e.witnesses); len(own) > 0 {
			e.mu.Lock()
			e.cosigned(cp, own)
			e.size = max(e.size, cp.Size)
			e.mu.Unlock()
		}
	}
}

// Status returns what is known of the witnesses, those without a URL last.
func (c *Client) Status() []WitnessStatus {
	var all []WitnessStatus
	for _, e := range c.endpoints {
		all = append(all, e.status()...)
	}
	for _, w := range c.offline {
		all = append(all, WitnessStatus{Name: w.Name, KeyID: w.Key.KeyID()})
	}
	return all
}

// ask is one checkpoint as every endpoint is asked to cosign it.
type ask struct {
	policy      *policy.Policy
	checkpoint  *policy.Checkpoint
	signed      []byte // with the log's signatures only
	consistency Consistency
}

// verify returns the cosignatures in the answer of a witness. What others signed
// is passed over, as is what does not verify (tlog-witness, "add-checkpoint").
func (a ask) verify(lines []byte, from []policy.Witness) ([]policy.Cosignature, error) {
	cp, err := a.policy.VerifyLogOnly(append(a.signed[:len(a.signed):len(a.signed)], lines...))
	if err != nil {
		return nil, fmt.Errorf("its answer is not one of signature lines: %w", err)
	}
	own := ofWitnesses(cp.Cosignatures, from)
	if len(own) == 0 {
		return nil, fmt.Errorf("its answer has no valid cosignature by %s", names(from))
	}
	return own, nil
}

// ofWitnesses returns the cosignatures by some witnesses.
func ofWitnesses(all []policy.Cosignature, ws []policy.Witness) (own []policy.Cosignature) {
	for _, s := range all {
		for _, w := range ws {
			if s.Witness == w.Name {
				own = append(own, s)
			}
		}
	}
	return own
}

func names(ws []policy.Witness) string {
	var keyNames []string
	for _, w := range ws {
		keyNames = append(keyNames, w.Key.Name)
	}
	return strings.Join(keyNames, " or ")
}

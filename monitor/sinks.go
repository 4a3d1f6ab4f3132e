package monitor

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"sync"
	"time"
)

// Lines writes each alert as a line of JSON.
type Lines struct {
	mu sync.Mutex
	w  io.Writer
}

// NewLines returns a sink that writes to w.
func NewLines(w io.Writer) *Lines { return &Lines{w: w} }

// Tell implements [Sink].
func (l *Lines) Tell(_ context.Context, a Alert) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := json.NewEncoder(l.w)
	e.SetEscapeHTML(false)
	return e.Encode(a)
}

// Webhook posts each alert as JSON. With a secret the header Sealtap-Signature
// holds "t=SECONDS,v1=HEX": HMAC-SHA-256 under the secret of "SECONDS.BODY".
type Webhook struct {
	URL    string
	Secret []byte // none: no signature
	Client *http.Client
	// Pause is the first pause between attempts, which doubles; 0 is a second.
	Pause time.Duration
}

const (
	webhookAttempts = 6
	webhookTimeout  = 10 * time.Second
)

// Tell implements [Sink]. It tries again after what may pass: no answer, 408, 429
// and 5xx; in the end its error wraps [ErrLater].
func (h *Webhook) Tell(ctx context.Context, a Alert) error {
	body, err := json.Marshal(a)
	if err != nil {
		return err
	}
	pause := h.Pause
	if pause == 0 {
		pause = time.Second
	}
	for i := 1; ; i++ {
		again, err := h.post(ctx, body)
		if err == nil || !again {
			return err
		}
		err = fmt.Errorf("%w: %w", ErrLater, err)
		if i == webhookAttempts {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(pause):
		}
		pause *= 2
	}
}

func (h *Webhook) post(ctx context.Context, body []byte) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, webhookTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "sealtap-monitor")
	if len(h.Secret) > 0 {
		req.Header.Set("Sealtap-Signature", Signature(h.Secret, time.Now().Unix(), body))
	}
	c := h.Client
	if c == nil {
		c = http.DefaultClient
	}
	res, err := c.Do(req)
	if err != nil {
		return true, err
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10) // so that the connection can be used again
	switch s := res.StatusCode; {
	case s < 300:
		return false, nil
	case s == http.StatusRequestTimeout || s == http.StatusTooManyRequests || s >= 500:
		return true, fmt.Errorf("the webhook answered %s", res.Status)
	default:
		return false, fmt.Errorf("the webhook answered %s", res.Status)
	}
}

// Signature is the value of Sealtap-Signature for a body that is sent at a time.
func Signature(secret []byte, unix int64, body []byte) string {
	t := strconv.FormatInt(unix, 10)
	m := hmac.New(sha256.New, secret)
	_, _ = m.Write([]byte(t + "."))
	_, _ = m.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(m.Sum(nil))
}

// Command runs a program for each alert, with the alert as JSON on its standard
// input.
type Command struct {
	Path string
	Args []string
}

const commandTimeout = 30 * time.Second

// Tell implements [Sink].
func (c *Command) Tell(ctx context.Context, a Alert) error {
	body, err := json.Marshal(a)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Stdin = bytes.NewReader(append(body, '\n'))
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %.500s", c.Path, err, out)
	}
	return nil
}

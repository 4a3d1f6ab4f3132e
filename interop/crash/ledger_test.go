package crash

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/transparency-dev/formats/log"

	"github.com/sealtap/sealtap/interop/internal/stack"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// ledger is what the log says of exchanges.
type ledger struct {
	requests  map[string][]record.Record // by path
	responses map[string][]record.Record // by exchange
	paths     map[string]string          // by exchange
	unknown   int
}

func newLedger() *ledger {
	return &ledger{requests: make(map[string][]record.Record), responses: make(map[string][]record.Record), paths: make(map[string]string)}
}

// add takes an entry of the log.
func (l *ledger) add(entry []byte) error {
	e, err := record.Parse(entry)
	if err != nil || e.Record == nil {
		return err
	}
	r, id := *e.Record, hex.EncodeToString(e.Record.GetExchange())
	switch r.Stage() {
	case "request":
		if path, ok := l.paths[id]; ok {
			return fmt.Errorf("exchange %s has two request records: %s and %s", id, path, r.GetRequest().GetPath())
		}
		l.paths[id] = r.GetRequest().GetPath()
		l.requests[l.paths[id]] = append(l.requests[l.paths[id]], r)
	case "response":
		l.responses[id] = append(l.responses[id], r)
		if r.GetResponse().GetOutcome() == sealtapv1.Outcome_OUTCOME_UNKNOWN {
			l.unknown++
		}
	}
	return nil
}

// read reads the log up to its newest checkpoint.
func (w *proxyWorld) read() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	signed, err := stack.Fetch(ctx, w.url+"/checkpoint")
	if err != nil {
		return err
	}
	w.heads.show(signed)
	cp, _, _, err := log.ParseCheckpoint(signed, w.heads.verifier.Name(), w.heads.verifier)
	if err != nil {
		return err
	}
	return w.checked.extend(ctx, w.url, cp)
}

// check compares the ledger with what clients and upstream saw.
func (l *ledger) check(tr *traffic) error {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for id, path := range l.paths {
		if n := len(l.responses[id]); n != 1 {
			return fmt.Errorf("%s (%s) has %d response records", path, id, n)
		}
	}
	for id := range l.responses {
		if _, ok := l.paths[id]; !ok {
			return fmt.Errorf("exchange %s has no request record", id)
		}
	}
	for path, n := range tr.asked {
		if got := len(l.requests[path]); got != 1 || n != 1 {
			return fmt.Errorf("%s has %d request records, and the upstream was asked %d times", path, got, n)
		}
	}
	for _, a := range tr.attempts {
		if err := l.compare(a); err != nil {
			return fmt.Errorf("%s: %w", a.path, err)
		}
	}
	return nil
}

// compare compares one exchange with its records.
func (l *ledger) compare(a attempt) error {
	list := l.requests[a.path]
	if len(list) > 1 || len(list) == 0 && (a.answered || a.exchange != "") {
		return fmt.Errorf("%d request records", len(list))
	}
	if len(list) == 0 {
		return nil // it never got to the proxy
	}
	req := list[0]
	id := hex.EncodeToString(req.GetExchange())
	if a.exchange != "" && strings.ReplaceAll(a.exchange, "-", "") != id {
		return fmt.Errorf("the client was told exchange %s, the record has %s", a.exchange, id)
	}
	res := l.responses[id][0].GetResponse()
	switch o := res.GetOutcome(); {
	case o == sealtapv1.Outcome_OUTCOME_UNKNOWN && !a.answered:
		return nil
	case o != sealtapv1.Outcome_OUTCOME_COMPLETE:
		return fmt.Errorf("outcome %v (%s), answered: %t", o, res.GetDetail(), a.answered)
	case a.ended:
		return same(res.GetTunnel().GetUp(), a.up, res.GetTunnel().GetDown(), a.down)
	case a.answered:
		body := req.GetRequest().GetBody()
		if body == nil {
			body = res.GetRequestBody()
		}
		return same(body, a.up, res.GetSent(), a.down)
	}
	return nil // it was recorded, and the client did not see the end of it
}

func same(up *sealtapv1.Body, wantUp sum, down *sealtapv1.Body, wantDown sum) error {
	for _, c := range []struct {
		way  string
		got  *sealtapv1.Body
		want sum
	}{{"up", up, wantUp}, {"down", down, wantDown}} {
		if c.want.size == 0 && c.got == nil {
			continue
		}
		if c.got.GetSize() != c.want.size || c.want.size > 0 && !bytes.Equal(c.got.GetSha256(), c.want.sha256[:]) {
			return fmt.Errorf("%s: recorded %d bytes with %x, the client had %d with %x", c.way, c.got.GetSize(), c.got.GetSha256(), c.want.size, c.want.sha256)
		}
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sealtap/sealtap/record"
)

// The log's search is not believed: here is checked that what it returned is
// what was asked for.

// descending checks that no row comes twice, and that there are no more of them
// than were asked for. A search returns the newest first.
func descending(indices []uint64, limit int) error {
	if len(indices) > limit {
		return failure{fmt.Errorf("the log's search returned %d rows, and %d were asked for", len(indices), limit)}
	}
	for i := 1; i < len(indices); i++ {
		if indices[i] >= indices[i-1] {
			return failure{fmt.Errorf("the log's search returned entry %d after entry %d", indices[i], indices[i-1])}
		}
	}
	return nil
}

// matches checks a row against the filters, as far as its record holds the
// facts: those of a request are not in its response.
func matches(r row, v url.Values) error {
	e := r.entry.Record
	if e == nil {
		return fmt.Errorf("it is a %s, not a record", r.entry.Kind)
	}
	for _, f := range []struct{ name, have string }{{"exchange", r.view.Exchange}, {"stage", r.view.Stage}} {
		if want := v.Get(f.name); want != "" && want != f.have {
			return fmt.Errorf("its %s is %q, not %q", f.name, f.have, want)
		}
	}
	if want := v.Get("producer"); want != "" && want != r.view.Producer && !strings.EqualFold(want, r.view.ProducerKey) {
		return fmt.Errorf("its producer is %q, not %q", r.view.Producer, want)
	}
	if err := matchRequest(r, v); err != nil {
		return err
	}
	if err := matchStatus(r, v); err != nil {
		return err
	}
	return matchTime(e.GetTime(), v)
}

// matchRequest checks what only a request says. What is sealed cannot be.
func matchRequest(r row, v url.Values) error {
	q := r.entry.Record.GetRequest()
	if q == nil {
		return nil
	}
	for _, f := range []struct {
		name, have string
		known      bool
	}{
		{"trace", r.view.Trace, true}, {"service", q.GetService(), true}, {"method", q.GetMethod(), true},
		{"operation", q.GetOperation().GetName(), true},
		{"who", q.GetWho().GetId(), q.GetWho() == nil || q.GetWho().GetId() != ""},
	} {
		if want := v.Get(f.name); want != "" && f.known && !(want == f.have || f.name == "trace" && strings.EqualFold(want, f.have)) {
			return fmt.Errorf("its %s is %q, not %q", f.name, f.have, want)
		}
	}
	if want := v.Get("path"); want != "" && (r.view.Path == nil || r.view.Path.Sealed == nil) {
		if prefix, ok := strings.CutSuffix(want, "*"); q.GetPath() != want && !(ok && strings.HasPrefix(q.GetPath(), prefix)) {
			return fmt.Errorf("its path is %q, not %q", q.GetPath(), want)
		}
	}
	return nil
}

func matchStatus(r row, v url.Values) error {
	p, want := r.entry.Record.GetResponse(), v.Get("status")
	if p == nil || want == "" {
		return nil
	}
	have := strconv.Itoa(int(p.GetStatus()))
	if class, ok := strings.CutSuffix(want, "xx"); want != have && !(ok && class == have[:1]) {
		return fmt.Errorf("its status is %s, not %s", have, want)
	}
	return nil
}

func matchTime(ns int64, v url.Values) error {
	at := time.Unix(0, ns)
	if since, err := time.Parse(time.RFC3339Nano, v.Get("since")); err == nil && at.Before(since) {
		return fmt.Errorf("its time is %s", at.UTC())
	}
	if until, err := time.Parse(time.RFC3339Nano, v.Get("until")); err == nil && !at.Before(until) {
		return fmt.Errorf("its time is %s", at.UTC())
	}
	return nil
}

// matchExchanges checks what the filters say about the other record of each
// row's exchange: who got a response, and how a request ended.
func (rd *reader) matchExchanges(ctx context.Context, list []row, v url.Values) error {
	asked := false
	for _, name := range []string{"trace", "service", "method", "path", "operation", "who"} {
		asked = asked || v.Get(name) != ""
	}
	page := make(map[string][]row)
	for _, r := range list {
		page[r.view.Exchange] = append(page[r.view.Exchange], r)
	}
	for _, r := range list {
		var other func([]row) error
		switch e := r.entry.Record; {
		case asked && e.GetResponse() != nil:
			other = func(all []row) error { return requestMatches(all, v) }
		case asked && e.GetRequest() == nil:
			return failure{fmt.Errorf("entry %d, which the log's search returned, is of no exchange", r.index)}
		case v.Get("status") != "" && e.GetRequest() != nil:
			other = func(all []row) error { return responseMatches(all, v) }
		default:
			continue
		}
		if other(page[r.view.Exchange]) == nil {
			continue
		}
		all, err := rd.exchange(ctx, r.view.Exchange)
		if err != nil {
			return err
		}
		if other(all) != nil { // it may be newer than the head
			if err := rd.refresh(ctx); err != nil {
				return err
			}
			if all, err = rd.exchange(ctx, r.view.Exchange); err != nil {
				return err
			}
		}
		if err := other(all); err != nil {
			return failure{fmt.Errorf("entry %d, which the log's search returned: %w", r.index, err)}
		}
	}
	return nil
}

func requestMatches(all []row, v url.Values) error {
	q := requestAmong(all)
	if q == nil {
		return errors.New("the log shows no request of its exchange")
	}
	return matchRequest(*q, v)
}

func responseMatches(all []row, v url.Values) error {
	err := errors.New("the log shows no response of its exchange")
	for _, r := range all {
		if r.entry.Record.GetResponse() == nil {
			continue
		}
		if err = matchStatus(r, v); err == nil {
			return nil
		}
	}
	return err
}

// requestAmong returns the request among the records of an exchange, or nil.
func requestAmong(all []row) *row {
	for i, r := range all {
		if r.entry.Record.GetRequest() != nil {
			return &all[i]
		}
	}
	return nil
}

// exchange returns the records of an exchange, oldest first, each proven to be
// one of them.
func (rd *reader) exchange(ctx context.Context, exchange string) ([]row, error) {
	// Most have two; those that last leave more, and begin with the oldest.
	const pages, most = 20, 1000
	var indices []uint64
	query := url.Values{"exchange": {exchange}, "limit": {strconv.Itoa(most)}}
	for range pages {
		page, err := rd.Search(ctx, query)
		if err != nil {
			return nil, err
		}
		for _, h := range page.Records {
			indices = append(indices, h.Index)
		}
		if err := descending(indices, pages*most); err != nil {
			return nil, err
		}
		if page.Next == "" {
			break
		}
		query.Set("cursor", page.Next)
	}
	var known []uint64
	for i := len(indices) - 1; i >= 0 && indices[i] < rd.head.Size; i-- {
		known = append(known, indices[i])
	}
	list, err := rd.rows(ctx, known, nil)
	if err != nil {
		return nil, err
	}
	for _, r := range list {
		if r.entry.Record == nil || record.FormatUUID(r.entry.Record.GetExchange()) != exchange {
			return nil, failure{fmt.Errorf("entry %d is not of exchange %s, as the log's search says", r.index, exchange)}
		}
	}
	return list, nil
}

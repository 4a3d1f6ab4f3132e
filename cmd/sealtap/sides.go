package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/url"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// showSides shows what the proxies before and behind saw of an exchange.
func (rd *reader) showSides(ctx context.Context, w io.Writer, list []row) error {
	q := requestAmong(list)
	if q == nil {
		return nil
	}
	request := q.entry.Record.GetRequest()
	if id := record.FormatUUID(request.GetCaller()); id != "" {
		other, err := rd.exchange(ctx, id)
		if err != nil {
			return err
		}
		if len(other) == 0 {
			fmt.Fprintf(w, "\nsent by exchange %s, which is not in this log\n", id)
		} else if err := showSide(w, rd, "before it", other, sidesText(other, list)); err != nil {
			return err
		}
	}
	behind, err := rd.callees(ctx, q)
	if err != nil {
		return err
	}
	for _, id := range behind {
		other, err := rd.exchange(ctx, id)
		if err == nil {
			err = showSide(w, rd, "behind it", other, sidesText(list, other))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func showSide(w io.Writer, rd *reader, where string, other []row, text string) error {
	fmt.Fprintf(w, "\nthe proxy %s, %s:\n\n", where, text)
	return showText(w, rd, other)
}

// callees returns the exchanges in the same trace that name this one as their
// caller.
func (rd *reader) callees(ctx context.Context, q *row) (list []string, err error) {
	r := q.entry.Record
	trace := hex.EncodeToString(r.GetRequest().GetTrace())
	if trace == "" {
		return nil, nil
	}
	page, err := rd.Search(ctx, url.Values{"trace": {trace}, "stage": {"request"}, "limit": {"1000"}})
	if err != nil {
		return nil, err
	}
	var indices []uint64
	for _, h := range page.Records {
		if h.Index < rd.head.Size {
			indices = append(indices, h.Index)
		}
	}
	rows, err := rd.rows(ctx, indices, nil)
	for _, o := range rows {
		if o.entry.Record != nil && bytes.Equal(o.entry.Record.GetRequest().GetCaller(), r.GetExchange()) {
			list = append(list, o.view.Exchange)
		}
	}
	return list, err
}

// sidesText says whether two proxies saw the same.
func sidesText(caller, callee []row) string {
	qa, pa := requestAmong(caller), responseAmong(caller)
	qb, pb := requestAmong(callee), responseAmong(callee)
	if qa == nil || qb == nil || pa == nil || pb == nil {
		return "of which a record is missing"
	}
	asked := func(q *sealtapv1.Request, p *sealtapv1.Response) *sealtapv1.Body {
		if b := q.GetBody(); b != nil {
			return b
		}
		return p.GetRequestBody()
	}
	switch a, b := pa, pb; {
	case a.GetOutcome() != sealtapv1.Outcome_OUTCOME_COMPLETE || b.GetOutcome() != sealtapv1.Outcome_OUTCOME_COMPLETE:
		return "not to be compared: an exchange was cut short"
	case len(a.GetAttempts()) > 1:
		return "not to be compared: there was more than one attempt"
	case !sameBody(asked(qa.entry.Record.GetRequest(), a), asked(qb.entry.Record.GetRequest(), b)):
		return "which received ANOTHER REQUEST BODY than was sent to it"
	case a.GetStatus() != b.GetStatus():
		return fmt.Sprintf("where the STATUS DIFFERS: %d was sent, %d was received", b.GetStatus(), a.GetStatus())
	case !sameBody(a.GetReceived(), b.GetSent()):
		return "where the ANSWER DIFFERS from what was received"
	}
	return "same at both proxies"
}

func sameBody(a, b *sealtapv1.Body) bool {
	return a.GetSize() == b.GetSize() && bytes.Equal(a.GetSha256(), b.GetSha256())
}

// responseAmong returns the response among the records of an exchange, or nil.
func responseAmong(all []row) *sealtapv1.Response {
	for _, r := range all {
		if p := r.entry.Record.GetResponse(); p != nil {
			return p
		}
	}
	return nil
}

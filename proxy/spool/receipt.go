package spool

import (
	"context"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// defaultReceiptDelay is how soon a receipt promises its record to be in the log.
const defaultReceiptDelay = time.Hour

// RecordReceipt is [Spool.Record], and returns the producer's signed promise that
// the record exists. One signature stands under all receipts of one commit; it is
// made once the commit is durable, by the first who asks, so that no commit waits
// for it.
func (s *Spool) RecordReceipt(ctx context.Context, r *sealtapv1.Record, openings []*sealtapv1.Opening) (*record.Receipt, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b, place, err := s.put(r, openings, s.admit, true)
	if err != nil {
		return nil, err
	}
	b.sign.Do(func() { b.signed, b.signErr = record.SignPromises(b.promises, s.signer) })
	if b.signErr != nil {
		return nil, b.signErr
	}
	return b.signed.Receipt(place), nil
}

// promise adds to the batch the promise of the record that was just appended. It
// needs mu.
func (s *Spool) promise(b *batch, r *sealtapv1.Record) (place int) {
	b.promises = append(b.promises, record.Promise{
		Stream: s.stream, Sequence: r.GetSequence(), Time: r.GetTime(), Leaf: b.records[len(b.records)-1].leaf,
		Delay: uint32(s.cfg.ReceiptDelay / time.Second),
	})
	return len(b.promises) - 1
}

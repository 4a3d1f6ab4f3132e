package proxy

import (
	"context"
	"errors"
	"net/http"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// Promiser is a [Recorder] that can promise, in the name of its producer, that a
// record exists.
type Promiser interface {
	// RecordReceipt is Record, and returns the signed promise for the record.
	RecordReceipt(ctx context.Context, r *sealtapv1.Record, openings []*sealtapv1.Opening) (*record.Receipt, error)
}

var errNoPromiser = errors.New("answers are to carry receipts, and the recorder makes none")

// receipts reports whether answers of some route carry receipts.
func (c *Config) receipts() bool {
	some := c.Receipts
	for i := range c.Routes {
		some = some || c.Routes[i].Receipts
	}
	return some
}

// promised reports whether the answer carries receipts.
func (x *exchange) promised() bool {
	if x.route != nil {
		return x.route.receipts
	}
	return x.p.cfg.Receipts
}

// keep makes the record durable, and keeps the receipt where the answer is to carry
// it.
func (x *exchange) keep() error {
	if !x.promised() {
		return x.p.cfg.Recorder.Record(context.Background(), &x.st.rec, x.st.openings)
	}
	r, err := x.p.cfg.Recorder.(Promiser).RecordReceipt(context.Background(), &x.st.rec, x.st.openings)
	if err == nil {
		x.receipts = append(x.receipts, r.String())
	}
	return err
}

// showReceipts puts the receipts that there are into the head of an answer that is
// about to be sent. Of one that flows the receipt of its end follows in a trailer,
// where there can be trailers.
func (x *exchange) showReceipts(flows bool) {
	if len(x.receipts) == 0 {
		return
	}
	h := x.w.Header()
	// A copy: the server may read the head when the exchange is another one's.
	h[record.ReceiptName] = append([]string(nil), x.receipts...)
	if flows && x.trailers() && !hasToken(h["Trailer"], record.ReceiptName) {
		h.Add("Trailer", record.ReceiptName)
	}
}

// trailers reports whether an answer that flows can have trailers.
func (x *exchange) trailers() bool {
	if x.r.ProtoMajor > 1 {
		return true
	}
	_, length := x.w.Header()["Content-Length"]
	return x.r.ProtoMinor > 0 && !length && x.r.Method != http.MethodHead && bodyAllowed(x.answer.status)
}

// trailReceipt sends the receipt of the response record behind an answer that has
// flowed.
func (x *exchange) trailReceipt() {
	h := x.w.Header()
	if len(x.receipts) > 1 && hasToken(h["Trailer"], record.ReceiptName) {
		h[record.ReceiptName] = append([]string(nil), x.receipts[1:]...)
	} else {
		delete(h, record.ReceiptName)
	}
}

// MaxReceiptDelay is the longest delay that receipts can promise.
const MaxReceiptDelay = record.MaxReceiptDelay * time.Second

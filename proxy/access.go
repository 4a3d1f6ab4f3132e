package proxy

import (
	"encoding/hex"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// Access is an exchange whose response record is durable, in the words of an
// access log. It says nothing that the records do not have in the open.
type Access struct {
	Time      time.Time // of the request
	Exchange  string
	Trace     string // in hexadecimal
	Service   string
	Who       string // empty if nobody is known, or it is sealed
	Verified  bool   // who is
	Method    string
	Authority string
	Path      string // without query; empty if it is sealed
	Status    int    // 0 if there was no answer
	Outcome   string
	Bytes     uint64 // of the answer's body, as it was sent, or what a tunnel brought the client
	Duration  time.Duration
}

// ended tells those who want to know of an exchange whose response record is durable.
func (x *exchange) ended(outcome sealtapv1.Outcome, took time.Duration) {
	x.count(outcome, took)
	if x.p.cfg.Tracing.Exchange != nil {
		x.traced(outcome, took)
	}
	if x.p.cfg.Access == nil {
		return
	}
	q, w := &x.st.request, x.st.request.GetWho()
	p := &x.st.response
	bytes := p.GetSent().GetSize()
	if p.GetTunnel() != nil {
		bytes = p.GetTunnel().GetDown().GetSize()
	}
	x.p.cfg.Access(&Access{
		Time: x.start, Exchange: x.idText, Trace: hex.EncodeToString(x.trace[:]), Service: q.GetService(),
		Who: w.GetId(), Verified: w.GetVerified() && w.GetId() != "", Method: q.GetMethod(), Authority: q.GetAuthority(), Path: q.GetPath(),
		Status: x.answer.status, Outcome: record.OutcomeName(outcome), Bytes: bytes, Duration: took,
	})
}

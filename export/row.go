// Package export writes the records of a log in the forms that other tools take,
// and proves rows that come back from them.
//
// Every row bears the index of its entry and the leaf hash, so that it can be held
// against the log again, by [Verify], wherever it has been. What is exported was
// proven before; what is sealed stays sealed.
//
// Start with [New] and [Writer.Write].
package export

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// Row is a record with its facts side by side. A response bears those of its
// request too, where that was seen, with the index at which it stands. Absent
// texts are empty.
type Row struct {
	Index        uint64    `parquet:"index"`
	LeafHash     string    `parquet:"leaf_hash"`
	Stage        string    `parquet:"stage,dict"`
	Time         time.Time `parquet:"time,timestamp(nanosecond)"`
	Producer     string    `parquet:"producer,dict"`
	ProducerKey  string    `parquet:"producer_key,dict"`
	Incarnation  string    `parquet:"incarnation,dict"`
	Sequence     uint64    `parquet:"sequence"`
	Exchange     string    `parquet:"exchange"`
	RequestIndex *uint64   `parquet:"request_index,optional"` // of a response: where its request stands
	Trace        string    `parquet:"trace"`
	Who          string    `parquet:"who,dict"`
	WhoHow       string    `parquet:"who_how,dict"`
	WhoVerified  *bool     `parquet:"who_verified,optional"`
	WhoIssuer    string    `parquet:"who_issuer,dict"`
	WhoCert      string    `parquet:"who_certificate,dict"`
	WhoClaims    string    `parquet:"who_claims,dict"` // JSON
	Source       string    `parquet:"source"`
	Service      string    `parquet:"service,dict"`
	Method       string    `parquet:"method,dict"`
	Scheme       string    `parquet:"scheme,dict"`
	Authority    string    `parquet:"authority,dict"`
	Path         string    `parquet:"path"`
	Template     string    `parquet:"template,dict"`
	Query        string    `parquet:"query"`
	Protocol     string    `parquet:"protocol,dict"`
	OpProtocol   string    `parquet:"operation_protocol,dict"`
	Operation    string    `parquet:"operation,dict"`
	OpKind       string    `parquet:"operation_kind,dict"`
	OpTarget     string    `parquet:"operation_target,dict"`
	Rule         string    `parquet:"rule,dict"`
	RequestSize  *uint64   `parquet:"request_size,optional"`
	RequestSHA   string    `parquet:"request_sha256"`
	Status       *uint64   `parquet:"status,optional"`
	Outcome      string    `parquet:"outcome,dict"`
	Detail       string    `parquet:"detail,dict"`
	Attempts     *uint64   `parquet:"attempts,optional"` // where there was a choice of upstreams
	DurationNS   *uint64   `parquet:"duration_ns,optional"`
	ReceivedSize *uint64   `parquet:"received_size,optional"`
	ReceivedSHA  string    `parquet:"received_sha256"`
	SentSize     *uint64   `parquet:"sent_size,optional"`
	SentSHA      string    `parquet:"sent_sha256"`
	Sealed       string    `parquet:"sealed,dict"` // names of the fields that are commitments only
}

// cell is a value of a row under the name of its column, as text.
type cell struct{ name, text string }

// timeFormat is that of times as text: with nanoseconds, always.
const timeFormat = "2006-01-02T15:04:05.000000000Z"

// cells returns all of a row, in the order of the columns.
func (r *Row) cells() []cell {
	return []cell{
		{"index", number(&r.Index)}, {"leaf_hash", r.LeafHash}, {"stage", r.Stage}, {"time", r.Time.UTC().Format(timeFormat)},
		{"producer", r.Producer}, {"producer_key", r.ProducerKey}, {"incarnation", r.Incarnation}, {"sequence", number(&r.Sequence)},
		{"exchange", r.Exchange}, {"request_index", number(r.RequestIndex)}, {"trace", r.Trace},
		{"who", r.Who}, {"who_how", r.WhoHow}, {"who_verified", truth(r.WhoVerified)},
		{"who_issuer", r.WhoIssuer}, {"who_certificate", r.WhoCert}, {"who_claims", r.WhoClaims}, {"source", r.Source},
		{"service", r.Service}, {"method", r.Method}, {"scheme", r.Scheme}, {"authority", r.Authority}, {"path", r.Path}, {"template", r.Template}, {"query", r.Query},
		{"protocol", r.Protocol}, {"operation_protocol", r.OpProtocol}, {"operation", r.Operation}, {"operation_kind", r.OpKind}, {"operation_target", r.OpTarget},
		{"rule", r.Rule}, {"request_size", number(r.RequestSize)}, {"request_sha256", r.RequestSHA},
		{"status", number(r.Status)}, {"outcome", r.Outcome}, {"detail", r.Detail}, {"attempts", number(r.Attempts)}, {"duration_ns", number(r.DurationNS)},
		{"received_size", number(r.ReceivedSize)}, {"received_sha256", r.ReceivedSHA}, {"sent_size", number(r.SentSize)}, {"sent_sha256", r.SentSHA},
		{"sealed", r.Sealed},
	}
}

func number(n *uint64) string {
	if n == nil {
		return ""
	}
	return strconv.FormatUint(*n, 10)
}

func truth(b *bool) string {
	if b == nil {
		return ""
	}
	return strconv.FormatBool(*b)
}

// Item is a record that was proven to lie in the log.
type Item struct {
	Index uint64
	Entry record.Entry
	// Request is the request of a response, where it is known.
	Request *Item
}

// newRow describes an item. name gives the name of a producer's key.
func newRow(it Item, name func(keys.ID) string) *Row {
	r := it.Entry.Record
	row := &Row{
		Index: it.Index, LeafHash: b64(it.Entry.Leaf[:]), Stage: r.Stage(), Time: time.Unix(0, r.GetTime()).UTC(),
		Producer: name(r.Stream.Producer), ProducerKey: r.Stream.Producer.String(), Incarnation: r.Stream.Incarnation.String(),
		Sequence: r.GetSequence(), Exchange: record.FormatUUID(r.GetExchange()),
	}
	if it.Request != nil {
		row.RequestIndex = &it.Request.Index
		row.request(it.Request.Entry)
	}
	row.request(it.Entry)
	if p := r.GetResponse(); p != nil {
		row.response(p)
	}
	return row
}

// request adds what a request says.
func (row *Row) request(e record.Entry) {
	for _, s := range e.Record.GetSealed() {
		if f := s.GetField(); !strings.Contains(" "+row.Sealed+" ", " "+f+" ") {
			row.Sealed = strings.TrimSpace(row.Sealed + " " + f)
		}
	}
	q := e.Record.GetRequest()
	if q == nil {
		return
	}
	row.Trace = hex.EncodeToString(q.GetTrace())
	if w := q.GetWho(); w != nil {
		verified := w.GetVerified()
		row.Who, row.WhoHow, row.WhoVerified = w.GetId(), w.GetHow(), &verified
		row.WhoIssuer, row.WhoClaims = w.GetIssuer(), claims(e.Record, w.GetClaims())
		if c := w.GetCertificate(); len(c) > 0 {
			row.WhoCert = b64(c)
		}
	}
	row.Source, row.Service, row.Method, row.Scheme, row.Authority = q.GetSource(), q.GetService(), q.GetMethod(), q.GetScheme(), q.GetAuthority()
	row.Path, row.Template, row.Query, row.Protocol = q.GetPath(), q.GetTemplate(), q.GetQuery(), q.GetProtocol()
	o := q.GetOperation()
	row.OpProtocol, row.Operation, row.OpKind, row.OpTarget = o.GetProtocol(), o.GetName(), o.GetKind(), o.GetTarget()
	row.Rule = q.GetDecision().GetRule()
	row.RequestSize, row.RequestSHA = body(q.GetBody())
}

func (row *Row) response(p *sealtapv1.Response) {
	if b := p.GetRequestBody(); b != nil {
		row.RequestSize, row.RequestSHA = body(b)
	}
	if s := uint64(p.GetStatus()); s != 0 {
		row.Status = &s
	}
	took := p.GetDurationNs()
	row.Outcome, row.DurationNS = record.OutcomeName(p.GetOutcome()), &took
	row.Detail = p.GetDetail()
	if n := uint64(len(p.GetAttempts())); n > 0 {
		row.Attempts = &n
	}
	row.ReceivedSize, row.ReceivedSHA = body(p.GetReceived())
	row.SentSize, row.SentSHA = body(p.GetSent())
}

// claims are a list in JSON. Of sealed ones only the names are known.
func claims(r *record.Record, list []*sealtapv1.Claim) string {
	if len(list) == 0 {
		return ""
	}
	sealed := slices.ContainsFunc(r.GetSealed(), func(s *sealtapv1.SealedField) bool { return s.GetField() == record.FieldClaims })
	type claim struct {
		Name  string  `json:"name"`
		Value *string `json:"value,omitempty"`
	}
	out := make([]claim, len(list))
	for i, c := range list {
		if out[i].Name = c.GetName(); !sealed {
			value := c.GetValue()
			out[i].Value = &value
		}
	}
	b, _ := json.Marshal(out) // cannot fail
	return string(b)
}

func body(b *sealtapv1.Body) (*uint64, string) {
	if b == nil {
		return nil, ""
	}
	size := b.GetSize()
	return &size, b64(b.GetSha256())
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

package proxy

import (
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// exchangeHeader names an exchange to the next proxy, and to the client.
const exchangeHeader = "Sealtap-Exchange"

// captureCaller records the exchange of the proxy that sent the request on, so that
// an audit can compare what both saw. Only a trusted peer can say it: anybody else
// could claim somebody else's.
func (x *exchange) captureCaller(q *sealtapv1.Request) {
	v := x.r.Header[exchangeHeader]
	if !x.trusted || len(v) != 1 {
		return
	}
	if id, err := record.ParseUUID(v[0]); err == nil {
		x.caller = id
		q.Caller = x.caller[:]
	}
}

package proxy

import (
	"encoding/base64"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// claim is what a token says of its holder.
type claim struct{ name, value string }

// captureWho records who a request comes from. Where "who" is sealed, all that
// would tell it is: the certificate and its issuer, who may be the holder, and
// the values of claims.
func (x *exchange) captureWho(q *sealtapv1.Request) {
	s := &x.st
	w := &s.who
	w.Reset()
	found := x.identity()
	if found.id == "" {
		return
	}
	q.Who = w
	w.How, w.Verified = found.how, found.verified
	id, issuer := capped(found.id, maxWho), ""
	if found.issuer != "" {
		issuer = capped(found.issuer, maxIssuer)
	}
	s.claims = s.claims[:0]
	if !x.p.seal.who {
		w.Id, w.Issuer, w.Certificate = id, issuer, found.certificate
		for _, c := range found.claims {
			s.claim(c.name, c.value)
		}
		w.Claims = s.claims
		return
	}
	s.sealString(record.FieldWho, id)
	if found.certificate != nil {
		s.sealString(record.FieldCertificate, base64.StdEncoding.EncodeToString(found.certificate))
	}
	if issuer != "" {
		s.sealString(record.FieldIssuer, issuer)
	}
	if len(found.claims) > 0 {
		s.hiddenClaims = s.hiddenClaims[:0]
		for _, c := range found.claims {
			s.claim(c.name, "")
			s.hiddenClaims = record.AppendList(s.hiddenClaims, c.value)
		}
		w.Claims = s.claims
		s.seal(record.FieldClaims, record.TypeList, s.hiddenClaims)
	}
}

func (s *statement) claim(name, value string) {
	c := &s.claimSlab[len(s.claims)]
	c.Name, c.Value = name, value
	s.claims = append(s.claims, c)
}

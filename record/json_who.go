package record

import (
	"maps"
	"slices"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

type whoView struct {
	ID          *Value           `json:"id,omitempty"`
	How         string           `json:"how"`
	Verified    bool             `json:"verified"`
	Certificate *Value           `json:"certificate_sha256,omitempty"`
	Issuer      *Value           `json:"issuer,omitempty"`
	Claims      map[string]Value `json:"claims,omitempty"`
}

// newWhoView shows who a request came from. Like those of headers, the values of
// claims are sealed as one list.
func newWhoView(w *sealtapv1.Who, sealed map[string]*Value) *whoView {
	v := &whoView{
		ID: pick(w.GetId(), sealed[FieldWho]), How: w.GetHow(), Verified: w.GetVerified(),
		Certificate: pick(b64(w.GetCertificate()), sealed[FieldCertificate]), Issuer: pick(w.GetIssuer(), sealed[FieldIssuer]),
	}
	group := sealed[FieldClaims]
	var shown []string
	if group != nil && group.Shown != nil {
		shown, _ = SplitList([]byte(*group.Shown))
	}
	for i, c := range w.GetClaims() {
		val := Value{Open: c.GetValue()}
		if group != nil {
			if val = (Value{Sealed: group.Sealed}); i < len(shown) {
				val.Shown = &shown[i]
			}
		}
		if v.Claims == nil {
			v.Claims = make(map[string]Value)
		}
		v.Claims[c.GetName()] = val
	}
	return v
}

// WhoFact is something that is known of who a request came from, beside the name.
type WhoFact struct {
	Name  string
	Value Value
}

// WhoFacts returns certificate, issuer and claims of a request, as far as they
// are there.
func (v *View) WhoFacts() (list []WhoFact) {
	w, ok := v.Who.(*whoView)
	if !ok {
		return nil
	}
	if w.Certificate != nil {
		list = append(list, WhoFact{"certificate", *w.Certificate})
	}
	if w.Issuer != nil {
		list = append(list, WhoFact{"issuer", *w.Issuer})
	}
	for _, name := range slices.Sorted(maps.Keys(w.Claims)) {
		list = append(list, WhoFact{"claim " + name, w.Claims[name]})
	}
	return list
}

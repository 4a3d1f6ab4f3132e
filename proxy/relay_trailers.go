package proxy

import (
	"net/http"
)

// captureTrailers records the trailers of the answer behind its headers.
func (x *exchange) captureTrailers(res *http.Response) {
	if len(res.Trailer) > 0 {
		x.captureHeaders(res.Trailer, "trailer:", nil)
		x.trailerChanges(res.Trailer)
	}
}

// announceTrailers names those that came unannounced: an answer that is whole
// would else be given a length, behind which no trailer can stand.
func (x *exchange) announceTrailers(res *http.Response) {
	h := x.w.Header()
	for name, values := range res.Trailer {
		if len(values) > 0 && x.p.headers.trails(name) && !hasToken(h["Trailer"], name) {
			h.Add("Trailer", name)
		}
	}
}

func (x *exchange) sendTrailers(res *http.Response) {
	h := x.w.Header()
	announced := h["Trailer"]
	for name, values := range res.Trailer {
		switch {
		case len(values) == 0 || !x.p.headers.trails(name):
		case hasToken(announced, name):
			h[name] = values
		default:
			h[http.TrailerPrefix+name] = values
		}
	}
}

// trailerValues is what of the trailers of a request goes on.
func (x *exchange) trailerValues(dst http.Header) {
	for name := range dst {
		if v := x.r.Trailer[name]; len(v) > 0 {
			dst[name] = v
		}
	}
}

// trailer announces the trailers of a request that may go on.
func (x *exchange) trailer() http.Header {
	if len(x.r.Trailer) == 0 {
		return nil
	}
	t := make(http.Header, len(x.r.Trailer))
	for name := range x.r.Trailer {
		rule := x.p.headers.of(name)
		if rule.fate == fatePass && rule.class != classCredential && rule.class != classCookie && !x.p.headers.shadowed(name, x.r.Header) {
			t[name] = nil
		}
	}
	return t
}

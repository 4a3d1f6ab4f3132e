package proxy

import (
	"net/http"
)

// captureStreamedTrailers records, in the response record, the trailers of a request
// whose body was streamed. It is stopped by then.
func (x *exchange) captureStreamedTrailers() {
	s := x.body.stream
	s.mu.Lock()
	t := s.trailers
	s.mu.Unlock()
	if len(t) == 0 {
		return
	}
	const prefix = "request-trailer:"
	x.captureHeaders(t, prefix, nil)
	var sent http.Header
	if x.tries != nil {
		sent = x.tries.out.Trailer
	}
	if x.answer.major == 1 && x.r.ContentLength > 0 {
		sent = nil // HTTP/1 has no place for them behind a body with a length
	}
	for _, name := range sortedNames(t) {
		if _, ok := sent[name]; !ok && len(t[name]) > 0 {
			x.st.changed(removed, prefix+x.p.headers.of(name).lower)
		}
	}
}

// captureTrailers records the trailers of the answer behind its headers.
func (x *exchange) captureTrailers(res *http.Response) {
	if len(res.Trailer) > 0 {
		x.captureHeaders(res.Trailer, "trailer:", nil)
		x.trailerChanges(res.Trailer, x.trailers())
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
		case !x.p.headers.trails(name):
		case len(values) == 0:
			delete(h, name) // else the server takes a header of that name for the trailer that did not come
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

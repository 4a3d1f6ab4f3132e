package proxy

import (
	"fmt"
	"net/http"
	"net/textproto"
	"strings"
)

// headerClass says how the value of a header is recorded.
type headerClass uint8

const (
	classSealed     headerClass = iota
	classOpen                   // in plain, in the entry
	classCredential             // as a keyed digest
	classCookie                 // each cookie as a keyed digest
	classSetCookie
	classProtocols // sealed, but for elements that may be tokens
)

// headerFate says what becomes of a header of a request on its way on.
type headerFate uint8

const (
	fatePass  headerFate = iota
	fateHop              // ends here (RFC 9110, section 7.6.1)
	fatePeer             // passes from trusted peers only
	fateOwned            // the proxy's own: never passes from anyone
)

type headerRule struct {
	lower string
	class headerClass
	fate  headerFate
}

// headerRules holds what is known of headers by their canonical names.
type headerRules struct {
	rules map[string]headerRule
	user  string // canonical
}

// DefaultOpenHeaders returns the headers whose values stand open in records:
// those that tell about the message and not about a person.
func DefaultOpenHeaders() []string {
	return []string{"Accept", "Content-Encoding", "Content-Length", "Content-Type", "Grpc-Status", "Range", "Content-Range", "Retry-After", "Upgrade", "User-Agent"}
}

func newHeaderRules(open []string, user string) (*headerRules, error) {
	h := &headerRules{rules: make(map[string]headerRule)}
	set := func(f func(*headerRule), names ...string) {
		for _, name := range names {
			name = http.CanonicalHeaderKey(name)
			r, ok := h.rules[name]
			if !ok {
				r = guessRule(name)
			}
			f(&r)
			h.rules[name] = r
		}
	}
	class := func(c headerClass) func(*headerRule) { return func(r *headerRule) { r.class = c } }
	fate := func(f headerFate) func(*headerRule) { return func(r *headerRule) { r.fate = f } }
	// Common names only spare the work of guessRule.
	set(func(*headerRule) {}, "Accept-Encoding", "Accept-Language", "Cache-Control", "Date", "Etag", "Expires", "If-Modified-Since", "If-None-Match",
		"Last-Modified", "Location", "Origin", "Pragma", "Referer", "Server", "Traceparent", "Tracestate", "Vary", "Via", "X-Request-Id")
	set(class(classOpen), DefaultOpenHeaders()...)
	set(class(classOpen), open...)
	set(class(classCredential), "Authorization", "Proxy-Authorization", "X-Api-Key", "Api-Key", "X-Auth-Token", "X-Csrf-Token", "X-Xsrf-Token",
		"X-Amz-Security-Token", "X-Goog-Api-Key", "X-Goog-Iap-Jwt-Assertion", "X-Vault-Token", "Private-Token", "Ocp-Apim-Subscription-Key")
	set(class(classCookie), "Cookie")
	set(class(classSetCookie), "Set-Cookie")
	set(class(classProtocols), "Sec-Websocket-Protocol")
	set(fate(fateHop), "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade", "Http2-Settings", "Content-Length", "Expect", "Host")
	set(fate(fatePeer), "Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-User",
		"X-Real-Ip", "X-Client-Ip", "True-Client-Ip", "X-Cluster-Client-Ip")
	set(fate(fateOwned), "Sealtap-Exchange", "Sealtap-Error", "Sealtap-Unrecorded")
	for _, name := range open {
		name = http.CanonicalHeaderKey(name)
		if h.rules[name].class != classOpen || guessRule(name).class == classCredential {
			return nil, fmt.Errorf("%w: header %q carries credentials, and cannot stand open", ErrConfig, name)
		}
	}
	if user != "" {
		if !validName(user) {
			return nil, fmt.Errorf("%w: %q is not the name of a header", ErrConfig, user)
		}
		h.user = http.CanonicalHeaderKey(user)
		set(fate(fatePeer), user)
	}
	return h, nil
}

// carryCredentials has the values of headers recorded as credentials. An empty
// name is no header.
func (h *headerRules) carryCredentials(names ...string) error {
	for _, name := range names {
		if name == "" {
			continue
		}
		r := h.of(name)
		if r.class == classOpen || name == h.user {
			return fmt.Errorf("%w: header %q carries credentials, and cannot stand open", ErrConfig, name)
		}
		r.class = classCredential
		h.rules[name] = r
	}
	return nil
}

// validName reports whether s is a token (RFC 9110, section 5.6.2).
func validName(s string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z'
		if !alnum && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

func (h *headerRules) of(name string) headerRule {
	if r, ok := h.rules[name]; ok {
		return r
	}
	return guessRule(name)
}

// guessRule is the rule of a header that nothing is known of but its name.
func guessRule(name string) headerRule {
	r := headerRule{lower: strings.ToLower(name)}
	if secretName(r.lower) && !strings.HasPrefix(r.lower, "sec-websocket-") {
		r.class = classCredential
	}
	switch {
	case strings.HasPrefix(r.lower, "x-forwarded-"):
		r.fate = fatePeer
	case strings.HasPrefix(r.lower, "sealtap-"):
		r.fate = fateOwned
	}
	return r
}

// trails reports whether a trailer of an answer passes. One that does not is not
// announced either: the server repeats behind the body what the head has of the
// names that are announced, and there a receipt of the head counts as a second one.
func (h *headerRules) trails(name string) bool {
	fate := h.of(name).fate
	return fate != fateHop && fate != fateOwned
}

// shadowed reports whether a name with underscores stands, to upstreams that
// make variables of names, for a header that is present, or that the proxy
// strips or sets.
func (h *headerRules) shadowed(name string, in http.Header) bool {
	if !strings.Contains(name, "_") {
		return false
	}
	plain := textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-"))
	if _, ok := in[plain]; ok {
		return true
	}
	switch plain {
	case "Traceparent", "Tracestate", "Via":
		return true
	}
	return h.of(plain).fate != fatePass
}

// connectionTokens calls f with each canonical name in Connection.
func connectionTokens(values []string, f func(name string)) {
	for _, v := range values {
		for v != "" {
			var token string
			token, v, _ = strings.Cut(v, ",")
			if token = textproto.TrimString(token); token != "" {
				f(http.CanonicalHeaderKey(token))
			}
		}
	}
}

// removeNamed deletes the headers that Connection names.
func removeNamed(h http.Header, connection []string) {
	connectionTokens(connection, func(name string) { delete(h, name) })
}

func hasToken(values []string, token string) bool {
	for _, v := range values {
		for v != "" {
			var t string
			t, v, _ = strings.Cut(v, ",")
			if strings.EqualFold(textproto.TrimString(t), token) {
				return true
			}
		}
	}
	return false
}

// wantsWebSocket reports whether a request asks for a WebSocket (RFC 6455,
// section 4.1). Every other upgrade is ignored, as RFC 9110, section 7.8 allows:
// what comes behind one could not be recorded.
func wantsWebSocket(r *http.Request) bool {
	return r.ProtoMajor == 1 && r.ProtoMinor >= 1 && r.Method == http.MethodGet && r.ContentLength == 0 && len(r.TransferEncoding) == 0 &&
		hasToken(r.Header["Connection"], "upgrade") && hasToken(r.Header["Upgrade"], "websocket")
}

// forwardHeaders turns the headers of a request, which are recorded by now, into
// those that go to the upstream. drop lists what captureRequest found to end
// here.
func (x *exchange) forwardHeaders(upgrade bool) http.Header {
	h := x.r.Header
	connection, trailers := h["Connection"], hasToken(h["Te"], "trailers")
	expect := h["Expect"]
	via := h["Via"]
	for _, name := range x.drop {
		delete(h, name)
	}
	removeNamed(h, connection)
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = nil // else the transport sends its own
	}
	// The slices outlive the exchange if the transport does, so they are not
	// taken from a pool.
	v := new([10]string)
	at := 0
	set := func(name, value string) {
		v[at] = value
		h[name] = v[at : at+1 : at+1]
		at++
	}
	if !x.unrecorded {
		set("Sealtap-Exchange", x.idText)
	}
	if x.newTrace != "" {
		set("Traceparent", x.newTrace)
		delete(h, "Tracestate")
	}
	if trailers {
		set("Te", "trailers")
	}
	if len(expect) > 0 && x.body.kind == bodyStreamed {
		set("Expect", "100-continue")
	}
	if upgrade {
		set("Connection", "Upgrade")
		set("Upgrade", "websocket")
	}
	if len(via) == 0 || h["Via"] == nil {
		set("Via", viaValue(x.r.ProtoMajor))
	} else {
		h["Via"] = append(via[:len(via):len(via)], viaValue(x.r.ProtoMajor))
	}
	if x.p.reverse() {
		x.setForwarded(h, set)
	}
	return h
}

func viaValue(major int) string {
	if major == 2 {
		return "2.0 sealtap"
	}
	return "1.1 sealtap"
}

// setForwarded tells the upstream of a reverse proxy whom it answers.
func (x *exchange) setForwarded(h http.Header, set func(name, value string)) {
	peer := x.conn.addr.Addr().String()
	if !x.conn.addr.IsValid() {
		peer = "unknown"
	}
	if prior := h["X-Forwarded-For"]; len(prior) > 0 {
		peer = strings.Join(prior, ", ") + ", " + peer
	}
	set("X-Forwarded-For", peer)
	if len(h["X-Forwarded-Proto"]) == 0 {
		set("X-Forwarded-Proto", x.scheme())
	}
	if len(h["X-Forwarded-Host"]) == 0 {
		set("X-Forwarded-Host", x.r.Host)
	}
}

func (x *exchange) scheme() string {
	if x.r.TLS != nil || x.conn.inside != nil {
		return "https"
	}
	return "http"
}

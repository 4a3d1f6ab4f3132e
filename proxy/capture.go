package proxy

import (
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"slices"
	"strconv"
	"strings"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// statement is a record under construction, with everything it points to. It is
// used for one record after the other.
type statement struct {
	rec      sealtapv1.Record
	request  sealtapv1.Request
	response sealtapv1.Response
	asked    sealtapv1.Record_Request
	answered sealtapv1.Record_Response
	who      sealtapv1.Who

	headers     []*sealtapv1.Header
	credentials []*sealtapv1.Credential
	secrets     []byte // those that are too many, each behind its length
	changes     []*sealtapv1.Change
	openings    []*sealtapv1.Opening

	hidden     []byte // the values of sealed headers, as a list
	hiddenSize int    // bytes of them so far
	hiddenSome bool
	open       int // bytes of open values so far
	omitted    []byte

	headerSlab  [40]sealtapv1.Header
	credSlab    [8]sealtapv1.Credential
	credSums    [8][sha256.Size]byte
	openingSlab [8]sealtapv1.Opening
	values      [7][]byte // of openings of type string
	bodies      [3]sealtapv1.Body
	sums        [3][sha256.Size]byte
	tunnel      sealtapv1.Tunnel
	operation   sealtapv1.Operation
	keys        []string // of a header, sorted
	attempts    [2]sealtapv1.Attempt
	changeSlab  [8]sealtapv1.Change

	claims       []*sealtapv1.Claim
	claimSlab    [maxClaims]sealtapv1.Claim
	hiddenClaims []byte // the values of sealed claims, as a list
}

// reset makes room for the next record.
func (s *statement) reset() {
	s.headers, s.credentials, s.openings, s.changes = s.headers[:0], s.credentials[:0], s.openings[:0], s.changes[:0]
	s.secrets = s.secrets[:0]
	s.hidden, s.hiddenSize, s.hiddenSome, s.open, s.omitted = s.hidden[:0], 0, false, 0, s.omitted[:0]
}

func (s *statement) header(name, value string, sealed bool) {
	var h *sealtapv1.Header
	if n := len(s.headers); n < len(s.headerSlab) {
		h = &s.headerSlab[n]
	} else {
		h = new(sealtapv1.Header)
	}
	h.Name, h.Value, h.Sealed = name, value, sealed
	s.headers = append(s.headers, h)
}

func (s *statement) seal(field, typ string, value []byte) {
	o := &s.openingSlab[len(s.openings)]
	o.Field, o.Type, o.Salt, o.Value = field, typ, nil, value
	s.openings = append(s.openings, o)
}

func (s *statement) sealString(field, value string) {
	if len(value) > maxSealedText {
		value = capped(value, maxSealedText)
	}
	v := &s.values[len(s.openings)]
	*v = append((*v)[:0], value...)
	s.seal(field, record.TypeString, *v)
}

// body returns one of the bodies of a record.
func (s *statement) body(i int, size uint64, sum [sha256.Size]byte) *sealtapv1.Body {
	s.sums[i] = sum
	b := &s.bodies[i]
	b.Size, b.Sha256 = size, s.sums[i][:]
	return b
}

// credential adds the keyed digest of a secret. Those beyond a limit are kept for the
// last one, which stands for all of them: a digest of each would let a client with
// thousands of cookies keep a processor busy.
func (x *exchange) credential(kind, name, secret string) {
	s := &x.st
	n := len(s.credentials)
	if n == maxCredentials {
		s.secrets = append(binary.AppendUvarint(s.secrets, uint64(len(secret))), secret...)
		return
	}
	var c *sealtapv1.Credential
	if n < len(s.credSlab) {
		c = &s.credSlab[n]
		c.Digest = x.p.digests.sum(s.credSums[n][:0], secret)
	} else {
		c = &sealtapv1.Credential{Digest: x.p.digests.sum(nil, secret)}
	}
	c.Place = kind
	if name != "" {
		c.Place = capped(kind+":"+name, maxPlace)
	}
	s.credentials = append(s.credentials, c)
}

// allCredentials returns the credentials of the record.
func (x *exchange) allCredentials() []*sealtapv1.Credential {
	s := &x.st
	if len(s.secrets) > 0 {
		last := s.credentials[len(s.credentials)-1]
		last.Place = "others"
		last.Digest = x.p.digests.sum(nil, string(last.Digest)+string(s.secrets))
		clear(s.secrets)
		s.secrets = s.secrets[:0]
	}
	return s.credentials
}

// captureHeaders records headers as they were received. f, if there is one,
// learns of each name.
func (x *exchange) captureHeaders(h http.Header, prefix string, f func(name string, rule headerRule)) {
	s := &x.st
	s.keys = s.keys[:0]
	for name := range h {
		s.keys = append(s.keys, name)
	}
	slices.Sort(s.keys)
	for _, name := range s.keys {
		rule := x.p.headers.of(name)
		for _, value := range h[name] {
			x.captureHeader(prefix, rule, value)
		}
		if f != nil {
			f(name, rule)
		}
	}
}

func (x *exchange) captureHeader(prefix string, rule headerRule, value string) {
	s := &x.st
	name := rule.lower
	if prefix != "" {
		name = prefix + name
	}
	name = capped(name, maxHeaderName)
	switch rule.class {
	case classCredential:
		x.credential("header", name, bareSecret(value))
		return
	case classCookie:
		x.captureCookies(name, value)
		return
	case classSetCookie:
		pair, _, _ := strings.Cut(value, ";")
		x.captureCookies(name, pair)
		return
	case classProtocols:
		value = x.redactProtocols(name, value)
	}
	if suspicious(value) {
		value = x.redactHeader(name, value)
	}
	if len(s.headers) >= maxHeaderLines {
		// One sealed element holds the lines that are too many.
		s.omitted = append(append(append(append(s.omitted, name...), ": "...), value...), '\n')
		return
	}
	if rule.class == classOpen || !x.p.seal.headers {
		if v := capped(value, maxHeaderValue); s.open+len(v) <= maxOpenValues {
			s.open += len(v)
			s.header(name, v, false)
			return
		}
	}
	s.hide(name, value)
}

func (s *statement) hide(name, value string) {
	if room := max(maxSealedHeaders-s.hiddenSize, maxSealedStub); len(value) > room {
		value = capped(value, room)
	}
	s.hiddenSize += len(value)
	s.header(name, "", true)
	s.hidden = record.AppendList(s.hidden, value)
	s.hiddenSome = true
}

// sealHeaders ends the headers of a record.
func (s *statement) sealHeaders() {
	if len(s.omitted) > 0 {
		s.hide("…", string(s.omitted))
	}
	if s.hiddenSome {
		s.seal(record.FieldHeaders, record.TypeList, s.hidden)
	}
}

// redactHeader replaces the secrets in a header that holds a URL, parameters or JSON.
func (x *exchange) redactHeader(name, value string) string {
	if i := strings.LastIndexByte(value, '@'); i >= 0 && name == "host" { // of a request that is refused
		x.credential("header", "host:userinfo", unescapePath(value[:i]))
		value = redacted + value[i:]
	}
	if looksLikeToken(value) || secretMember(value) ||
		!strings.Contains(value, "=") && strings.Contains(value, "%") && nestedSecret(unescapeValue(value), 2) {
		x.credential("header", name, value)
		return redacted
	}
	return redactText(value, func(param, secret string) { x.credential("header", within(name, param), secret) })
}

// captureCookies records each cookie by the digest of its value, so that it is
// recognised whatever other cookies stand beside it, and when it was set.
func (x *exchange) captureCookies(place, value string) {
	for value != "" {
		var pair string
		pair, value, _ = strings.Cut(value, ";")
		pair = strings.TrimSpace(pair)
		name, secret, ok := strings.Cut(pair, "=")
		switch {
		case pair == "":
		case !ok, strings.Trim(secret, "=") == "": // what is no name may be base64
			x.credential("header", place, pair)
		default:
			x.credential("header", within(place, name), strings.Trim(secret, `"`))
		}
	}
}

// redactProtocols replaces elements of Sec-WebSocket-Protocol that are too long
// for the name of a protocol: browsers can send tokens nowhere else.
func (x *exchange) redactProtocols(name, value string) string {
	const longest = 32
	if len(value) <= longest {
		return value
	}
	list := strings.Split(value, ",")
	for i, e := range list {
		if e = strings.TrimSpace(e); len(e) > longest {
			x.credential("header", name, e)
			list[i] = redacted
		}
	}
	return strings.Join(list, ",")
}

// captureRequest makes the request record of an exchange, but for its body. It
// reads the request as it was received.
func (x *exchange) captureRequest() {
	s, r := &x.st, x.r
	s.reset()
	q := &s.request
	q.Reset()
	x.captureWho(q)
	q.Trace = x.trace[:]
	q.Method, q.Protocol = capped(r.Method, maxMethod), protocolName(r)
	x.captureRoute(q)
	if r.Method != http.MethodConnect && x.conn.socks == nil {
		q.Scheme = x.scheme()
		if r.URL.IsAbs() {
			q.Scheme = capped(r.URL.Scheme, maxMethod)
		}
	}
	x.captureTarget(q)
	x.captureSource(q)
	x.captureHeaders(r.Header, "", x.decide)
	if x.body.kind == bodyBuffered {
		x.captureHeaders(r.Trailer, "trailer:", nil)
	}
	x.captureVerdict(q)
	s.sealHeaders()
	x.captureCaller(q)
	x.requestChanges(q)
	q.Headers, q.Credentials = s.headers, x.allCredentials()
	s.asked.Request = q
	s.rec.Reset()
	s.rec.About = &s.asked
}

func (x *exchange) captureSource(q *sealtapv1.Request) {
	src := x.source()
	if src == "" {
		return
	}
	if x.p.seal.source {
		x.st.sealString(record.FieldSource, src)
		return
	}
	q.Source = capped(src, maxAuthority)
}

// captureTarget records authority, path and query, with their secrets replaced.
func (x *exchange) captureTarget(q *sealtapv1.Request) {
	authority, path, query := x.target()
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		x.credential("url", "userinfo", unescapePath(authority[:i]))
		authority = authority[i+1:]
	}
	if u := x.r.URL.User; u != nil {
		x.credential("url", "userinfo", unescapePath(u.String()))
	}
	q.Authority = capped(authority, maxAuthority)
	if suspicious(path) {
		path = redactText(path, func(name, secret string) { x.credential("path", placeName(name), secret) })
	}
	if path != "" {
		if x.sealsPath() {
			x.st.sealString(record.FieldPath, path)
		} else {
			q.Path = capped(path, maxPath)
		}
	}
	x.captureOperation(q, path, query)
	query = redactQuery(query, func(name, secret string) { x.credential("query", placeName(name), secret) })
	if query != "" {
		if x.p.seal.query {
			x.st.sealString(record.FieldQuery, query)
		} else {
			q.Query = capped(query, maxQuery)
		}
	}
}

// target splits the request target as it was received.
func (x *exchange) target() (authority, path, query string) {
	r := x.r
	if r.Method == http.MethodConnect && r.URL.Path == "" {
		return r.Host, "", ""
	}
	path = r.RequestURI
	if r.URL.Host != "" && !strings.HasPrefix(path, "/") { // absolute form
		_, path, _ = strings.Cut(path, "://")
		if i := strings.IndexAny(path, "/?"); i >= 0 {
			path = path[i:]
		} else {
			path = ""
		}
	}
	path, query, _ = strings.Cut(path, "?")
	return r.Host, path, query
}

// decide notes which headers of a request do not pass.
func (x *exchange) decide(name string, rule headerRule) {
	switch {
	case rule.fate == fateHop, rule.fate == fateOwned, rule.fate == fatePeer && !x.trusted, x.p.headers.shadowed(name, x.r.Header):
		x.drop = append(x.drop, name)
	}
}

func protocolName(r *http.Request) string {
	switch {
	case r.Proto == protoSOCKS:
		return protoSOCKS
	case r.ProtoMajor == 0:
		return "" // of a request that was refused before that was known
	case r.ProtoMajor == 1 && r.ProtoMinor == 1:
		return "HTTP/1.1"
	case r.ProtoMajor == 1:
		return "HTTP/1.0"
	}
	return "HTTP/" + strconv.Itoa(r.ProtoMajor) + "." + strconv.Itoa(r.ProtoMinor)
}

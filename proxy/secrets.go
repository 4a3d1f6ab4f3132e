package proxy

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"net/url"
	"strings"
	"sync"
)

// redacted stands where a secret stood.
const redacted = "REDACTED"

// digester makes the digests by which credentials are recognised: HMAC-SHA-256
// over the bare secret, whatever place it came in.
type digester struct{ pool sync.Pool }

func newDigester(key []byte) *digester {
	key = append([]byte(nil), key...)
	d := new(digester)
	d.pool.New = func() any { return hmac.New(sha256.New, key) }
	return d
}

func (d *digester) sum(dst []byte, secret string) []byte {
	h := d.pool.Get().(hash.Hash)
	defer d.pool.Put(h)
	h.Reset()
	// A short secret does not escape to the heap; a long one is cut up.
	var buf [128]byte
	for len(secret) > 0 {
		n := copy(buf[:], secret)
		h.Write(buf[:n])
		secret = secret[n:]
	}
	return h.Sum(dst)
}

// bareSecret strips from the value of a credential header what is not secret,
// so that a token is recognised in a header, a cookie and a query alike: the
// scheme, and the encoding of a Basic user name and password.
func bareSecret(value string) string {
	value = strings.TrimSpace(value)
	scheme, rest, ok := strings.Cut(value, " ")
	if !ok {
		return value
	}
	rest = strings.TrimSpace(rest)
	switch {
	case strings.EqualFold(scheme, "basic"):
		if plain, err := base64.StdEncoding.DecodeString(rest); err == nil {
			return string(plain)
		}
		return rest
	case strings.ContainsAny(rest, " ,="):
		// More than one token, such as Digest or AWS4-HMAC-SHA256: a padded
		// token68 ends in "=" and has none elsewhere.
		if strings.ContainsAny(strings.TrimRight(rest, "="), " ,=") {
			return value
		}
	}
	return rest
}

// secretName reports whether a parameter or header of this name is likely to
// carry a secret. Too many is the right side to err on: a redacted value can
// still be recognised by its digest.
func secretName(name string) bool {
	for range 3 {
		if !strings.ContainsAny(name, "%+") {
			break
		}
		plain, err := url.QueryUnescape(name)
		if err != nil {
			plain = unescapeLoosely(name)
		}
		if plain == name {
			break
		}
		name = plain
	}
	var buf [64]byte
	flat := buf[:0] // letters and digits only, lower case
	last := 0       // where the last word starts
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			flat = append(flat, c)
		case 'A' <= c && c <= 'Z':
			flat = append(flat, c|0x20)
		case c == ']' || c == '[' && i+1 < len(name) && name[i+1] == ']':
			// "a[b]" and "a[]" end in b and in a.
		default:
			last = len(flat)
		}
	}
	return secretWord(string(flat)) || last > 0 && secretEnding(string(flat[last:]))
}

// secretEnding reports whether a name of several words that ends in w is likely
// to be a secret's. "country_code" is not.
func secretEnding(w string) bool {
	switch w {
	case "key", "auth", "authentication", "pass", "pwd", "pw", "sig", "sid", "otp", "totp", "hmac":
		return true
	}
	return false
}

func secretWord(w string) bool {
	switch w {
	case "code", "key", "auth", "authentication", "pwd", "pass", "pw", "sig", "sid", "otp", "totp", "pin", "hmac", "ticket", "cookie":
		return true
	}
	if len(w) < 3 {
		return false
	}
	for _, part := range [...]string{
		"token", "secret", "passw", "passphrase", "passcode", "authorization", "codeverifier", "apikey", "accesskey", "privatekey", "authkey", "appkey", "subscriptionkey", "sharedkey",
		"signature", "credential", "session", "sessid", "jwt", "bearer", "authcode", "assertion", "samlresponse", "cookie",
	} {
		if strings.Contains(w, part) {
			return true
		}
	}
	return false
}

// unescapeLoosely decodes what can be decoded of a badly escaped string.
func unescapeLoosely(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := url.PathUnescape(s[i : i+3]); err == nil {
				b.WriteString(c)
				i += 2
				continue
			}
		}
		if s[i] == '+' {
			b.WriteByte(' ')
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func unescapeValue(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	if plain, err := url.QueryUnescape(s); err == nil {
		return plain
	}
	return unescapeLoosely(s)
}

// foundFunc is told of a secret: the name of its parameter and its value.
type foundFunc func(name, secret string)

// redactQuery replaces the values of parameters that are likely to be secret,
// in a query as it stood in a request. Both "&" and ";" separate, since
// upstreams differ.
func redactQuery(query string, found foundFunc) string {
	if query == "" {
		return query
	}
	var out strings.Builder // stays empty until something is replaced
	done := 0
	for start := 0; start <= len(query); {
		end := len(query)
		if i := strings.IndexAny(query[start:], "&;"); i >= 0 {
			end = start + i
		}
		pair := query[start:end]
		switch name, value, _ := strings.Cut(pair, "="); {
		case nestedSecret(name, 3):
			out.WriteString(query[done:start])
			out.WriteString(redacted)
			done = end
			found("", unescapeValue(pair))
		case value != "" && (secretName(name) || nestedSecret(value, 3)):
			out.WriteString(query[done : start+len(name)+1])
			out.WriteString(redacted)
			done = end
			found(unescapeValue(name), unescapeValue(value))
		}
		start = end + 1
	}
	if done == 0 {
		return query
	}
	out.WriteString(query[done:])
	return out.String()
}

// nestedSecret reports whether a value is likely to hold secrets, also under so many
// layers of escapes: a token, or parameters of its own, as an encoded URL has, or
// members of JSON. It is as long about it as the value is, whatever that holds.
func nestedSecret(value string, layers int) bool {
	for {
		if !strings.ContainsAny(value, "=%:") && !strings.Contains(value, tokenStart) {
			return false
		}
		if redactPlain(value, func(string, string) {}, false) != value || secretMember(value) {
			return true
		}
		plain := unescapeValue(value)
		if layers == 0 || plain == value {
			return false
		}
		value = plain
		layers--
	}
}

// suspicious reports whether there is something in a text that redactText or
// secretMember may find a secret by.
func suspicious(s string) bool {
	return strings.ContainsAny(s, "=@%") || strings.Contains(s, tokenStart) || strings.Contains(s, `"`) && strings.Contains(s, ":")
}

// tokenStart is what JWTs begin with: base64url of {".
const tokenStart = "eyJ"

// looksLikeToken reports whether s has the form of a JWT (RFC 7519).
func looksLikeToken(s string) bool {
	return len(s) > 20 && strings.HasPrefix(s, tokenStart) && strings.Count(s, ".") >= 2
}

// redactTokens replaces what amid other text has the form of a JWT.
func redactTokens(s string, found foundFunc) string {
	var out strings.Builder
	done := 0
	for at := 0; ; {
		i := strings.Index(s[at:], tokenStart)
		if i < 0 {
			break
		}
		start := at + i
		at = start
		for at < len(s) && tokenByte(s[at]) {
			at++
		}
		if start > 0 && tokenByte(s[start-1]) && s[start-1] != '.' || !looksLikeToken(s[start:at]) {
			continue
		}
		out.WriteString(s[done:start])
		out.WriteString(redacted)
		found("", s[start:at])
		done = at
	}
	if done == 0 {
		return s
	}
	out.WriteString(s[done:])
	return out.String()
}

// tokenByte reports whether a byte can stand in a JWT: in base64url, or between.
func tokenByte(c byte) bool {
	return 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.'
}

// secretMember reports whether a text holds a member of JSON whose name is likely
// to be a secret's, and that has a value; or an argument of GraphQL, of which the
// value is a string.
func secretMember(s string) bool {
	for {
		i := strings.IndexByte(s, ':')
		if i < 0 {
			return false
		}
		name, value := strings.TrimRight(s[:i], " \t\r\n"), strings.TrimLeft(s[i+1:], " \t\r\n")
		s = s[i+1:]
		start := len(name)
		if quoted, ok := strings.CutSuffix(name, `"`); ok {
			name = strings.TrimSuffix(quoted, `\`) // of JSON in a string of JSON
			start = strings.LastIndexByte(name, '"') + 1
		} else if !strings.HasPrefix(value, `"`) && !strings.HasPrefix(value, `\"`) {
			continue
		} else {
			for start > 0 && (tokenByte(name[start-1]) && name[start-1] != '.') {
				start--
			}
		}
		if value != "" && !strings.HasPrefix(value, `""`) && !strings.HasPrefix(value, "null") && secretName(name[start:]) {
			return true
		}
	}
}

// placeName is the name of a parameter as it stands in the open, in the place of a
// credential. What has characters that names do not have, or is longer, can hold
// more than a name.
func placeName(name string) string {
	const longest = 64
	if len(name) > longest {
		return "…"
	}
	for i := range len(name) {
		if c := name[i]; !tokenByte(c) && strings.IndexByte("[]$~!*^|:", c) < 0 {
			return "…"
		}
	}
	return name
}

// within is a place that a parameter names, if it has a name.
func within(place, name string) string {
	if name == "" {
		return place
	}
	return place + ":" + placeName(name)
}

const textSeparators = "?&;#,<>\"'(){}/: \t\r\n"

// redactText replaces secrets in text that may hold URLs or parameters, such
// as a Referer or a Location: userinfo, JWTs, and the values of parameters that are
// likely to be secret, in path, query and fragment.
func redactText(s string, found foundFunc) string { return redactPlain(s, found, true) }

// redactPlain is redactText; nested says whether what is escaped is looked into.
func redactPlain(s string, found foundFunc, nested bool) string {
	if strings.Contains(s, "://") && strings.Contains(s, "@") {
		s = redactUserinfo(s, found)
	}
	if strings.Contains(s, tokenStart) {
		s = redactTokens(s, found)
	}
	if !strings.Contains(s, "=") {
		return s
	}
	var out strings.Builder
	done := 0
	begin := 0  // of the name that is being read
	looked := 0 // up to where values were looked into
	for i := 0; i < len(s); i++ {
		if s[i] != '=' {
			if strings.IndexByte(textSeparators, s[i]) >= 0 {
				begin = i + 1
			}
			continue
		}
		name := s[begin:i]
		first := begin
		begin = i + 1
		end, hides := looked, false
		if i >= looked {
			end = len(s)
			if j := strings.IndexAny(s[i+1:], "&;#,<>\"' \t\r\n"); j >= 0 {
				end = i + 1 + j
			}
			looked = end
			hides = nested && strings.Contains(s[i+1:end], "%") && nestedSecret(s[i+1:end], 2)
		}
		value := s[i+1 : end]
		if value == "" || value == redacted || name == "" && !hides {
			continue
		}
		switch {
		case nested && strings.Contains(name, "%") && nestedSecret(name, 2):
			out.WriteString(s[done:first])
			found("", unescapeValue(s[first:end]))
		case hides, secretName(name):
			out.WriteString(s[done : i+1])
			found(unescapeValue(name), unescapeValue(value))
		default:
			continue
		}
		out.WriteString(redacted)
		done, i = end, end-1
		begin = end
	}
	if done == 0 {
		return s
	}
	out.WriteString(s[done:])
	return out.String()
}

func redactUserinfo(s string, found foundFunc) string {
	var out strings.Builder
	for {
		i := strings.Index(s, "://")
		if i < 0 {
			break
		}
		i += len("://")
		out.WriteString(s[:i])
		s = s[i:]
		authority := s
		if j := strings.IndexAny(s, "/?#\\ ,;<>\"'"); j >= 0 {
			authority = s[:j]
		}
		if at := strings.LastIndexByte(authority, '@'); at >= 0 {
			found("userinfo", unescapePath(authority[:at]))
			out.WriteString(redacted)
			s = s[at:]
		}
	}
	out.WriteString(s)
	return out.String()
}

func unescapePath(s string) string {
	if plain, err := url.PathUnescape(s); err == nil {
		return plain
	}
	return s
}

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
	case "key", "auth", "pwd", "pw", "sig", "sid", "otp", "hmac":
		return true
	}
	return false
}

func secretWord(w string) bool {
	switch w {
	case "code", "key", "auth", "authorization", "authentication", "pwd", "pass", "pw", "sig", "sid", "otp", "totp", "pin", "hmac", "ticket", "cookie":
		return true
	}
	if len(w) < 3 {
		return false
	}
	for _, part := range [...]string{
		"token", "secret", "passw", "passphrase", "apikey", "accesskey", "privatekey", "authkey", "appkey", "subscriptionkey", "sharedkey",
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
		if name, value, ok := strings.Cut(query[start:end], "="); ok && value != "" {
			secret := secretName(name)
			if secret || nestedSecret(value, 3) || looksLikeToken(value) {
				out.WriteString(query[done : start+len(name)+1])
				out.WriteString(redacted)
				done = end
				found(unescapeValue(name), unescapeValue(value))
			}
		} else if !ok && (looksLikeToken(name) || nestedSecret(name, 3)) {
			out.WriteString(query[done:start])
			out.WriteString(redacted)
			done = end
			found("", unescapeValue(name))
		}
		start = end + 1
	}
	if done == 0 {
		return query
	}
	out.WriteString(query[done:])
	return out.String()
}

// nestedSecret reports whether a value holds parameters of its own that are
// likely to be secret, such as an encoded URL with a token.
func nestedSecret(value string, depth int) bool {
	if depth == 0 || !strings.ContainsAny(value, "=%") {
		return false
	}
	none := func(string, string) {}
	if redactText(value, none) != value {
		return true
	}
	plain := unescapeValue(value)
	return plain != value && (looksLikeToken(plain) || nestedSecret(plain, depth-1) || redactText(plain, none) != plain)
}

// looksLikeToken reports whether s has the form of a JWT (RFC 7519).
func looksLikeToken(s string) bool {
	return len(s) > 20 && strings.HasPrefix(s, "eyJ") && strings.Count(s, ".") >= 2
}

const textSeparators = "?&;#,<>\"'(){}/: \t\r\n"

// redactText replaces secrets in text that may hold URLs or parameters, such
// as a Referer or a Location: userinfo, and the values of parameters that are
// likely to be secret, in path, query and fragment.
func redactText(s string, found foundFunc) string {
	if strings.Contains(s, "://") && strings.Contains(s, "@") {
		s = redactUserinfo(s, found)
	}
	if !strings.Contains(s, "=") {
		return s
	}
	var out strings.Builder
	done := 0
	for i := 0; i < len(s); i++ {
		if s[i] != '=' {
			continue
		}
		begin := strings.LastIndexAny(s[done:i], textSeparators) + 1 + done
		end := len(s)
		if j := strings.IndexAny(s[i+1:], "&;#,<>\"' \t\r\n"); j >= 0 {
			end = i + 1 + j
		}
		value := s[i+1 : end]
		if begin == i || value == "" || value == redacted {
			continue
		}
		name := s[begin:i]
		if !secretName(name) && !looksLikeToken(value) && (!strings.Contains(value, "%") || !nestedSecret(value, 2)) {
			continue
		}
		out.WriteString(s[done : i+1])
		out.WriteString(redacted)
		found(unescapeValue(name), unescapeValue(value))
		done, i = end, end-1
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

package interop

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// strictRequest is a request as the one and only reading of RFC 9112 has it.
type strictRequest struct {
	method, target, exchange string
	body                     []byte
	whole                    bool // the body came to its end
}

var (
	strictLine   = regexp.MustCompile("^([!#$%&'*+.^_`|~0-9A-Za-z-]+) (/[^\\x00-\\x20\\x7f#]*|\\*) HTTP/1\\.1$")
	strictHeader = regexp.MustCompile("^([!#$%&'*+.^_`|~0-9A-Za-z-]+): ((?:[^\\x00-\\x1f\\x7f]|\\t)*)$")
)

var errCut = errors.New("cut")

// parseStrict takes requests from b, with nothing between them and nothing that
// could be read in two ways. A last one may be cut.
func parseStrict(b []byte) (list []strictRequest, err error) {
	for len(b) > 0 {
		var r strictRequest
		r, b, err = parseOne(b)
		if r.exchange != "" {
			list = append(list, r)
		}
		if errors.Is(err, errCut) {
			return list, nil
		} else if err != nil {
			return list, err
		}
	}
	return list, nil
}

func cutLine(b []byte) (line string, rest []byte, err error) {
	l, rest, ok := bytes.Cut(b, []byte("\r\n"))
	if !ok {
		return "", nil, errCut
	}
	if bytes.ContainsAny(l, "\r\n\x00") {
		return "", nil, fmt.Errorf("a line holds control characters: %q", l)
	}
	return string(l), rest, nil
}

func parseOne(b []byte) (r strictRequest, rest []byte, err error) {
	line, b, err := cutLine(b)
	if err != nil {
		return r, nil, err
	}
	m := strictLine.FindStringSubmatch(line)
	if m == nil {
		return r, nil, fmt.Errorf("request line %q", line)
	}
	r.method, r.target = m[1], m[2]
	headers := make(map[string][]string)
	for {
		if line, b, err = cutLine(b); err != nil {
			return r, nil, err
		}
		if line == "" {
			break
		}
		h := strictHeader.FindStringSubmatch(line)
		if h == nil || h[2] != strings.Trim(h[2], " \t") {
			return r, nil, fmt.Errorf("header line %q", line)
		}
		name := strings.ToLower(h[1])
		headers[name] = append(headers[name], h[2])
	}
	if len(headers["sealtap-exchange"]) != 1 || len(headers["host"]) > 1 {
		return r, nil, fmt.Errorf("request %s has headers %q", r.target, headers)
	}
	r.exchange = headers["sealtap-exchange"][0]
	b, err = r.parseBody(headers["content-length"], headers["transfer-encoding"], b)
	r.whole = err == nil
	return r, b, err
}

func (r *strictRequest) parseBody(length, coding []string, b []byte) (rest []byte, err error) {
	switch {
	case len(length) > 1 || len(coding) > 1 || len(length)+len(coding) > 1:
		return nil, fmt.Errorf("request %s says its length in two ways: %q, %q", r.target, length, coding)
	case len(length) == 1:
		n, err := strconv.ParseUint(length[0], 10, 32)
		if err != nil || strconv.FormatUint(n, 10) != length[0] {
			return nil, fmt.Errorf("content length %q", length[0])
		}
		if uint64(len(b)) < n {
			return nil, errCut
		}
		r.body = b[:n]
		return b[n:], nil
	case len(coding) == 0:
		return b, nil
	case coding[0] != "chunked":
		return nil, fmt.Errorf("transfer coding %q", coding[0])
	}
	for {
		line, rest, err := cutLine(b)
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseUint(line, 16, 31)
		if err != nil || strconv.FormatUint(n, 16) != line {
			return nil, fmt.Errorf("chunk size %q", line)
		}
		if b = rest; n == 0 {
			break
		}
		if uint64(len(b)) < n+2 {
			return nil, errCut
		}
		if string(b[n:n+2]) != "\r\n" {
			return nil, fmt.Errorf("a chunk of %d bytes ends with %q", n, b[n:n+2])
		}
		r.body = append(r.body, b[:n]...)
		b = b[n+2:]
	}
	for {
		var line string
		if line, b, err = cutLine(b); err != nil || line == "" {
			return b, err
		}
		if h := strictHeader.FindStringSubmatch(line); h == nil {
			return nil, fmt.Errorf("trailer line %q", line)
		}
	}
}

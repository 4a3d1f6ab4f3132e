package http1

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// date is the value of the Date header within one second.
type date struct {
	second int64
	text   string
}

func (s *Server) dateNow() string {
	now := time.Now()
	if d := s.date.Load(); d != nil && d.second == now.Unix() {
		return d.text
	}
	d := &date{now.Unix(), now.UTC().Format(http.TimeFormat)}
	s.date.Store(d)
	return d.text
}

func (w *response) statusLine(status int) {
	if status == http.StatusOK {
		w.out = append(w.out, "HTTP/1.1 200 OK\r\n"...)
		return
	}
	w.out = append(w.out, "HTTP/1.1 "...)
	w.out = strconv.AppendInt(w.out, int64(status), 10)
	w.out = append(w.out, ' ')
	w.out = append(w.out, http.StatusText(status)...)
	w.out = append(w.out, "\r\n"...)
}

// writeHead makes the head of the answer, but for what says how it ends.
func (w *response) writeHead() {
	w.statusLine(w.status)
	h := w.header
	if _, ok := h["Date"]; !ok {
		w.out = append(w.out, "Date: "...)
		w.out = append(w.out, w.c.srv.dateNow()...)
		w.out = append(w.out, "\r\n"...)
	}
	for _, name := range w.sorted() {
		values := h[name]
		switch name {
		case "Content-Length":
			if len(values) > 0 {
				if n, ok := ParseLength(values[0]); ok {
					w.length = n
				}
			}
			continue
		case "Transfer-Encoding":
			continue // that is ours to say
		case "Connection":
			if listed(values, "close") {
				w.close = true
				continue
			}
		case "Trailer":
			splitList(values, w.announce)
		}
		w.field(name, values)
	}
	w.head = len(w.out)
}

func (w *response) announce(name string) bool {
	name = http.CanonicalHeaderKey(name)
	switch name {
	case "Transfer-Encoding", "Content-Length", "Trailer":
	default:
		w.trailers = append(w.trailers, name)
	}
	return true
}

// field writes a header. What would end a line is a space instead, and a name
// that is none is left out.
func (w *response) field(name string, values []string) {
	if len(values) == 0 || !validToken(name) {
		return // a prefixed trailer has a colon in it
	}
	for _, v := range values {
		w.out = append(w.out, name...)
		w.out = append(w.out, ": "...)
		if validValue(v) {
			w.out = append(w.out, v...)
		} else {
			w.out = append(w.out, strings.NewReplacer("\r", " ", "\n", " ", "\x00", " ").Replace(v)...)
		}
		w.out = append(w.out, "\r\n"...)
	}
}

// seal says in the head how the body ends (RFC 9112, section 6.3). total is its
// length, if all of it is held, or else -1.
func (w *response) seal(total int64) {
	w.sealed = true
	trailers := len(w.trailers) > 0 && w.r.ProtoMinor == 1
	switch {
	case w.empty || w.length >= 0:
	case total >= 0 && !trailers:
		w.length = total
	case w.r.ProtoMajor == 1 && w.r.ProtoMinor == 1:
		w.chunked = true
	default:
		w.close = true // the end of the connection is the end of the body
	}
	switching := w.status == http.StatusSwitchingProtocols
	if w.c.srv.closing.Load() || w.doubt != nil && !w.doubt.done.Load() || switching {
		w.close = true
	}
	var room [160]byte
	lines := room[:0]
	if w.length >= 0 && w.status != http.StatusNoContent && w.status >= 200 {
		lines = append(lines, "Content-Length: "...)
		lines = append(strconv.AppendInt(lines, w.length, 10), "\r\n"...)
	}
	if w.chunked {
		lines = append(lines, "Transfer-Encoding: chunked\r\n"...)
	}
	switch {
	case w.close && !switching:
		lines = append(lines, "Connection: close\r\n"...)
	case w.r.ProtoMinor == 0:
		lines = append(lines, "Connection: keep-alive\r\n"...)
	}
	lines = append(lines, "\r\n"...)
	body := len(w.out) - w.head
	if body == 0 {
		w.out = append(w.out, lines...)
		return
	}
	// What is held of the body comes behind these lines.
	if w.chunked {
		lines = append(strconv.AppendInt(lines, int64(body), 16), "\r\n"...)
	}
	w.out = slices.Insert(w.out, w.head, lines...)
	if w.chunked {
		w.out = append(w.out, "\r\n"...)
	}
}

// writeTrailers writes the trailers that were announced, and those whose names
// have http.TrailerPrefix.
func (w *response) writeTrailers() {
	for _, name := range w.trailers {
		if values, ok := w.header[name]; ok && !strings.HasPrefix(name, http.TrailerPrefix) {
			w.field(name, values)
		}
	}
	for _, key := range w.sorted() {
		if name, ok := strings.CutPrefix(key, http.TrailerPrefix); ok {
			switch name = http.CanonicalHeaderKey(name); name {
			case "Transfer-Encoding", "Content-Length", "Trailer":
			default:
				w.field(name, w.header[key])
			}
		}
	}
}

package tlog

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/sealtap/sealtap/serve"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// errNotAcceptable is wrapped where a client excludes every content coding.
var errNotAcceptable = errors.New("no acceptable content coding")

func (l *Log) serveCheckpoint(w http.ResponseWriter, _ *http.Request) error {
	signed, _, ok := l.Checkpoint()
	if !ok {
		return fmt.Errorf("%w: there is no checkpoint yet", ErrNotPublished)
	}
	return serveBytes(w, typeText, cacheNever, signed)
}

// serveTile serves tiles and entry bundles (tlog-tiles, "Merkle Tree" and "Log
// Entries").
func (l *Log) serveTile(w http.ResponseWriter, r *http.Request) error {
	p, err := tiles.ParsePath(strings.TrimPrefix(r.URL.Path, "/"))
	if err != nil {
		return err
	}
	if err := l.checkPath(p); err != nil {
		return err
	}
	if !p.Entries {
		hashes, sum, err := l.tileBytes(r.Context(), p)
		if err != nil {
			return err
		}
		return serveImmutable(w, r, hashes, entityTag(sum, identity), identity)
	}
	w.Header().Set("Vary", "Accept-Encoding")
	coding, ok := negotiate(r.Header.Values("Accept-Encoding"))
	if !ok {
		return fmt.Errorf("%w: bundles come as %s, %s and %s", errNotAcceptable, codingZstd, codingGzip, identity)
	}
	body, tag, err := l.codedBundle(r.Context(), p, coding)
	if err != nil {
		return err
	}
	return serveImmutable(w, r, body, tag, coding)
}

// codedBundle returns the first entries of a bundle in a content coding, with their
// entity tag. Complete bundles that the storage keeps as zstd frames are passed on as
// they are, and those that were compressed lately are at hand.
func (l *Log) codedBundle(ctx context.Context, p tiles.Path, coding string) (body []byte, tag string, err error) {
	keep := coding == codingGzip && p.Width == tiles.Width
	if keep {
		if b, ok := l.gzipped.get(p.N); ok {
			return b.body, b.tag, nil
		}
	}
	if body, err = l.bundleIn(ctx, p, coding); err != nil {
		return nil, "", err
	}
	tag = entityTag(xxhash.Sum64(body), coding)
	if keep {
		l.gzipped.put(&coded{p.N, body, tag})
	}
	return body, tag, nil
}

func (l *Log) bundleIn(ctx context.Context, p tiles.Path, coding string) ([]byte, error) {
	if coding == codingZstd {
		if packed, ok, err := l.packedBundle(ctx, p); ok || err != nil {
			return packed, err
		}
	}
	bundle, err := l.bundleBytes(ctx, p)
	if err != nil {
		return nil, err
	}
	return l.compressor.compress(coding, bundle)
}

// entityTag makes a tag of a digest of the very bytes: a strong validator, and
// another one for each coding, whatever made them (RFC 9110, section 8.8.3.3). It need
// not withstand attacks: nobody trusts it to verify anything.
func entityTag(sum uint64, coding string) string {
	var digits [16]byte
	b := make([]byte, 0, 32)
	b = append(append(b, '"'), hex.AppendEncode(digits[:0], binary.BigEndian.AppendUint64(nil, sum))...)
	if coding != identity {
		b = append(append(b, '-'), coding...)
	}
	return string(append(b, '"'))
}

// serveImmutable serves what never changes (tlog-tiles, "Merkle Tree"), or tells
// the client that what it has is that.
func serveImmutable(w http.ResponseWriter, r *http.Request, body []byte, tag, coding string) error {
	h := w.Header()
	// One piece of memory for the values, keys in their canonical form: these answers
	// are what a log gives most.
	values := &[...]string{tag, cacheForever, typeBytes, coding, ""}
	h["Etag"], h["Cache-Control"] = values[0:1:1], values[1:2:2]
	if fields := r.Header["If-None-Match"]; len(fields) > 0 && noneMatch(fields, tag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h["Content-Type"] = values[2:3:3]
	if coding != identity {
		h["Content-Encoding"] = values[3:4:4]
	}
	values[4] = strconv.Itoa(len(body))
	h["Content-Length"] = values[4:5:5]
	serve.Whole(w, r, body)
	return nil
}

// noneMatch reports whether one of the entity tags of If-None-Match fields is the
// tag, or is *. The comparison is the weak one. (RFC 9110, section 13.1.2)
func noneMatch(fields []string, tag string) bool {
	for _, field := range fields {
		if strings.Trim(field, " \t") == "*" {
			return true
		}
		// No tag of ours holds a comma: elements that one splits are not ours.
		for element := range strings.SplitSeq(field, ",") {
			if strings.TrimPrefix(strings.Trim(element, " \t"), "W/") == tag {
				return true
			}
		}
	}
	return false
}

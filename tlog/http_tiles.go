package tlog

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/cespare/xxhash/v2"

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
		hashes, err := l.tileBytes(r.Context(), p)
		if err != nil {
			return err
		}
		return serveImmutable(w, r, hashes, identity)
	}
	w.Header().Set("Vary", "Accept-Encoding")
	coding, ok := negotiate(r.Header.Values("Accept-Encoding"))
	if !ok {
		return fmt.Errorf("%w: bundles come as %s, %s and %s", errNotAcceptable, codingZstd, codingGzip, identity)
	}
	body, err := l.codedBundle(r.Context(), p, coding)
	if err != nil {
		return err
	}
	return serveImmutable(w, r, body, coding)
}

// codedBundle returns the first entries of a bundle in a content coding. Complete
// bundles that the storage keeps as zstd frames are passed on as they are.
func (l *Log) codedBundle(ctx context.Context, p tiles.Path, coding string) ([]byte, error) {
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

// serveImmutable serves what never changes (tlog-tiles, "Merkle Tree"), or tells
// the client that what it has is that.
func serveImmutable(w http.ResponseWriter, r *http.Request, body []byte, coding string) error {
	// A digest of the very bytes is a strong validator, and another one for each
	// coding, whatever made them (RFC 9110, section 8.8.3.3). It need not withstand
	// attacks: nobody trusts it to verify anything.
	tag := fmt.Sprintf(`"%016x"`, xxhash.Sum64(body))
	if coding != identity {
		tag = fmt.Sprintf(`"%016x-%s"`, xxhash.Sum64(body), coding)
	}
	h := w.Header()
	h.Set("ETag", tag)
	if noneMatch(r.Header.Values("If-None-Match"), tag) {
		h.Set("Cache-Control", cacheForever)
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if coding != identity {
		h.Set("Content-Encoding", coding)
	}
	return serveBytes(w, typeBytes, cacheForever, body)
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

package tlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"

	"github.com/sealtap/sealtap/record"
)

const (
	// maxProofs bounds the proofs of one answer.
	maxProofs = 1000
	// maxProofRequest is enough for as many leaf hashes, whatever the white space.
	maxProofRequest = 256 << 10
)

// proofRequest asks for inclusion proofs of several entries.
type proofRequest struct {
	Indices []uint64 `json:"indices"`
	Leaves  [][]byte `json:"leaves"` // leaf hashes
	// Size is that of the tree. Absent: the published one.
	Size *uint64 `json:"size"`
}

// serveInclusions serves many inclusion proofs, all in one tree: that of the
// checkpoint which was published when the request came.
func (l *Log) serveInclusions(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	req, err := readProofRequest(w, r)
	if err != nil {
		return err
	}
	cp, err := l.head()
	if err != nil {
		return err
	}
	size := cp.Size
	if req.Size != nil {
		size = *req.Size
	}
	if size > cp.Size {
		return fmt.Errorf("%w: size %d, published are %d entries", ErrNotPublished, size, cp.Size)
	}
	indices, err := l.indicesOf(r.Context(), req, size)
	if err != nil {
		return err
	}
	list, err := l.inclusionProofs(r.Context(), indices, size)
	if err != nil {
		return err
	}
	b := make([]byte, 0, 256+len(cp.Note)+len(list)*(128+48*len(list[0].Path)))
	b = appendSize(append(b, '{'), size)
	if size == cp.Size {
		b = append(append(b, `,"checkpoint":`...), l.noteJSON(cp)...)
	}
	b = append(b, `,"proofs":[`...)
	for i, p := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendInclusion(append(b, '{'), p), '}')
	}
	return serveBytes(w, typeJSON, cacheNever, append(b, "]}\n"...))
}

// readProofRequest reads one JSON value that says nothing unknown.
func readProofRequest(w http.ResponseWriter, r *http.Request) (proofRequest, error) {
	var req proofRequest
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != typeJSON {
		w.Header().Set("Accept", typeJSON)
		return req, fmt.Errorf("%w: a request for proofs is %s", errMediaType, typeJSON)
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxProofRequest))
	d.DisallowUnknownFields()
	err := d.Decode(&req)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			err = nil
		} else if err == nil {
			err = errors.New("something follows the JSON object")
		}
	}
	var tooLong *http.MaxBytesError
	var full *LimitError
	switch n := len(req.Indices) + len(req.Leaves); {
	case errors.As(err, &full):
		return req, full
	case errors.As(err, &tooLong):
		return req, &LimitError{Kind: errLongRequest, Limit: limitProofBytes, What: "bytes in a request, or more",
			Got: uint64(max(r.ContentLength, tooLong.Limit+1)), Max: maxProofRequest}
	case err != nil:
		return req, fmt.Errorf(`%w: a request for proofs reads {"indices": [...], "leaves": ["<base64>"...], "size": N}: %w`, errBadRequest, err)
	case n == 0:
		return req, fmt.Errorf("%w: give indices or leaves", errBadRequest)
	case n > maxProofs:
		return req, &LimitError{Kind: errLongRequest, Limit: limitProofs, What: "proofs, to be asked for in parts with one size", Got: uint64(n), Max: maxProofs}
	}
	for i, leaf := range req.Leaves {
		if len(leaf) != len(record.Hash{}) {
			return req, fmt.Errorf("%w: leaf %d has %d bytes, a leaf hash has %d", errBadRequest, i, len(leaf), len(record.Hash{}))
		}
	}
	return req, nil
}

// indicesOf returns the entries that a request names: those by index, then those
// by leaf hash.
func (l *Log) indicesOf(ctx context.Context, req proofRequest, size uint64) ([]uint64, error) {
	if len(req.Leaves) > 0 && l.config.LeafIndex == nil {
		return nil, fmt.Errorf("%w: this log finds entries by index only", errBadRequest)
	}
	for _, leaf := range req.Leaves {
		index, ok, err := l.config.LeafIndex(ctx, record.Hash(leaf))
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("%w: no entry has the leaf hash %x", ErrNotPublished, leaf)
		}
		req.Indices = append(req.Indices, index)
	}
	for _, index := range req.Indices {
		if index >= size {
			return nil, fmt.Errorf("%w: entry %d, in a tree of size %d", ErrNotPublished, index, size)
		}
	}
	return req.Indices, nil
}

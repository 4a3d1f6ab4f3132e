package tlog

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// problem is the body of an error (RFC 9457).
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	// Expected is the next sequence, or the next number of a key change.
	Expected *uint64 `json:"expected,omitempty"`
	Fork     bool    `json:"fork,omitempty"`
	// Index is where the entry stands that a fork contradicts.
	Index *uint64 `json:"index,omitempty"`
	// Unknown and Revoked say why nothing is taken of a producer: its key was never
	// enrolled in this log, or the operator has ended it.
	Unknown bool `json:"unknown_producer,omitempty"`
	Revoked bool `json:"revoked_producer,omitempty"`
	// MinimumIndex is where the entries of a pruned log begin.
	MinimumIndex *uint64 `json:"minimum_index,omitempty"`
	// Successor is the key of the log that goes on from a closed one.
	Successor string `json:"successor,omitempty"`
	// Limit is which limit was hit, as the configuration names it, Got what was
	// compared with Maximum.
	Limit   string `json:"limit,omitempty"`
	Got     uint64 `json:"got,omitempty"`
	Maximum uint64 `json:"maximum,omitempty"`
	// Durable says that the entries are stored, and only their checkpoint is missing.
	Durable bool `json:"durable,omitempty"`

	retryAfter int // seconds, the Retry-After field; 0: none
}

// retryAfter is what those are told who come when the log is busy, in seconds.
const retryAfter = 1

var (
	// errBadRequest is wrapped by errors about the form of a request.
	errBadRequest = errors.New("bad request")
	// errLongRequest is wrapped where a request asks for too much at once.
	errLongRequest = errors.New("request too large")
	// errMediaType is wrapped where a request comes in a form that is not taken.
	errMediaType = errors.New("unsupported media type")
)

// describe maps an error to what the client is told. It is the one place that
// knows status codes.
func describe(err error) problem {
	p := problem{Type: "about:blank", Detail: err.Error()}
	var sequence *SequenceError
	var fork *ForkError
	var pruned *PrunedError
	var closed *ClosedError
	var limit *LimitError
	if errors.As(err, &limit) {
		p.Limit, p.Got, p.Maximum = limit.Limit, limit.Got, limit.Max
	}
	switch {
	case errors.As(err, &closed):
		p.Status, p.Successor = http.StatusGone, closed.Successor.String()
	case errors.As(err, &pruned):
		p.Status, p.Detail, p.MinimumIndex = http.StatusGone, pruned.Error(), &pruned.Minimum
	case errors.Is(err, storage.ErrPruned):
		p.Status = http.StatusGone
	case errors.As(err, &sequence):
		p.Status, p.Expected = http.StatusConflict, &sequence.Expected
	case errors.As(err, &fork):
		p.Status, p.Fork = http.StatusConflict, true
		if fork.Known {
			p.Index = &fork.Index
		}
	case errors.Is(err, record.ErrUnknownProducer), errors.Is(err, record.ErrRevoked), errors.Is(err, ErrSignature), errors.Is(err, record.ErrStatement):
		p.Status = http.StatusForbidden
		p.Unknown, p.Revoked = errors.Is(err, record.ErrUnknownProducer), errors.Is(err, record.ErrRevoked)
	case errors.Is(err, ErrTooLarge), errors.Is(err, errLongRequest):
		p.Status = http.StatusRequestEntityTooLarge
	case errors.Is(err, ErrRate):
		p.Status, p.retryAfter = http.StatusTooManyRequests, max(retryAfter, int(limit.RetryAfter.Seconds()))
	case errors.Is(err, ErrUnpublished):
		p.Status, p.retryAfter, p.Durable = http.StatusServiceUnavailable, retryAfter, true
	case errors.Is(err, ErrRefused), errors.Is(err, errBadRequest), errors.Is(err, tiles.ErrRange):
		p.Status = http.StatusBadRequest
	case errors.Is(err, ErrNotPublished), errors.Is(err, storage.ErrNotFound), errors.Is(err, tiles.ErrPath):
		p.Status = http.StatusNotFound
	case errors.Is(err, errMediaType):
		p.Status = http.StatusUnsupportedMediaType
	case errors.Is(err, errNotAcceptable):
		p.Status = http.StatusNotAcceptable
	case errors.Is(err, ErrBusy), errors.Is(err, ErrUnavailable), errors.Is(err, ErrStopped), errors.Is(err, ErrFollows):
		p.Status, p.retryAfter = http.StatusServiceUnavailable, retryAfter
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		p.Status, p.retryAfter = http.StatusServiceUnavailable, retryAfter
	default:
		// What is behind it is for the operator's log.
		p.Status, p.Detail = http.StatusInternalServerError, "the log could not read its storage"
	}
	p.Title = http.StatusText(p.Status)
	return p
}

// fail answers with an error.
func (l *Log) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := describe(err)
	if p.Status == http.StatusInternalServerError {
		l.config.Logger.Error("a request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	if p.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(p.retryAfter))
	}
	writeProblem(w, p)
}

func writeProblem(w http.ResponseWriter, p problem) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

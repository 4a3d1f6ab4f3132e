package http1

import (
	"errors"
	"net/http"
)

// Error says why a request was refused. Its text never quotes what was received.
type Error struct {
	Status int // of the answer that it deserves
	Reason string
}

func (e *Error) Error() string { return e.Reason }

func bad(reason string) *Error { return &Error{http.StatusBadRequest, reason} }

// MaxTrailers bounds the trailers of a request, and those that it announces.
const MaxTrailers = 100

// Some limits that are no part of the configuration.
const (
	maxTrailerBytes = 4 << 10
	maxChunkLine    = 1 << 10  // a chunk's size with its extensions
	maxChunkExcess  = 16 << 10 // what in a body is neither data nor needed around it
	maxDrain        = 64 << 10 // of a body that the handler did not want
)

// errBodyOver is what a body answers after its handler is gone.
var errBodyOver = http.ErrBodyReadAfterClose

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

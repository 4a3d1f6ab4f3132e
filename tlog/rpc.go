package tlog

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"connectrpc.com/connect"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proto/sealtap/v1/sealtapv1connect"
)

// rpc is sealtap.v1.LogService: what POST /v1/entries does, over gRPC, gRPC-Web
// and Connect.
type rpc struct{ log *Log }

// rpcEndpoint serves the call of LogService, which answers its errors itself.
func (l *Log) rpcEndpoint() endpoint {
	_, h := sealtapv1connect.NewLogServiceHandler(rpc{l},
		connect.WithReadMaxBytes(l.bodyLimit())) // of the message as it is after decompression
	return func(w http.ResponseWriter, r *http.Request) error {
		h.ServeHTTP(w, r)
		return nil
	}
}

// Submit implements [sealtapv1connect.LogServiceHandler].
func (s rpc) Submit(ctx context.Context, req *connect.Request[sealtapv1.SubmitRequest]) (*connect.Response[sealtapv1.SubmitResponse], error) {
	response, err := s.log.Submit(ctx, req.Msg)
	if err != nil {
		return nil, s.log.rpcError(err)
	}
	return connect.NewResponse(response), nil
}

// rpcError says what describe says, in the words of RPCs.
func (l *Log) rpcError(err error) error {
	p := describe(err)
	if p.Status == http.StatusInternalServerError {
		l.config.Logger.Error("a request failed", "method", sealtapv1connect.LogServiceSubmitProcedure, "error", err)
	}
	e := connect.NewError(codeOf(p, err), errors.New(p.Detail))
	detail := &sealtapv1.SubmitError{
		Status: uint32(p.Status), Expected: p.Expected, Fork: p.Fork, Index: p.Index,
		Limit: p.Limit, Got: p.Got, Maximum: p.Maximum, RetryAfterSeconds: uint32(p.retryAfter), Durable: p.Durable,
		MinimumIndex: p.MinimumIndex, Successor: p.Successor,
	}
	if d, derr := connect.NewErrorDetail(detail); derr == nil {
		e.AddDetail(d)
	}
	if p.retryAfter > 0 {
		e.Meta().Set("Retry-After", strconv.Itoa(p.retryAfter))
	}
	return e
}

// codeOf maps the status of an error to the code that gRPC has for it.
func codeOf(p problem, err error) connect.Code {
	switch p.Status {
	case http.StatusBadRequest:
		return connect.CodeInvalidArgument
	case http.StatusForbidden:
		return connect.CodePermissionDenied
	case http.StatusGone:
		return connect.CodeFailedPrecondition
	case http.StatusConflict:
		if p.Fork {
			return connect.CodeAlreadyExists
		}
		return connect.CodeFailedPrecondition
	case http.StatusRequestEntityTooLarge, http.StatusTooManyRequests:
		return connect.CodeResourceExhausted // with a time to come again, or without
	case http.StatusServiceUnavailable:
		if errors.Is(err, context.Canceled) {
			return connect.CodeCanceled
		}
		return connect.CodeUnavailable
	}
	return connect.CodeInternal
}

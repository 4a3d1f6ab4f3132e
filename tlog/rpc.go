package tlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/gzip"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proto/sealtap/v1/sealtapv1connect"
)

// rpc is sealtap.v1.LogService: what POST /v1/entries does, over gRPC, gRPC-Web
// and Connect.
type rpc struct{ log *Log }

// rpcEndpoint serves the call of LogService, which answers its errors itself.
func (l *Log) rpcEndpoint() endpoint {
	_, h := sealtapv1connect.NewLogServiceHandler(rpc{l},
		connect.WithReadMaxBytes(l.bodyLimit()), // of the message as it is after decompression
		connect.WithCompression("gzip", func() connect.Decompressor { return &inflater{log: l} }, func() connect.Compressor { return gzip.NewWriter(io.Discard) }),
		connect.WithCodec(codec{"proto", l.config.MaxBatchEntries, decodeCopy}),
		connect.WithCodec(codec{"json", l.config.MaxBatchEntries, decodeSubmitJSON}))
	return func(w http.ResponseWriter, r *http.Request) error {
		r.Body = rpcBody{r.Body, l}
		h.ServeHTTP(w, r)
		return nil
	}
}

// rpcBody has connect say that a body found no room as [describe] does.
type rpcBody struct {
	io.ReadCloser
	log *Log
}

// Read implements [io.Reader].
func (b rpcBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	return n, b.log.rpcReadError(err)
}

func (l *Log) rpcReadError(err error) error {
	if full := (*LimitError)(nil); errors.As(err, &full) {
		l.metrics.submitted(full)
		return l.rpcError(full)
	}
	return err
}

// inflater is a gzip reader whose output counts as a body does. Connect gives it no
// context: what becomes of the message counts on from Submit.
type inflater struct {
	gzip.Reader
	log *Log
	out *body
}

// Reset implements [connect.Decompressor].
func (f *inflater) Reset(r io.Reader) error {
	f.out.end()
	f.out = &body{of: &f.log.bodies}
	return f.Reader.Reset(r)
}

// Read implements [io.Reader].
func (f *inflater) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if full := f.out.take(int64(n)); full != nil {
		return n, f.log.rpcReadError(full)
	}
	return n, err
}

// Close implements [io.Closer].
func (f *inflater) Close() error {
	f.out.end()
	return f.Reader.Close()
}

// codec reads submissions within the limits of a batch.
type codec struct {
	name   string
	most   int // entries
	decode func(b []byte, most int) (*sealtapv1.SubmitRequest, error)
}

// decodeCopy decodes a submission from a buffer of connect's, which puts the next
// message into it before this one is stored: entries stay where decodeSubmit finds
// them.
func decodeCopy(b []byte, most int) (*sealtapv1.SubmitRequest, error) {
	return decodeSubmit(bytes.Clone(b), most)
}

// Name implements [connect.Codec].
func (c codec) Name() string { return c.name }

// Marshal implements [connect.Codec].
func (c codec) Marshal(message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	switch {
	case !ok:
		return nil, fmt.Errorf("%T is no message", message)
	case c.name == "json":
		return protojson.Marshal(m)
	}
	return proto.Marshal(m)
}

// Unmarshal implements [connect.Codec].
func (c codec) Unmarshal(b []byte, message any) error {
	req, ok := message.(*sealtapv1.SubmitRequest)
	if !ok {
		return fmt.Errorf("%T is no submission", message)
	}
	decoded, err := c.decode(b, c.most)
	if limit := (*LimitError)(nil); errors.As(err, &limit) {
		// An error from here would have another code. Submit refuses one too many.
		req.Items = make([]*sealtapv1.Item, c.most+1)
		return nil
	}
	if err == nil {
		items := decoded.Items // which are not copied
		decoded.Items = nil
		proto.Merge(req, decoded)
		req.Items = items
	}
	return err
}

// Submit implements [sealtapv1connect.LogServiceHandler].
func (s rpc) Submit(ctx context.Context, req *connect.Request[sealtapv1.SubmitRequest]) (*connect.Response[sealtapv1.SubmitResponse], error) {
	// A message that came compressed is larger than the body.
	if b := bodyOf(ctx); b != nil {
		if full := b.take(max(0, int64(messageBytes(req.Msg))-b.taken)); full != nil {
			return nil, s.log.rpcReadError(full)
		}
	}
	response, err := s.log.Submit(ctx, req.Msg)
	if err != nil {
		return nil, s.log.rpcError(err)
	}
	return connect.NewResponse(response), nil
}

// messageBytes is about the memory of a submission.
func messageBytes(req *sealtapv1.SubmitRequest) (n int) {
	for _, it := range req.GetItems() {
		n += len(it.GetEntry()) + len(it.GetOpenings())
	}
	for _, k := range req.GetKeys() {
		n += len(k.GetWrapped())
	}
	return n
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
		MinimumIndex: p.MinimumIndex, Successor: p.Successor, UnknownProducer: p.Unknown, RevokedProducer: p.Revoked,
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
		switch {
		case errors.Is(err, context.Canceled):
			return connect.CodeCanceled
		case errors.Is(err, context.DeadlineExceeded):
			return connect.CodeDeadlineExceeded
		}
		return connect.CodeUnavailable
	}
	return connect.CodeInternal
}

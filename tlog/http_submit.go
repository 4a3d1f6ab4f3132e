package tlog

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// serveSubmit takes a SubmitRequest, as protobuf or as its JSON form.
func (l *Log) serveSubmit(w http.ResponseWriter, r *http.Request) error {
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != typeProto && mediaType != typeJSON {
		w.Header().Set("Accept", typeProto+", "+typeJSON)
		writeProblem(w, problem{Type: "about:blank", Title: http.StatusText(http.StatusUnsupportedMediaType), Status: http.StatusUnsupportedMediaType,
			Detail: "a submission is " + typeProto + " or " + typeJSON})
		return nil
	}
	req, err := l.readSubmission(w, r, mediaType)
	if err != nil {
		return err
	}
	body, err := l.answerSubmission(r.Context(), req, mediaType)
	if err != nil {
		return err
	}
	return serveBytes(w, mediaType, cacheNever, body)
}

// bodyLimit bounds a submission as it comes: base64 and the frame of each item
// come on top of what Submit counts.
func (l *Log) bodyLimit() int {
	return 2*l.config.MaxBatchBytes + 64*l.config.MaxBatchEntries
}

func (l *Log) readSubmission(w http.ResponseWriter, r *http.Request, mediaType string) (*sealtapv1.SubmitRequest, error) {
	body, err := readBody(w, r, int64(l.bodyLimit()))
	var tooLong *http.MaxBytesError
	var full *LimitError
	switch {
	case errors.As(err, &full):
		l.metrics.submitted(full)
		return nil, full
	case errors.As(err, &tooLong):
		return nil, &LimitError{Kind: ErrTooLarge, Limit: limitBatchBytes, What: "bytes in a request, or more",
			Got: uint64(max(r.ContentLength, tooLong.Limit+1)), Max: uint64(l.config.MaxBatchBytes)}
	case err != nil:
		return nil, fmt.Errorf("%w: reading submission: %w", errBadRequest, err)
	}
	decode := decodeSubmit
	if mediaType == typeJSON {
		decode = decodeSubmitJSON
	}
	req, err := decode(body, l.config.MaxBatchEntries)
	var limit *LimitError
	if err != nil && !errors.As(err, &limit) {
		err = fmt.Errorf("%w: not a SubmitRequest: %w", errBadRequest, err)
	}
	return req, err
}

func (l *Log) answerSubmission(ctx context.Context, req *sealtapv1.SubmitRequest, mediaType string) ([]byte, error) {
	response, err := l.Submit(ctx, req)
	if err != nil {
		return nil, err
	}
	var body []byte
	if mediaType == typeProto {
		body, err = proto.Marshal(response)
	} else {
		body, err = protojson.Marshal(response)
	}
	if err != nil {
		return nil, fmt.Errorf("encoding answer: %w", err)
	}
	return body, nil
}

package interop

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/sealtap/sealtap/interop/internal/stack"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

const submitMethod = "sealtap.v1.LogService/Submit"

// up runs a log of a test's own.
func up(t *testing.T, dir string) *stack.Stack {
	t.Helper()
	s, err := stack.Up(world.bin, dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The gRPC of Google submits batches by HTTP/2, and gets the codes that gRPC has
// for errors, with what a program needs to know of them.
func TestGRPC(t *testing.T) {
	s := up(t, filepath.Join(t.TempDir(), "data"))
	defer func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}()
	p := enrol(t, s, "by-grpc")
	conn, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(s.Log, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	submit := func(req *sealtapv1.SubmitRequest) (*sealtapv1.SubmitResponse, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		resp := new(sealtapv1.SubmitResponse)
		return resp, conn.Invoke(ctx, "/"+submitMethod, req, resp)
	}
	start := p.clone()
	batch := p.batch(3, "one")
	resp, err := submit(wantPublished(batch))
	if err != nil {
		t.Fatal(err)
	}
	cp, err := s.Policy.Verify([]byte(resp.GetCheckpoint()))
	if err != nil || len(resp.GetRuns()) != 1 || cp.Size < resp.GetRuns()[0].GetFirstIndex()+4 {
		t.Fatalf("%v under checkpoint %+v: %v", resp.GetRuns(), cp, err)
	}

	stranger, err := keys.Generate("stranger", keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	ahead := p.clone()
	ahead.batch(2, "lost")
	expected := uint64(3)
	for _, c := range []struct {
		name string
		req  *sealtapv1.SubmitRequest
		code codes.Code
		want *sealtapv1.SubmitError
	}{
		{"hole", ahead.batch(1, "x"), codes.FailedPrecondition, &sealtapv1.SubmitError{Status: 409, Expected: &expected}},
		{"fork", start.batch(3, "two"), codes.AlreadyExists, &sealtapv1.SubmitError{Status: 409, Fork: true}},
		{"stranger", newProducer(t, stranger).batch(1, "x"), codes.PermissionDenied, &sealtapv1.SubmitError{Status: 403, UnknownProducer: true}},
		{"no seal", &sealtapv1.SubmitRequest{Items: batch.GetItems()[:1]}, codes.InvalidArgument, &sealtapv1.SubmitError{Status: 400}},
		{"too many", p.clone().batch(4096, "x"), codes.ResourceExhausted, &sealtapv1.SubmitError{Status: 413, Limit: "batch_entries", Got: 4097, Maximum: 4096}},
	} {
		_, err := submit(c.req)
		st := status.Convert(err)
		if st.Code() != c.code || len(st.Details()) != 1 {
			t.Errorf("%s: %v, want %s and a detail", c.name, err, c.code)
			continue
		}
		got, ok := st.Details()[0].(*sealtapv1.SubmitError)
		if !ok || got.GetStatus() != c.want.GetStatus() || got.GetExpected() != c.want.GetExpected() || got.GetFork() != c.want.GetFork() ||
			got.GetLimit() != c.want.GetLimit() || got.GetGot() != c.want.GetGot() || got.GetMaximum() != c.want.GetMaximum() {
			t.Errorf("%s: detail %v, want %v", c.name, st.Details()[0], c.want)
		}
	}
	err = conn.Invoke(t.Context(), "/sealtap.v1.LogService/Delete", batch, new(sealtapv1.SubmitResponse))
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("a call that there is not: %v", err)
	}
	t.Run("grpcurl", func(t *testing.T) { grpcurl(t, s) })
}

// grpcurl knows the service by the schema alone.
func grpcurl(t *testing.T, s *stack.Stack) {
	bin, err := stack.BuildForeign(t.TempDir(), "github.com/fullstorydev/grpcurl/cmd/grpcurl")
	if err != nil {
		skip(t, "grpcurl cannot be built: "+err.Error())
	}
	run := func(req *sealtapv1.SubmitRequest) (stdout, stderr string, code int) {
		t.Helper()
		body, err := protojson.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(bin, "-plaintext", "-max-time", "30", "-import-path", filepath.Join("..", "proto"), "-proto", "sealtap/v1/log_service.proto",
			"-d", "@", strings.TrimPrefix(s.Log, "http://"), submitMethod)
		var out, msg bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(body), &out, &msg
		err = cmd.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return out.String(), msg.String(), cmd.ProcessState.ExitCode()
	}
	p := enrol(t, s, "by-grpcurl")
	stdout, stderr, code := run(wantPublished(p.batch(2, "x")))
	answer := new(sealtapv1.SubmitResponse)
	if err := protojson.Unmarshal([]byte(stdout), answer); err != nil || code != 0 || answer.GetRuns()[0].GetCount() != 3 {
		t.Fatalf("exit %d: %s%s", code, stdout, stderr)
	}
	if _, err := s.Policy.Verify([]byte(answer.GetCheckpoint())); err != nil {
		t.Error(err)
	}
	p.batch(1, "lost")
	_, stderr, code = run(p.batch(1, "x"))
	// It exits with 64 and the code.
	if code != 64+int(codes.FailedPrecondition) || !strings.Contains(stderr, "FailedPrecondition") || !strings.Contains(stderr, `"expected": "2"`) {
		t.Errorf("a hole: exit %d: %s", code, stderr)
	}
}

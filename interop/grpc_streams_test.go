package interop

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/sealtap/sealtap/interop/internal/stack"
)

// shop is a service with all four kinds of calls. Each tells the exchange that it is
// part of in its header.
type shop struct{}

// tell sends the exchange of a call, and a trailer.
func tell(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	return errors.Join(grpc.SetHeader(ctx, metadata.Pairs("told", strings.Join(md.Get("sealtap-exchange"), ","))), grpc.SetTrailer(ctx, metadata.Pairs("sum", "7")))
}

func shopService() *grpc.ServiceDesc {
	stream := func(name string, client, server bool, f func(s grpc.ServerStream) error) grpc.StreamDesc {
		return grpc.StreamDesc{StreamName: name, ClientStreams: client, ServerStreams: server, Handler: func(_ any, s grpc.ServerStream) error {
			if err := tell(s.Context()); err != nil {
				return err
			}
			return f(s)
		}}
	}
	return &grpc.ServiceDesc{ServiceName: "shop.v1.Orders", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Get", Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.StringValue)
			if err := errors.Join(tell(ctx), dec(in)); err != nil {
				return nil, err
			}
			if in.GetValue() == "missing" {
				return nil, status.Error(codes.NotFound, "no such order")
			}
			return in, nil
		}}},
		Streams: []grpc.StreamDesc{
			stream("Watch", false, true, func(s grpc.ServerStream) error {
				in := new(wrapperspb.StringValue)
				if err := s.RecvMsg(in); err != nil {
					return err
				}
				for range 5 {
					if err := s.SendMsg(in); err != nil {
						return err
					}
				}
				return nil
			}),
			stream("Upload", true, false, func(s grpc.ServerStream) error {
				all := new(wrapperspb.StringValue)
				for {
					in := new(wrapperspb.StringValue)
					if err := s.RecvMsg(in); errors.Is(err, io.EOF) {
						return s.SendMsg(all)
					} else if err != nil {
						return err
					}
					all.Value += in.GetValue()
				}
			}),
			stream("Chat", true, true, func(s grpc.ServerStream) error {
				for {
					in := new(wrapperspb.StringValue)
					if err := s.RecvMsg(in); errors.Is(err, io.EOF) {
						return nil
					} else if err != nil {
						return err
					}
					if err := s.SendMsg(in); err != nil {
						return err
					}
				}
			}),
		}}
}

// grpc-go speaks to grpc-go through the proxy: all four kinds of calls, over h2c and
// over TLS on both sides. The messages arrive as they come, and the records count
// them.
func TestGRPCStreams(t *testing.T) {
	t.Parallel()
	c := newCertificate(t)
	cert, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, target, more string
		server             credentials.TransportCredentials
		client             credentials.TransportCredentials
	}{
		{"h2c", "h2c://%s", "", insecure.NewCredentials(), insecure.NewCredentials()},
		{"TLS", "https://%s", fmt.Sprintf("  tls: {cert: %q, key: %q}\n", c.cert, c.key),
			credentials.NewServerTLSFromCert(&cert), credentials.NewTLS(c.client())},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			srv := grpc.NewServer(grpc.Creds(tc.server))
			srv.RegisterService(shopService(), shop{})
			go func() { _ = srv.Serve(l) }()
			defer srv.Stop()
			more := fmt.Sprintf("  upstreams:\n    - name: orders\n      targets: [%q]\n", fmt.Sprintf(tc.target, l.Addr()))
			if tc.more != "" {
				more += fmt.Sprintf("      tls: {ca: %q}\n", c.cert)
			}
			s := upProxy(t, "", tc.more+more+"  routes: [{service: orders, upstream: orders}]\n")
			conn, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(s.Proxy, "http://"), grpc.WithTransportCredentials(tc.client))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			calls := make([][]answered, 8) // at once, over one connection
			var wg sync.WaitGroup
			for i := range calls {
				wg.Go(func() { calls[i] = callAll(t, conn) })
			}
			wg.Wait()
			for _, c := range slices.Concat(calls...) {
				c.check(t, s)
			}
			audit(t, s)
		})
	}
}

// answered is a call that was answered as it should.
type answered struct {
	method, exchange string
	up, down         int // messages
}

// check compares the call with its records.
func (a answered) check(t *testing.T, s *stack.Stack) {
	t.Helper()
	req, res := recorded(t, s, a.exchange)
	if req.Operation.Protocol != "grpc" || req.Operation.Name != "shop.v1.Orders/"+a.method || req.Protocol != "HTTP/2.0" ||
		res.Response.MessagesUp != a.up || res.Response.MessagesDown != a.down || res.Response.Outcome != "complete" || res.Response.ReceivedSHA256 != res.Response.SentSHA256 {
		t.Errorf("%s: want %d messages up and %d down: %+v, %+v", a.method, a.up, a.down, req, res)
	}
}

// callAll makes a call of every kind.
func callAll(t *testing.T, conn *grpc.ClientConn) (list []answered) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	value := wrapperspb.String("order 7")
	for _, call := range []struct {
		method   string
		code     codes.Code
		up, down int
		do       func(st grpc.ClientStream) (got string, err error)
		desc     grpc.StreamDesc
		want     string
	}{
		{"Get", codes.OK, 1, 1, func(st grpc.ClientStream) (string, error) { return sendReceive(st, value) }, grpc.StreamDesc{}, "order 7"},
		{"Get", codes.NotFound, 1, 0, func(st grpc.ClientStream) (string, error) { return sendReceive(st, wrapperspb.String("missing")) }, grpc.StreamDesc{}, ""},
		{"Watch", codes.OK, 1, 5, func(st grpc.ClientStream) (string, error) { return sendReceive(st, value) }, grpc.StreamDesc{ServerStreams: true}, strings.Repeat("order 7", 5)},
		{"Upload", codes.OK, 3, 1, func(st grpc.ClientStream) (string, error) { return sendReceive(st, value, value, value) }, grpc.StreamDesc{ClientStreams: true}, strings.Repeat("order 7", 3)},
		{"Chat", codes.OK, 4, 4, chat, grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "0123"},
	} {
		st, err := conn.NewStream(ctx, &call.desc, "/shop.v1.Orders/"+call.method)
		if err != nil {
			t.Errorf("%s: %v", call.method, err)
			return list
		}
		got, err := call.do(st)
		if status.Code(err) != call.code || got != call.want {
			t.Errorf("%s: %q, %v; want %q, %v", call.method, got, err, call.want, call.code)
			continue
		}
		md, _ := st.Header()
		exchange := strings.Join(md.Get("sealtap-exchange"), ",")
		if exchange == "" { // trailers only
			exchange = strings.Join(st.Trailer().Get("sealtap-exchange"), ",")
		}
		if told := md.Get("told"); len(told) != 1 || told[0] != exchange || len(st.Trailer().Get("sum")) != 1 {
			t.Errorf("%s: header %v, trailer %v", call.method, md, st.Trailer())
		}
		list = append(list, answered{call.method, exchange, call.up, call.down})
	}
	return list
}

// sendReceive sends messages, and then takes all that come.
func sendReceive(st grpc.ClientStream, list ...*wrapperspb.StringValue) (got string, err error) {
	for _, m := range list {
		if err := st.SendMsg(m); err != nil {
			return "", err
		}
	}
	if err := st.CloseSend(); err != nil {
		return "", err
	}
	for {
		m := new(wrapperspb.StringValue)
		if err := st.RecvMsg(m); errors.Is(err, io.EOF) {
			return got, nil
		} else if err != nil {
			return got, err
		}
		got += m.GetValue()
	}
}

// chat sends a message when the one before has come back: none is held up.
func chat(st grpc.ClientStream) (got string, err error) {
	for i := range 4 {
		m := wrapperspb.String(fmt.Sprint(i))
		if err := st.SendMsg(m); err != nil {
			return got, err
		}
		if err := st.RecvMsg(m); err != nil {
			return got, err
		}
		got += m.GetValue()
	}
	rest, err := sendReceive(st)
	return got + rest, err
}

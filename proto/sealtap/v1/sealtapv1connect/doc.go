// Package sealtapv1connect is the generated Go of LogService, server and client,
// over gRPC, gRPC-Web and Connect. It stands apart from the messages, so that
// those who only read a log do not depend on it.
package sealtapv1connect

package meaning

import "strings"

// grpc returns the operation of a call of gRPC, gRPC-Web or Connect
// (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, PROTOCOL-WEB.md
// beside it, https://connectrpc.com/docs/protocol). A unary call of Connect has
// the media type of its message, so its path has to be one of a method too.
func grpc(r *Request, media medium) (Operation, bool) {
	certain := media == mediaGRPC || media == mediaConnect
	if !certain && !unaryConnect(r) {
		return Operation{}, false
	}
	name := rpcMethod(r.Path)
	if name == "" && strings.IndexByte(r.Path, '%') >= 0 && rpcMethod(unescape(r.Path)) != "" {
		name = Ambiguous // some servers resolve escapes, others do not
	}
	if r.PathHidden {
		return Operation{Protocol: GRPC}, certain || name != ""
	}
	return Operation{Protocol: GRPC, Name: fact(name)}, certain || name != ""
}

func unaryConnect(r *Request) bool {
	if len(r.Header["Connect-Protocol-Version"]) > 0 {
		return true
	}
	if r.Method != "GET" || !strings.Contains(r.Query, "connect=v1") {
		return false
	}
	v, n := parameter(r.Query, "connect")
	return n == 1 && v == "v1"
}

// rpcMethod returns the last two segments of a path, for servers can have a
// prefix, if they are the names of a service and a method; else it returns "".
func rpcMethod(path string) string {
	i := strings.LastIndexByte(path, '/')
	if i < 1 || !identifier(path[i+1:]) {
		return ""
	}
	start := strings.LastIndexByte(path[:i], '/') + 1
	for part := range strings.SplitSeq(path[start:i], ".") {
		if !identifier(part) {
			return ""
		}
	}
	return path[start:]
}

// identifier reports whether s is one of Protocol Buffers, or a name of GraphQL:
// no service, method or operation is called otherwise.
func identifier(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '_' && !('a' <= c|0x20 && c|0x20 <= 'z') && (i == 0 || c < '0' || '9' < c) {
			return false
		}
	}
	return s != ""
}

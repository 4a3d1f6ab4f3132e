package main

import (
	"github.com/sealtap/sealtap/record"
)

// asks is the path of a request, with its operation where that says more and there
// is room for it: a path of gRPC is the operation.
func (r row) asks(narrow bool) string {
	path, op := printable(r.target()), r.operation()
	if op == "" || "/"+op == r.target() {
		return path
	}
	const room = 36 // beside the other columns, in 80
	if narrow && len(path)+len(op) > room {
		return path
	}
	return path + "  " + printable(op)
}

func (r row) operation() string {
	return record.OperationText(r.entry.Record.GetRequest().GetOperation())
}

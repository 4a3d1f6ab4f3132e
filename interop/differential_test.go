package interop

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/proxy/http1"
)

// understand takes down a request as net/http represents it.
func (r *reader) understand(q *http.Request) {
	body, err := io.ReadAll(q.Body)
	r.add(understood{q.Method, q.RequestURI, q.Host, string(body), err == nil, q.Close})
}

// newFront runs the HTTP/1 front of the proxy until the test ends.
func newFront(t *testing.T) *reader {
	r := &reader{network: "tcp"}
	srv := http1.New(http1.Config{
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { r.understand(q) }),
		Refused: func(w http.ResponseWriter, _ *http.Request, e *http1.Error) { w.WriteHeader(e.Status) },
	})
	r.serve(t, srv.Serve, srv.Close)
	return r
}

// newStandard runs the server of net/http until the test ends.
func newStandard(t *testing.T) *reader {
	r := &reader{network: "tcp"}
	srv := &http.Server{ReadHeaderTimeout: time.Minute, DisableGeneralOptionsHandler: true,
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { r.understand(q) })}
	r.serve(t, srv.Serve, srv.Close)
	return r
}

func (r *reader) serve(t *testing.T, serve func(net.Listener) error, stop func() error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- serve(l) }()
	t.Cleanup(func() {
		_ = stop()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// TestDifferential sends the same bytes to the front of the proxy and to another
// server. Whatever the front takes, the other one takes as the same request, up to
// where the next one begins; or it refuses it.
func TestDifferential(t *testing.T) {
	for _, other := range []struct {
		name  string
		start func(*testing.T) *reader
		same  func(a, b understood) bool
		least int // percent of what the front takes that the other has to take
	}{{"net/http", newStandard, sameStandard, 90}, {"nginx", newNginx, sameNginx, 70}} {
		t.Run(other.name, func(t *testing.T) {
			front, they := newFront(t), other.start(t)
			n := 6000
			if testing.Short() {
				n = 500
			}
			taken, alike := 0, 0
			for _, input := range inputs(t, n) {
				list, answers := front.read(t, input)
				if len(list) == 0 {
					continue
				}
				for _, u := range list {
					if u.whole {
						taken++
					}
					if !u.whole || u.last {
						break
					}
				}
				theirs, said := they.read(t, input)
				if alike += compare(t, other.name, input, list, theirs, gaveUp(answers), gaveUp(said), other.same); t.Failed() {
					return
				}
			}
			t.Logf("%d requests were taken, and %d understood alike", taken, alike)
			if taken < n/4 || alike < taken*other.least/100 {
				t.Error("these are too few: the inputs are badly chosen, or a server refuses everything")
			}
		})
	}
}

// compare returns how many requests were understood alike.
func compare(t *testing.T, name string, input []byte, ours, theirs []understood, weStopped, theyStopped bool, same func(a, b understood) bool) (alike int) {
	t.Helper()
	for i, u := range ours {
		if !u.whole {
			return alike // the front has refused it while it read the body, or there was no end
		}
		if i >= len(theirs) {
			if !theyStopped {
				t.Errorf("%s understands %d requests, the front %d: %q\n%+v\n%+v", name, len(theirs), len(ours), input, ours, theirs)
			}
			return alike
		}
		if !theirs[i].whole && theyStopped {
			return alike
		}
		if !same(u, theirs[i]) {
			t.Errorf("%s: request %d of %q\nfront  %+v\nothers %+v", name, i, input, u, theirs[i])
			return alike
		}
		alike++
		if u.last {
			return alike // what follows passes by the front unread
		}
	}
	if len(theirs) > len(ours) && !weStopped {
		t.Errorf("%s understands %d requests, the front %d: %q\n%+v\n%+v", name, len(theirs), len(ours), input, ours, theirs)
	}
	return alike
}

func sameStandard(a, b understood) bool {
	return a.method == b.method && a.target == b.target && a.host == b.host && a.body == b.body
}

// sameNginx compares what nginx has variables for: the path of a target in absolute
// form, the host in small letters and without its port.
func sameNginx(a, b understood) bool {
	target := a.target
	if _, rest, ok := strings.Cut(target, "://"); ok && !strings.HasPrefix(target, "/") {
		i := strings.IndexAny(rest, "/?")
		if i < 0 {
			i = len(rest)
		}
		if target = rest[i:]; !strings.HasPrefix(target, "/") {
			target = "/" + target
		}
	}
	host := strings.ToLower(a.host)
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host = host[:i]
	}
	host = strings.TrimSuffix(host, ".")
	return a.method == b.method && target == b.target && (host == b.host || a.host == "") && a.body == b.body
}

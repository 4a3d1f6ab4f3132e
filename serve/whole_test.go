package serve

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// startWhole serves bodies of the length that the path says.
func startWhole(t *testing.T) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- HTTP(ctx, ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			w.Header().Set("Content-Length", strconv.Itoa(n))
			Whole(w, r, content(n))
		}))
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + ln.Addr().String()
}

func content(n int) []byte { return bytes.Repeat([]byte{byte(n), 'x'}, n/2+1)[:n] }

func TestWholeBodies(t *testing.T) {
	url := startWhole(t)
	two := &http.Transport{Protocols: new(http.Protocols)}
	two.Protocols.SetUnencryptedHTTP2(true)
	one := new(http.Transport)
	defer two.CloseIdleConnections()
	defer one.CloseIdleConnections()
	for name, transport := range map[string]*http.Transport{"HTTP/1.1": one, "HTTP/2": two} {
		for _, n := range []int{0, 1, 2000, 3800, 4000, 4096, 6000, 8192, 11 << 10, 11<<10 + 1, 12 << 10, 100_000} {
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodGet} {
				req, err := http.NewRequest(method, fmt.Sprint(url, "/", n), nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := transport.RoundTrip(req)
				if err != nil {
					t.Fatalf("%s %s of %d: %v", name, method, n, err)
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				want := content(n)
				if method == http.MethodHead {
					want = nil
				}
				if err != nil || !bytes.Equal(body, want) || resp.ContentLength != int64(n) || len(resp.TransferEncoding) > 0 {
					t.Errorf("%s %s of %d: %d bytes, length %d, %v, %v", name, method, n, len(body), resp.ContentLength, resp.TransferEncoding, err)
				}
			}
		}
	}
}

// TestWholeGoesAtOnce counts the pieces in which answers come.
func TestWholeGoesAtOnce(t *testing.T) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(startWhole(t), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	segments := func() (n int) {
		err := raw.Control(func(fd uintptr) {
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			if err != nil {
				t.Fatal(err)
			}
			n = int(info.Data_segs_in)
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const rounds = 20
	for _, n := range []int{100, 6000, 8192} {
		before := segments()
		for range rounds {
			if _, err := fmt.Fprintf(conn, "GET /%d HTTP/1.1\r\nHost: x\r\n\r\n", n); err != nil {
				t.Fatal(err)
			}
			// The headers end where the body begins, whose bytes stand in no header.
			var got []byte
			for buf := make([]byte, 64<<10); !bytes.HasSuffix(got, append([]byte("\r\n\r\n"), content(n)...)); {
				k, err := conn.Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, buf[:k]...)
			}
		}
		if pieces := segments() - before; pieces > rounds+rounds/4 {
			t.Errorf("%d answers of %d bytes came in %d pieces", rounds, n, pieces)
		}
	}
}

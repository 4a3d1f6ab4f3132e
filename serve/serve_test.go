package serve

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestStopsAtOnceButFinishes(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	entered, leave := make(chan bool), make(chan bool)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- HTTP(ctx, ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(entered)
			<-leave
			io.WriteString(w, "finished")
		}))
	}()
	idle, err := net.Dial("tcp", ln.Addr().String()) // says nothing, ever
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	answer := make(chan string, 1)
	go func() {
		resp, err := http.Get("http://" + ln.Addr().String())
		if err != nil {
			answer <- err.Error()
			return
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		answer <- string(b)
	}()
	<-entered
	cancel()
	// The silent connection is closed by the server, well before any time limit.
	idle.SetReadDeadline(time.Now().Add(3 * time.Second))
	if _, err := idle.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the silent connection stays open: %v", err)
	}
	close(leave)
	if got := <-answer; got != "finished" {
		t.Errorf("the request under way got %q", got)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func isTimeout(err error) bool {
	n, ok := err.(net.Error)
	return ok && n.Timeout()
}

// TestHTTP2 speaks HTTP/2 without TLS. A connection that is kept for later does
// not keep the server from stopping.
func TestHTTP2(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- HTTP(ctx, ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }))
	}()
	two := &http.Transport{Protocols: new(http.Protocols)}
	two.Protocols.SetUnencryptedHTTP2(true)
	defer two.CloseIdleConnections()
	for want, client := range map[string]*http.Client{"HTTP/2.0": {Transport: two}, "HTTP/1.1": http.DefaultClient} {
		resp, err := client.Get("http://" + ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(b) != want {
			t.Errorf("%q, %v, want %s", b, err, want)
		}
	}
	start := time.Now()
	cancel()
	if err := <-done; err != nil || time.Since(start) >= grace {
		t.Errorf("stopped after %s: %v", time.Since(start), err)
	}
}

func TestMux(t *testing.T) {
	inner, outer := NewMux(), NewMux()
	say := func(text string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, text+r.PathValue("x")) }
	}
	inner.HandleFunc("/a/{x}", say("inner "))
	inner.HandleFunc("/", say("inner rest"))
	outer.HandleFunc("/", say("outer rest"))
	outer.Mount(inner)
	if got := outer.Routes(); len(got) != 2 || got[0] != "/" || got[1] != "/a/{x}" {
		t.Errorf("routes %q", got)
	}
	for path, want := range map[string]string{"/a/1": "inner 1", "/b": "outer rest"} {
		w := httptest.NewRecorder()
		outer.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Body.String() != want {
			t.Errorf("%s: %q, want %q", path, w.Body, want)
		}
	}
}

package interop

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sealtap/sealtap/interop/internal/stack"
)

// h2specDiffers are the cases of h2spec in which Go's net/http, which reads HTTP/2
// for the proxy, does something else than h2spec wants, and why that is no fault.
var h2specDiffers = map[string]string{
	"http2/3.5: Sends invalid connection preface":                                                                   "the port takes HTTP/1 too, and answers 400 before it closes",
	"http2/4.2: Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE":                          "the frame has 20 kB, and the server has announced that it takes 1 MiB",
	"http2/6.5.3: Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE":                                            "a setting that comes twice in a frame ends the connection, against abuse",
	"http2/8.1.2.2: Sends a HEADERS frame that contains the connection-specific header field":                       "it is answered 400, as RFC 9113, section 8.1.1, allows",
	"http2/8.1.2.2: Sends a HEADERS frame that contains the TE header field with any value other than \"trailers\"": "it is answered 400, as RFC 9113, section 8.1.1, allows",
}

// h2spec finds nothing at the front of a proxy that is not so in net/http as well,
// over TLS and without.
func TestH2Spec(t *testing.T) {
	t.Parallel()
	bin, err := stack.BuildForeign(t.TempDir(), "github.com/summerwind/h2spec/cmd/h2spec")
	if err != nil {
		skip(t, "h2spec cannot be built: "+err.Error())
	}
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	upstream := httptest.NewServer(hello)
	defer upstream.Close()
	c := newCertificate(t)
	for _, tc := range []struct {
		name, more string
		flags      []string
	}{
		{"h2c", "", nil},
		{"TLS", fmt.Sprintf("  tls: {cert: %q, key: %q}\n", c.cert, c.key), []string{"--tls", "--insecure"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := upProxy(t, upstream.URL, tc.more)
			var ours, theirs map[string]string
			var wg sync.WaitGroup
			wg.Go(func() { ours = h2spec(t, bin, strings.TrimPrefix(s.Proxy, "http://"), tc.flags) })
			wg.Go(func() { theirs = h2spec(t, bin, standardServer(t, hello, tc.flags != nil), tc.flags) })
			wg.Wait()
			for name, what := range ours {
				if h2specDiffers[name] == "" {
					t.Errorf("%s: %s", name, what)
				}
				if theirs[name] == "" {
					t.Errorf("%s: net/http passes", name)
				}
			}
			t.Logf("%d cases differ here, %d in net/http", len(ours), len(theirs))
			// The proxy has survived it all, and so have its records.
			client := &http.Client{Transport: &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: c.client()}}
			client.Transport.(*http.Transport).Protocols.SetHTTP2(true)
			client.Transport.(*http.Transport).Protocols.SetUnencryptedHTTP2(true)
			defer client.CloseIdleConnections()
			u := s.Proxy + "/"
			if tc.flags != nil {
				u = strings.Replace(u, "http:", "https:", 1)
			}
			res, err := client.Get(u)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			if _, r := recorded(t, s, res.Header.Get("Sealtap-Exchange")); r.Response.SentSHA256 != digest(body) || res.ProtoMajor != 2 {
				t.Errorf("%s: recorded %+v", res.Proto, r)
			}
			audit(t, s)
		})
	}
}

// standardServer runs the server of the standard library.
func standardServer(t *testing.T, h http.Handler, secure bool) (addr string) {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.EnableHTTP2 = true
	if secure {
		srv.StartTLS()
	} else {
		srv.Config.Protocols = new(http.Protocols)
		srv.Config.Protocols.SetHTTP1(true)
		srv.Config.Protocols.SetUnencryptedHTTP2(true)
		srv.Start()
	}
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Error(err)
		return ""
	}
	return u.Host
}

// h2spec runs all cases against a server, and returns what failed. What h2spec says
// of a slow machine it says once only: the sections are run again.
func h2spec(t *testing.T, bin, addr string, flags []string) map[string]string {
	failed, ran := h2specRun(t, bin, addr, append(flags, "--timeout", "3"))
	if ran < 140 {
		t.Errorf("h2spec has run %d cases only", ran)
	}
	again := append(append([]string{}, flags...), "--timeout", "6")
	for name := range failed {
		if section, _, _ := strings.Cut(name, ":"); h2specDiffers[name] == "" {
			again = append(again, section)
		}
	}
	if len(again) == len(flags)+2 {
		return failed
	}
	second, _ := h2specRun(t, bin, addr, again)
	for name := range failed {
		if h2specDiffers[name] == "" && second[name] == "" {
			delete(failed, name)
		}
	}
	return failed
}

func h2specRun(t *testing.T, bin, addr string, args []string) (failed map[string]string, ran int) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Error(err)
		return nil, 0
	}
	report := filepath.Join(t.TempDir(), "report.xml")
	out, err := exec.Command(bin, append([]string{"--host", host, "--port", port, "--junit-report", report}, args...)...).CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Error(err)
	}
	text, err := os.ReadFile(report)
	if err != nil {
		t.Errorf("%v: %s", err, out)
		return nil, 0
	}
	var suites struct {
		Suites []struct {
			Cases []struct {
				Section string  `xml:"package,attr"`
				Title   string  `xml:"classname,attr"`
				Error   *string `xml:"error"`
				Failure *string `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.NewDecoder(bytes.NewReader(text)).Decode(&suites); err != nil {
		t.Error(err)
	}
	failed = make(map[string]string)
	for _, suite := range suites.Suites {
		for _, c := range suite.Cases {
			ran++
			for _, what := range []*string{c.Error, c.Failure} {
				if what != nil && !closedByReset(*what) {
					failed[c.Section+": "+c.Title] = strings.ReplaceAll(strings.TrimSpace(*what), "\n", "; ")
				}
			}
		}
	}
	return failed, ran
}

// closedByReset reports whether h2spec wanted the connection closed, and it was,
// with bytes of the client unread: TCP says then that it was reset.
func closedByReset(what string) bool {
	return strings.Contains(what, "Connection closed\n") && (strings.Contains(what, "connection reset by peer") || strings.Contains(what, "broken pipe"))
}

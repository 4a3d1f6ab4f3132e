package proxy

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

// What a client writes behind the % of an address is text of its own, and gets into
// no record as where it comes from; nor is it taken for this machine.
func TestZoneIsNoSource(t *testing.T) {
	up := backend(t, func(http.ResponseWriter, *http.Request) {})
	s := start(t, up, func(c *Config) { c.TrustedPeers = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	for _, from := range []string{"::1%any text", "fe80::1%alice", "[fe80::1%bob]:99"} {
		req := request(t, "GET", s.url("/"), nil)
		req.Header.Set("X-Forwarded-For", from)
		get(t, client(t), req)
		q, _ := s.rec.last(t)
		if src := q.opening(t, "source"); !strings.HasPrefix(src, "127.0.0.1:") {
			t.Errorf("%q: source %q", from, src)
		}
	}
}
